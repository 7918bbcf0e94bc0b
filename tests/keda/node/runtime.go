// Package node is the container runtime of the one node: what containerd is elsewhere.
//
// The real kubelet decides what runs, mounts volumes, probes, stops and reports. This runtime does
// what the kubelet asks over the Container Runtime Interface: a pod is a network namespace with an
// address on the bridge, a container is a local process in namespaces of its own. Resource limits
// and seccomp are not applied, there are no cgroups, and NetworkPolicies are not enforced.
package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"clapometer/tests/keda/container"
)

// A Runtime serves the Container Runtime Interface.
type Runtime struct {
	cri.UnimplementedRuntimeServiceServer
	cri.UnimplementedImageServiceServer

	dir     string // where it keeps its files
	program string // cmd/container
	images  Images
	network *Network

	stream    streamServer
	mu        sync.Mutex
	ids       int
	pods      map[string]*pod
	processes map[string]*process
}

type pod struct {
	id      string
	config  *cri.PodSandboxConfig
	address net.IP
	netns   string
	created time.Time
	stopped bool
}

// A process is a container: one process, and whatever it starts.
type process struct {
	id      string
	pod     *pod
	config  *cri.ContainerConfig
	image   Image
	created time.Time

	log     *log
	started time.Time
	ended   time.Time
	command *exec.Cmd
	done    chan struct{}
	code    int32
	reason  string
}

// NewRuntime makes a runtime whose files are in dir, which starts containers by the executable program.
func NewRuntime(dir, program string, images Images, network *Network) (*Runtime, error) {
	runtime := &Runtime{
		dir: dir, program: program, images: images, network: network,
		pods: map[string]*pod{}, processes: map[string]*process{},
	}
	if err := os.MkdirAll(filepath.Join(dir, "root"), 0o755); err != nil {
		return nil, err
	}
	return runtime, runtime.startStreaming()
}

// Serve answers on the unix socket until the listener fails.
func (r *Runtime) Serve(socket string) error {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	cri.RegisterRuntimeServiceServer(server, r)
	cri.RegisterImageServiceServer(server, r)
	return server.Serve(listener)
}

func (r *Runtime) nextID(kind string) string {
	r.ids++
	return fmt.Sprintf("%s%08x", kind, r.ids)
}

func (r *Runtime) pod(id string) (*pod, error) {
	if pod, found := r.pods[id]; found {
		return pod, nil
	}
	return nil, status.Errorf(codes.NotFound, "no pod sandbox %q", id)
}

func (r *Runtime) process(id string) (*process, error) {
	if process, found := r.processes[id]; found {
		return process, nil
	}
	return nil, status.Errorf(codes.NotFound, "no container %q", id)
}

// Version names the runtime.
func (r *Runtime) Version(context.Context, *cri.VersionRequest) (*cri.VersionResponse, error) {
	return &cri.VersionResponse{Version: "0.1.0", RuntimeName: "processes", RuntimeVersion: "1.0.0", RuntimeApiVersion: "v1"}, nil
}

// Status says that the runtime and its network are ready.
func (r *Runtime) Status(context.Context, *cri.StatusRequest) (*cri.StatusResponse, error) {
	return &cri.StatusResponse{Status: &cri.RuntimeStatus{Conditions: []*cri.RuntimeCondition{
		{Type: cri.RuntimeReady, Status: true}, {Type: cri.NetworkReady, Status: true},
	}}}, nil
}

// RuntimeConfig names the cgroup driver, of which no use is made.
func (r *Runtime) RuntimeConfig(context.Context, *cri.RuntimeConfigRequest) (*cri.RuntimeConfigResponse, error) {
	return &cri.RuntimeConfigResponse{Linux: &cri.LinuxRuntimeConfiguration{CgroupDriver: cri.CgroupDriver_CGROUPFS}}, nil
}

