package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ServiceAddress returns the address of a Service.
func (l *Lab) ServiceAddress(ctx context.Context, namespace, name string) (string, error) {
	service, err := l.Kubernetes.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	return service.Spec.ClusterIP, nil
}

// installKEDA applies KEDA's own manifests, as its repository deploys them.
func (l *Lab) installKEDA(ctx context.Context) error {
	manifests, err := l.Kubectl(ctx, "", "kustomize", filepath.Join(l.options.KEDA, "config/default"))
	if err != nil {
		return err
	}
	if _, err := l.Kubectl(ctx, manifests, "apply", "--server-side", "--filename=-"); err != nil {
		return err
	}
	for _, deployment := range []string{"keda-operator", "keda-metrics-apiserver", "keda-admission"} {
		if _, err := l.Kubectl(ctx, "", "--namespace=keda", "rollout", "status", "deployment/"+deployment, Timeout); err != nil {
			return fmt.Errorf("KEDA is not up: %w", err)
		}
	}
	return l.Eventually(ctx, func() error {
		_, err := l.Kubectl(ctx, "", "wait", "--for=condition=Available", "apiservice/v1beta1.external.metrics.k8s.io", "--timeout=1s")
		return err
	})
}

// Kubectl runs kubectl with that standard input, and returns what it printed. Warnings are errors to
// whoever reads them: KubectlWarnings returns them.
func (l *Lab) Kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	output, _, err := l.KubectlWarnings(ctx, stdin, args...)
	return output, err
}

// KubectlWarnings runs kubectl, and returns what it printed on each of its streams.
func (l *Lab) KubectlWarnings(ctx context.Context, stdin string, args ...string) (string, string, error) {
	command := l.Command(ctx, filepath.Join(l.programs, "kubectl"), args...)
	var stdout, stderr bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := command.Run(); err != nil {
		return stdout.String(), stderr.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, trimmed(stderr.Bytes()))
	}
	return stdout.String(), stderr.String(), nil
}

// Command prepares a program that uses the cluster: kubectl and PostgreSQL's programs are in its PATH.
func (l *Lab) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, program, args...)
	command.Env = append(os.Environ(), "KUBECONFIG="+l.Kubeconfig, "HOME="+scratch,
		"PATH="+l.programs+":"+l.options.PostgreSQL+":"+os.Getenv("PATH"))
	return command
}

// TempDir makes a folder in memory.
func (l *Lab) TempDir() (string, error) { return os.MkdirTemp(scratch, "") }

// Log makes a file in the folder of logs.
func (l *Lab) Log(name string) (*os.File, error) {
	return os.Create(filepath.Join(l.logs, name+".log"))
}

// Eventually repeats probe until it succeeds, or returns its last error.
func (l *Lab) Eventually(ctx context.Context, probe func() error) error {
	deadline := time.After(patience)
	for {
		err := probe()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-deadline:
			return fmt.Errorf("not within %v: %w", patience, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
