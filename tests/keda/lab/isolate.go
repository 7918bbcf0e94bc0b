package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Where things are inside the laboratory's mount namespace. /mnt is on every machine, and is covered
// by a file system in memory there, so that nothing has to be made outside.
const (
	repository = "/mnt/repository"
	scratch    = "/mnt/lab"
)

// ExitNoNamespaces is the exit status where namespaces cannot be made.
const ExitNoNamespaces = 2

// Isolate runs this program again in process, network, mount, ipc, uts and cgroup namespaces of its
// own, and returns its exit status. Everything in them ends with this process, however it ends.
//
// Inside, it makes the file systems and calls run with the path of the repository there.
func Isolate(root string, run func(root string) int) int {
	switch stage := os.Getenv("KEDA_LAB_STAGE"); stage {
	case "":
		return outside(root)
	case "init":
		return initProcess(root)
	default:
		os.Unsetenv("KEDA_LAB_STAGE")
		return run(repository)
	}
}

func outside(root string) int {
	// The kernel kills the child when the thread ends that started it.
	runtime.LockOSThread()
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	command := again("init", &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP,
		Pdeathsig:  syscall.SIGKILL,
		// Ctrl-C at a terminal comes here only.
		Setpgid: true,
	})
	command.Dir = root
	if err := command.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "The laboratory needs namespaces, which this machine or user may not make: %v\n", err)
		if os.Getuid() != 0 {
			fmt.Fprintln(os.Stderr, "Run it as root: PostgreSQL, KEDA and the pods then run as users of their own.")
		}
		return ExitNoNamespaces
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	select {
	case err := <-ended:
		return exitStatus(err)
	case received := <-interrupted:
		_ = command.Process.Kill()
		<-ended
		fmt.Fprintf(os.Stderr, "%v: stopped, and nothing is left running\n", received)
		return 130
	}
}

func again(stage string, attributes *syscall.SysProcAttr) *exec.Cmd {
	return &exec.Cmd{
		Path: "/proc/self/exe", Args: os.Args, Env: append(os.Environ(), "KEDA_LAB_STAGE="+stage),
		Stdin: nil, Stdout: os.Stdout, Stderr: os.Stderr, SysProcAttr: attributes,
	}
}

func exitStatus(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return exit.ExitCode()
	default:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
}

// initProcess is process 1 of the namespaces: it makes the file systems, starts the laboratory and
// collects orphans. When it ends, the kernel kills what is left.
func initProcess(root string) int {
	if err := mounts(root); err != nil {
		fmt.Fprintf(os.Stderr, "The laboratory's file systems cannot be made: %v\n", err)
		return ExitNoNamespaces
	}
	command := again("run", nil)
	command.Dir = repository
	if err := command.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			fmt.Fprintln(os.Stderr, err)
			return 1
		case pid == command.Process.Pid && status.Signaled():
			return 128 + int(status.Signal())
		case pid == command.Process.Pid && status.Exited():
			return status.ExitStatus()
		}
	}
}

// mounts covers every folder that is written to, and what would reach the machine's kernel.
func mounts(root string) error {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	// The kubelet of Kubernetes 1.36 wants cgroups version 2, also where the machine has version 1.
	if err := unix.Mount("tmpfs", "/sys/fs", "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mounting over /sys/fs: %w", err)
	}
	if err := os.Mkdir("/sys/fs/cgroup", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""); err != nil {
		return fmt.Errorf("mounting cgroups: %w", err)
	}
	// The repository may be below /mnt itself: hold it open while /mnt is covered.
	held, err := os.Open(root)
	if err != nil {
		return err
	}
	defer held.Close()
	if err := unix.Mount("tmpfs", "/mnt", "tmpfs", unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mounting over /mnt: %w", err)
	}
	for _, dir := range []string{repository, scratch} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", held.Fd()), repository, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("binding the repository: %w", err)
	}
	if err := coverParameters(); err != nil {
		return err
	}
	for _, dir := range []string{"/var/lib", "/var/log", "/run"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
			return fmt.Errorf("mounting over %s: %w", dir, err)
		}
	}
	return nil
}

// coverParameters lays files over the kernel's parameters that the kubelet sets: they are the whole
// machine's. All others become read-only.
func coverParameters() error {
	const parameters = "/proc/sys"
	if err := unix.Mount(parameters, parameters, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("binding %s: %w", parameters, err)
	}
	for _, name := range []string{
		"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
		"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
	} {
		path := filepath.Join(parameters, name)
		value, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		cover := filepath.Join(scratch, filepath.Base(name))
		if err := os.WriteFile(cover, value, 0o600); err != nil {
			return err
		}
		if err := unix.Mount(cover, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("covering %s: %w", path, err)
		}
	}
	if err := unix.Mount("", parameters, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("making %s read-only: %w", parameters, err)
	}
	return nil
}

// A process is a program of the control plane.
type process struct {
	name    string
	log     string
	command *exec.Cmd
	done    chan struct{}
	err     error
}

// start runs a program that the cluster cannot do without. Its output goes to NAME.log in the folder of logs.
func (l *Lab) start(name string, args ...string) (*process, error) {
	started, err := l.startAs(name, name, args...)
	if err == nil {
		go func() {
			<-started.done
			l.options.Ended(started.ended())
		}()
	}
	return started, err
}

func (l *Lab) startAs(name, program string, args ...string) (*process, error) {
	log, err := l.Log(name)
	if err != nil {
		return nil, err
	}
	command := exec.Command(filepath.Join(l.programs, program), args...)
	command.Stdout, command.Stderr = log, log
	command.Env = []string{"HOME=" + scratch, "PATH=" + os.Getenv("PATH")}
	if err := command.Start(); err != nil {
		return nil, err
	}
	started := &process{name: name, log: log.Name(), command: command, done: make(chan struct{})}
	go func() {
		started.err = command.Wait()
		log.Close()
		close(started.done)
	}()
	return started, nil
}

// ready waits until probe succeeds, and fails early if the program has ended.
func (p *process) ready(probe func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := probe()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not ready after %v: %w\n%s", p.name, patience, err, Tail(p.log))
		}
		select {
		case <-p.done:
			return p.ended()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (p *process) ended() error {
	return fmt.Errorf("%s has ended (%v)\n%s", p.name, p.err, Tail(p.log))
}

func trimmed(text []byte) string { return strings.TrimSpace(string(text)) }