// UpdateRuntimeConfig has nothing to update: the network is this package's own.
func (r *Runtime) UpdateRuntimeConfig(context.Context, *cri.UpdateRuntimeConfigRequest) (*cri.UpdateRuntimeConfigResponse, error) {
	return &cri.UpdateRuntimeConfigResponse{}, nil
}

// RunPodSandbox makes a network namespace with an address.
func (r *Runtime) RunPodSandbox(_ context.Context, request *cri.RunPodSandboxRequest) (*cri.RunPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pod := &pod{id: r.nextID("pod"), config: request.Config, created: time.Now()}
	var err error
	if hostNetwork(request.Config) {
		pod.address, pod.netns = r.network.Gateway, "/proc/self/ns/net"
	} else if pod.address, pod.netns, err = r.network.attach(pod.id); err != nil {
		return nil, fmt.Errorf("attaching the pod to the network: %w", err)
	}
	if dir := request.Config.LogDirectory; dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	r.pods[pod.id] = pod
	return &cri.RunPodSandboxResponse{PodSandboxId: pod.id}, nil
}

func hostNetwork(config *cri.PodSandboxConfig) bool {
	return config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork() == cri.NamespaceMode_NODE
}

// StopPodSandbox kills what still runs in the pod and takes its network away.
func (r *Runtime) StopPodSandbox(_ context.Context, request *cri.StopPodSandboxRequest) (*cri.StopPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pod, found := r.pods[request.PodSandboxId]
	if !found || pod.stopped {
		return &cri.StopPodSandboxResponse{}, nil
	}
	for _, process := range r.processes {
		if process.pod == pod && process.state() == cri.ContainerState_CONTAINER_RUNNING {
			process.signal(syscall.SIGKILL)
		}
	}
	pod.stopped = true
	if !hostNetwork(pod.config) {
		if err := r.network.detach(pod.id); err != nil {
			return nil, fmt.Errorf("detaching the pod from the network: %w", err)
		}
	}
	return &cri.StopPodSandboxResponse{}, nil
}

// RemovePodSandbox forgets the pod and its containers.
func (r *Runtime) RemovePodSandbox(ctx context.Context, request *cri.RemovePodSandboxRequest) (*cri.RemovePodSandboxResponse, error) {
	if _, err := r.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: request.PodSandboxId}); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.processes, func(_ string, process *process) bool { return process.pod.id == request.PodSandboxId })
	delete(r.pods, request.PodSandboxId)
	return &cri.RemovePodSandboxResponse{}, nil
}

func (p *pod) state() cri.PodSandboxState {
	if p.stopped {
		return cri.PodSandboxState_SANDBOX_NOTREADY
	}
	return cri.PodSandboxState_SANDBOX_READY
}

// PodSandboxStatus describes one pod.
func (r *Runtime) PodSandboxStatus(_ context.Context, request *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pod, err := r.pod(request.PodSandboxId)
	if err != nil {
		return nil, err
	}
	return &cri.PodSandboxStatusResponse{Status: &cri.PodSandboxStatus{
		Id: pod.id, Metadata: pod.config.Metadata, State: pod.state(), CreatedAt: pod.created.UnixNano(),
		Network: &cri.PodSandboxNetworkStatus{Ip: pod.address.String()},
		Linux: &cri.LinuxPodSandboxStatus{Namespaces: &cri.Namespace{
			Options: pod.config.GetLinux().GetSecurityContext().GetNamespaceOptions(),
		}},
		Labels: pod.config.Labels, Annotations: pod.config.Annotations,
	}}, nil
}

// ListPodSandbox lists pods.
func (r *Runtime) ListPodSandbox(_ context.Context, request *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	filter := request.GetFilter()
	response := &cri.ListPodSandboxResponse{}
	for _, pod := range r.pods {
		if filter.GetId() != "" && filter.Id != pod.id ||
			filter.GetState() != nil && filter.State.State != pod.state() ||
			!selects(filter.GetLabelSelector(), pod.config.Labels) {
			continue
		}
		response.Items = append(response.Items, &cri.PodSandbox{
			Id: pod.id, Metadata: pod.config.Metadata, State: pod.state(), CreatedAt: pod.created.UnixNano(),
			Labels: pod.config.Labels, Annotations: pod.config.Annotations,
		})
	}
	return response, nil
}

