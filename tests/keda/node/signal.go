package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Signal sends a signal to every process of a pod, from outside of it: SIGSTOP freezes it, as a node that hangs would.
func (r *Runtime) Signal(namespace, name string, signal syscall.Signal) error {
	network, err := r.networkOf(namespace, name)
	if err != nil {
		return err
	}
	signalled := map[int]bool{}
	// A process may start another one before the signal reaches it.
	for before := -1; before != len(signalled); {
		before = len(signalled)
		if err := signalProcesses(network, signal, signalled); err != nil {
			return fmt.Errorf("the pod %s/%s: %w", namespace, name, err)
		}
	}
	if len(signalled) == 0 {
		return fmt.Errorf("the pod %s/%s has no process", namespace, name)
	}
	return nil
}

// networkOf returns the network namespace that all processes of a pod are in, and no others.
func (r *Runtime) networkOf(namespace, name string) (os.FileInfo, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, pod := range r.pods {
		if metadata := pod.config.Metadata; !pod.stopped && !hostNetwork(pod.config) && metadata.Namespace == namespace && metadata.Name == name {
			return os.Stat(pod.netns)
		}
	}
	return nil, fmt.Errorf("there is no pod %s/%s with a network of its own", namespace, name)
}

func signalProcesses(network os.FileInfo, signal syscall.Signal, signalled map[int]bool) error {
	namespaces, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return err
	}
	for _, path := range namespaces {
		about, err := os.Stat(path)
		if err != nil || !os.SameFile(about, network) {
			continue // another pod's, or ended meanwhile
		}
		id, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		if err != nil {
			return err
		}
		if signalled[id] {
			continue
		}
		if err := syscall.Kill(id, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("process %d: %w", id, err)
		}
		signalled[id] = true
	}
	return nil
}
