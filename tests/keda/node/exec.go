package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

type streamServer = streaming.Server

func (r *Runtime) startStreaming() error {
	config := streaming.DefaultConfig
	config.Addr = "127.0.0.1:10350"
	server, err := streaming.NewServer(config, streams{r})
	if err != nil {
		return err
	}
	r.stream = server
	go func() {
		if err := server.Start(true); err != nil {
			panic(fmt.Sprintf("the streaming server of the node ended: %v", err))
		}
	}()
	return nil
}

// enter starts a program in a running container, in all its namespaces but that of processes.
func (r *Runtime) enter(id string, args []string, stdin io.Reader, stdout, stderr io.Writer) (*exec.Cmd, error) {
	r.mu.Lock()
	in, err := r.process(id)
	if err != nil {
		r.mu.Unlock()
		return nil, err
	}
	if in.state() != cri.ContainerState_CONTAINER_RUNNING {
		r.mu.Unlock()
		return nil, fmt.Errorf("container %q is not running", id)
	}
	spec := in.spec(r)
	spec.Mount = fmt.Sprintf("/proc/%d/ns/mnt", in.command.Process.Pid)
	spec.Args = args
	r.mu.Unlock()
	return r.start(spec, 0, stdin, stdout, stderr)
}

// ExecSync runs a program in a container, for probes and hooks.
func (r *Runtime) ExecSync(ctx context.Context, request *cri.ExecSyncRequest) (*cri.ExecSyncResponse, error) {
	var stdout, stderr bytes.Buffer
	command, err := r.enter(request.ContainerId, request.Cmd, nil, &stdout, &stderr)
	if err != nil {
		return nil, err
	}
	if request.Timeout > 0 {
		defer time.AfterFunc(time.Duration(request.Timeout)*time.Second, func() { _ = command.Process.Kill() }).Stop()
	}
	code := exitCode(command.Wait())
	return &cri.ExecSyncResponse{Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), ExitCode: code}, nil
}

// Exec says where `kubectl exec` finds its streams.
func (r *Runtime) Exec(_ context.Context, request *cri.ExecRequest) (*cri.ExecResponse, error) {
	return r.stream.GetExec(request)
}

type streams struct{ *Runtime }

// Exec runs a program for `kubectl exec`.
func (s streams) Exec(ctx context.Context, id string, args []string, stdin io.Reader, stdout, stderr io.WriteCloser,
	_ bool, _ <-chan remotecommand.TerminalSize,
) error {
	var out, err io.Writer = io.Discard, io.Discard
	if stdout != nil {
		out = stdout
	}
	if stderr != nil {
		err = stderr
	}
	command, failed := s.enter(id, args, stdin, out, err)
	if failed != nil {
		return failed
	}
	stop := context.AfterFunc(ctx, func() { _ = command.Process.Signal(syscall.SIGKILL) })
	defer stop()
	if code := exitCode(command.Wait()); code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("exit code %d", code), Code: int(code)}
	}
	return nil
}

// Attach is not there: nothing here needs it.
func (s streams) Attach(context.Context, string, io.Reader, io.WriteCloser, io.WriteCloser, bool, <-chan remotecommand.TerminalSize) error {
	return errors.New("attach is not supported by this node")
}

// PortForward is not there: the pods' addresses can be reached.
func (s streams) PortForward(context.Context, string, int32, io.ReadWriteCloser) error {
	return errors.New("port-forward is not supported by this node")
}