func selects(selector, labels map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}

// CreateContainer keeps the configuration until StartContainer.
func (r *Runtime) CreateContainer(_ context.Context, request *cri.CreateContainerRequest) (*cri.CreateContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pod, err := r.pod(request.PodSandboxId)
	if err != nil {
		return nil, err
	}
	image, err := r.images.find(request.Config.Image.Image)
	if err != nil {
		return nil, err
	}
	created := &process{id: r.nextID("container"), pod: pod, config: request.Config, image: image, created: time.Now()}
	r.processes[created.id] = created
	return &cri.CreateContainerResponse{ContainerId: created.id}, nil
}

// StartContainer starts the process, and fails if its program cannot be executed.
func (r *Runtime) StartContainer(_ context.Context, request *cri.StartContainerRequest) (*cri.StartContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	starting, err := r.process(request.ContainerId)
	if err != nil {
		return nil, err
	}
	starting.log, err = openLog(filepath.Join(starting.pod.config.LogDirectory, starting.config.LogPath))
	if err != nil {
		return nil, err
	}
	spec := starting.spec(r)
	command, err := r.start(spec, syscall.CLONE_NEWNS|syscall.CLONE_NEWPID|syscall.CLONE_NEWIPC|syscall.CLONE_NEWUTS,
		nil, starting.log.stream("stdout"), starting.log.stream("stderr"))
	starting.started = time.Now()
	starting.done = make(chan struct{})
	if err != nil {
		starting.finish(128, "StartError")
		return nil, err
	}
	starting.command = command
	go func() {
		code := exitCode(command.Wait())
		r.mu.Lock()
		defer r.mu.Unlock()
		if code == 0 {
			starting.finish(0, "Completed")
		} else {
			starting.finish(code, "Error")
		}
	}()
	return &cri.StartContainerResponse{}, nil
}

func exitCode(err error) int32 {
	if err == nil {
		return 0
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return 255
	}
	wait := exit.Sys().(syscall.WaitStatus)
	if wait.Signaled() {
		return 128 + int32(wait.Signal())
	}
	return int32(wait.ExitStatus())
}

func (p *process) finish(code int32, reason string) {
	p.code, p.reason, p.ended = code, reason, time.Now()
	p.log.close()
	close(p.done)
}

func (p *process) signal(signal syscall.Signal) {
	if p.command != nil {
		// It may have ended meanwhile; then there is nothing to signal.
		_ = p.command.Process.Signal(signal)
	}
}

func (p *process) state() cri.ContainerState {
	switch {
	case p.started.IsZero():
		return cri.ContainerState_CONTAINER_CREATED
	case p.ended.IsZero():
		return cri.ContainerState_CONTAINER_RUNNING
	default:
		return cri.ContainerState_CONTAINER_EXITED
	}
}

// start runs cmd/container with spec, and returns when the program has been executed.
func (r *Runtime) start(spec container.Spec, namespaces uintptr, stdin io.Reader, stdout, stderr io.Writer) (*exec.Cmd, error) {
	specRead, specWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer specWrite.Close()
	failedRead, failedWrite, err := os.Pipe()
	if err != nil {
		specRead.Close()
		return nil, err
	}
	defer failedRead.Close()
	command := &exec.Cmd{
		Path: r.program, Args: []string{"container"}, Stdin: stdin, Stdout: stdout, Stderr: stderr,
		ExtraFiles:  []*os.File{specRead, failedWrite},
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: namespaces, Setsid: true},
	}
	err = command.Start()
	specRead.Close()
	failedWrite.Close()
	if err != nil {
		return nil, err
	}
	if err := json.NewEncoder(specWrite).Encode(spec); err != nil {
		return nil, err
	}
	specWrite.Close()
	failed, err := io.ReadAll(failedRead)
	if err != nil {
		return nil, err
	}
	if len(failed) > 0 {
		_ = command.Wait()
		return nil, errors.New(string(failed))
	}
	return command, nil
}

