// Command container is what a container's process is before it becomes its program.
//
// The node starts it in new mount, pid, ipc and uts namespaces. It reads a container.Spec from
// descriptor 3, makes the root file system, gives up its privileges and executes the program. What goes
// wrong before that is written to descriptor 4, which closes by itself when the program starts.
//
// As `container idle` it is the worker of images that somebody else would bring: it waits for SIGTERM.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"clapometer/tests/keda/container"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "idle" {
		idle()
		return
	}
	// Namespaces, capabilities and no_new_privs belong to a thread; the one that executes the program must have them.
	runtime.LockOSThread()
	failed := os.NewFile(4, "failed")
	unix.CloseOnExec(3)
	unix.CloseOnExec(4)
	err := run()
	fmt.Fprint(failed, err)
	os.Exit(128)
}

func idle() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}

func run() error {
	var spec container.Spec
	if err := json.NewDecoder(os.NewFile(3, "spec")).Decode(&spec); err != nil {
		return fmt.Errorf("reading the specification: %w", err)
	}
	if err := enter(spec.Network, unix.CLONE_NEWNET); err != nil {
		return err
	}
	if spec.Mount != "" {
		// A thread may enter a mount namespace only if it shares its root and working directory with no other.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := enter(spec.Mount, unix.CLONE_NEWNS); err != nil {
			return err
		}
	} else if err := makeRoot(spec); err != nil {
		return err
	}
	if err := os.Chdir(orRoot(spec.Dir)); err != nil {
		return err
	}
	path, err := lookUp(spec.Args[0], spec.Env)
	if err != nil {
		return err
	}
	if err := dropPrivileges(spec); err != nil {
		return err
	}
	if err := syscall.Exec(path, spec.Args, spec.Env); err != nil {
		return fmt.Errorf("exec %s: %w", path, err)
	}
	return nil
}

func orRoot(dir string) string {
	if dir == "" {
		return "/"
	}
	return dir
}

func enter(path string, kind int) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening the namespace %s: %w", path, err)
	}
	if err := unix.Setns(fd, kind); err != nil {
		return fmt.Errorf("entering the namespace %s: %w", path, err)
	}
	return unix.Close(fd)
}

// makeRoot builds the root file system in memory, with the machine's programs and libraries in it, and moves into it.
func makeRoot(spec container.Spec) error {
	root := spec.Root
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mounting the root file system: %w", err)
	}
	for _, dir := range []string{"proc", "dev", "dev/shm", "etc", "tmp", "run"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(root, "tmp"), 0o1777); err != nil {
		return err
	}
	for _, link := range spec.Links {
		if err := os.Symlink(link.Target, filepath.Join(root, link.Path)); err != nil {
			return err
		}
	}
	for path, text := range spec.Files {
		if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := unix.Mount("proc", filepath.Join(root, "proc"), "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	if err := unix.Mount("shm", filepath.Join(root, "dev/shm"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"); err != nil {
		return fmt.Errorf("mounting /dev/shm: %w", err)
	}
	for _, device := range []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"} {
		if err := bind(root, container.Mount{Source: device, Target: device}); err != nil {
			return err
		}
	}
	for fd, name := range []string{"stdin", "stdout", "stderr"} {
		if err := os.Symlink(fmt.Sprintf("/proc/self/fd/%d", fd), filepath.Join(root, "dev", name)); err != nil {
			return err
		}
	}
	if err := os.Symlink("/proc/self/fd", filepath.Join(root, "dev/fd")); err != nil {
		return err
	}
	for _, mount := range spec.Mounts {
		if err := bind(root, mount); err != nil {
			return err
		}
	}
	if spec.ReadOnly {
		if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
			return fmt.Errorf("making the root file system read-only: %w", err)
		}
	}
	if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	// The old root is mounted over the new one and taken away from there: no folder is needed for it.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leaving the old root: %w", err)
	}
	return os.Chdir("/")
}

func bind(root string, mount container.Mount) error {
	about, err := os.Stat(mount.Source)
	if err != nil {
		return err
	}
	target := filepath.Join(root, mount.Target)
	if about.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(target), 0o755); err == nil {
		var file *os.File
		if file, err = os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o644); err == nil {
			err = file.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("making room for %s: %w", mount.Target, err)
	}
	if err := unix.Mount(mount.Source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mounting %s: %w", mount.Target, err)
	}
	if !mount.ReadOnly {
		return nil
	}
	// The remount must repeat what the file system below forbids, or the kernel refuses it.
	var of unix.Statfs_t
	if err := unix.Statfs(target, &of); err != nil {
		return err
	}
	flags := uintptr(of.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	if err := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|flags, ""); err != nil {
		return fmt.Errorf("making %s read-only: %w", mount.Target, err)
	}
	return nil
}

func lookUp(program string, env []string) (string, error) {
	if strings.ContainsRune(program, '/') {
		if _, err := os.Stat(program); err != nil {
			return "", fmt.Errorf("exec: %w", err)
		}
		return program, nil
	}
	for _, variable := range env {
		if value, found := strings.CutPrefix(variable, "PATH="); found {
			os.Setenv("PATH", value)
		}
	}
	path, err := exec.LookPath(program)
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("exec: %q: executable file not found in $PATH", program)
	}
	return path, err
}

func dropPrivileges(spec container.Spec) error {
	if spec.DropCapabilities {
		for capability := uintptr(0); capability <= unix.CAP_LAST_CAP; capability++ {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("dropping capability %d: %w", capability, err)
			}
		}
	}
	groups := make([]int, len(spec.Groups))
	for i, group := range spec.Groups {
		groups[i] = int(group)
	}
	if err := syscall.Setgroups(groups); err != nil {
		return fmt.Errorf("setgroups: %w", err)
	}
	if err := syscall.Setresgid(int(spec.Group), int(spec.Group), int(spec.Group)); err != nil {
		return fmt.Errorf("setresgid: %w", err)
	}
	if err := syscall.Setresuid(int(spec.User), int(spec.User), int(spec.User)); err != nil {
		return fmt.Errorf("setresuid: %w", err)
	}
	if spec.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("no_new_privs: %w", err)
		}
	}
	return nil
}