func (p *process) spec(r *Runtime) container.Spec {
	security := p.config.GetLinux().GetSecurityContext()
	spec := container.Spec{
		Hostname: p.pod.config.Hostname, Root: filepath.Join(r.dir, "root"), ReadOnly: security.GetReadonlyRootfs(),
		Links: r.images.links, Files: map[string]string{}, Mounts: slices.Clone(r.images.mounts),
		Dir: p.config.WorkingDir, User: p.image.User, Group: p.image.User,
		NoNewPrivileges: security.GetNoNewPrivs(), Network: p.pod.netns,
	}
	maps.Copy(spec.Files, baseFiles)
	spec.Files["etc/hostname"] = p.pod.config.Hostname + "\n"
	spec.Files["etc/resolv.conf"] = resolvConf(p.pod.config.DnsConfig)
	spec.Mounts = append(spec.Mounts, p.image.Mounts...)
	for _, mount := range p.config.Mounts {
		spec.Mounts = append(spec.Mounts, container.Mount{Source: mount.HostPath, Target: mount.ContainerPath, ReadOnly: mount.Readonly})
	}
	if user := security.GetRunAsUser(); user != nil {
		spec.User, spec.Group = uint32(user.Value), 0
	}
	if group := security.GetRunAsGroup(); group != nil {
		spec.Group = uint32(group.Value)
	}
	for _, group := range security.GetSupplementalGroups() {
		spec.Groups = append(spec.Groups, uint32(group))
	}
	spec.DropCapabilities = slices.Contains(security.GetCapabilities().GetDropCapabilities(), "ALL")
	spec.Env = p.env()
	if len(p.config.Command) > 0 {
		spec.Args = append(slices.Clone(p.config.Command), p.config.Args...)
	} else if len(p.config.Args) > 0 {
		spec.Args = append(slices.Clone(p.image.Entrypoint), p.config.Args...)
	} else {
		spec.Args = append(slices.Clone(p.image.Entrypoint), p.image.Command...)
	}
	return spec
}

func (p *process) env() []string {
	env := append([]string{"HOSTNAME=" + p.pod.config.Hostname, "HOME=/"}, p.image.Env...)
	for _, variable := range p.config.Envs {
		env = append(env, variable.Key+"="+string(variable.Value))
	}
	return env
}

func resolvConf(dns *cri.DNSConfig) string {
	var text strings.Builder
	for _, server := range dns.GetServers() {
		fmt.Fprintf(&text, "nameserver %s\n", server)
	}
	if searches := dns.GetSearches(); len(searches) > 0 {
		fmt.Fprintf(&text, "search %s\n", strings.Join(searches, " "))
	}
	if options := dns.GetOptions(); len(options) > 0 {
		fmt.Fprintf(&text, "options %s\n", strings.Join(options, " "))
	}
	return text.String()
}

// StopContainer sends the image's signal to stop, and SIGKILL after the time that it is given.
func (r *Runtime) StopContainer(ctx context.Context, request *cri.StopContainerRequest) (*cri.StopContainerResponse, error) {
	r.mu.Lock()
	stopping, found := r.processes[request.ContainerId]
	if !found || stopping.state() != cri.ContainerState_CONTAINER_RUNNING {
		r.mu.Unlock()
		return &cri.StopContainerResponse{}, nil
	}
	if request.Timeout > 0 {
		stopping.signal(cmp.Or(stopping.image.StopSignal, syscall.SIGTERM))
	}
	r.mu.Unlock()
	select {
	case <-stopping.done:
		return &cri.StopContainerResponse{}, nil
	case <-time.After(time.Duration(request.Timeout) * time.Second):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	r.mu.Lock()
	stopping.signal(syscall.SIGKILL)
	r.mu.Unlock()
	<-stopping.done
	return &cri.StopContainerResponse{}, nil
}

// RemoveContainer forgets a container.
func (r *Runtime) RemoveContainer(_ context.Context, request *cri.RemoveContainerRequest) (*cri.RemoveContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if process, found := r.processes[request.ContainerId]; found {
		if process.state() == cri.ContainerState_CONTAINER_RUNNING {
			process.signal(syscall.SIGKILL)
		}
		delete(r.processes, request.ContainerId)
	}
	return &cri.RemoveContainerResponse{}, nil
}

// ListContainers lists containers.
func (r *Runtime) ListContainers(_ context.Context, request *cri.ListContainersRequest) (*cri.ListContainersResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	filter := request.GetFilter()
	response := &cri.ListContainersResponse{}
	for _, process := range r.processes {
		if filter.GetId() != "" && filter.Id != process.id ||
			filter.GetPodSandboxId() != "" && filter.PodSandboxId != process.pod.id ||
			filter.GetState() != nil && filter.State.State != process.state() ||
			!selects(filter.GetLabelSelector(), process.config.Labels) {
			continue
		}
		response.Containers = append(response.Containers, &cri.Container{
			Id: process.id, PodSandboxId: process.pod.id, Metadata: process.config.Metadata, Image: process.config.Image,
			ImageRef: process.config.Image.Image, ImageId: process.config.Image.Image, State: process.state(),
			CreatedAt: process.created.UnixNano(), Labels: process.config.Labels, Annotations: process.config.Annotations,
		})
	}
	return response, nil
}

// ContainerStatus describes one container.
func (r *Runtime) ContainerStatus(_ context.Context, request *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	process, err := r.process(request.ContainerId)
	if err != nil {
		return nil, err
	}
	return &cri.ContainerStatusResponse{Status: &cri.ContainerStatus{
		Id: process.id, Metadata: process.config.Metadata, State: process.state(), Image: process.config.Image,
		ImageRef: process.config.Image.Image, ImageId: process.config.Image.Image,
		CreatedAt: process.created.UnixNano(), StartedAt: nanoseconds(process.started), FinishedAt: nanoseconds(process.ended),
		ExitCode: process.code, Reason: process.reason,
		Labels: process.config.Labels, Annotations: process.config.Annotations, Mounts: process.config.Mounts,
		LogPath: filepath.Join(process.pod.config.LogDirectory, process.config.LogPath),
	}}, nil
}

func nanoseconds(at time.Time) int64 {
	if at.IsZero() {
		return 0
	}
	return at.UnixNano()
}

// UpdateContainerResources accepts what it does not enforce.
func (r *Runtime) UpdateContainerResources(context.Context, *cri.UpdateContainerResourcesRequest) (*cri.UpdateContainerResourcesResponse, error) {
	return &cri.UpdateContainerResourcesResponse{}, nil
}

// ReopenContainerLog has nothing to reopen: logs are never rotated.
func (r *Runtime) ReopenContainerLog(context.Context, *cri.ReopenContainerLogRequest) (*cri.ReopenContainerLogResponse, error) {
	return &cri.ReopenContainerLogResponse{}, nil
}

// ListContainerStats measures nothing.
func (r *Runtime) ListContainerStats(context.Context, *cri.ListContainerStatsRequest) (*cri.ListContainerStatsResponse, error) {
	return &cri.ListContainerStatsResponse{}, nil
}

// ListPodSandboxStats measures nothing.
func (r *Runtime) ListPodSandboxStats(context.Context, *cri.ListPodSandboxStatsRequest) (*cri.ListPodSandboxStatsResponse, error) {
	return &cri.ListPodSandboxStatsResponse{}, nil
}
