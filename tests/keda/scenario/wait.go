package scenario

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clapometer/tests/keda/lab"
)

// serves waits until a Deployment of clapometer is rolled out, and until the Service of the same name takes connections: its pods are
// ready a moment before, and KEDA, refused once, pauses before it comes again.
func (w *World) serves(ctx context.Context, namespace, name string) error {
	if _, err := w.Kubectl(ctx, "", "--namespace="+namespace, "rollout", "status", "deployment/"+name, lab.Timeout); err != nil {
		return err
	}
	service, err := w.Kubernetes.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, port := range service.Spec.Ports {
		address := net.JoinHostPort(service.Spec.ClusterIP, strconv.Itoa(int(port.Port)))
		err := w.Eventually(ctx, func() error {
			connection, err := net.DialTimeout("tcp", address, 10*time.Second)
			if err != nil {
				return err
			}
			return connection.Close()
		})
		if err != nil {
			return fmt.Errorf("the Service %s: %w", name, err)
		}
	}
	return nil
}

// takesPods waits until a new namespace has the ServiceAccount without which the API server refuses a pod.
func (w *World) takesPods(ctx context.Context, namespace string) error {
	return w.Eventually(ctx, func() error {
		_, err := w.Kubernetes.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// replicas waits until a Deployment is to have so many.
func (w *World) replicas(ctx context.Context, namespace, deployment string, wanted int32) error {
	return w.Eventually(ctx, func() error {
		found, err := w.wantedReplicas(ctx, namespace, deployment)
		if err == nil && found != wanted {
			err = fmt.Errorf("%s is to have %d replicas, not %d", deployment, found, wanted)
		}
		return err
	})
}

func (w *World) wantedReplicas(ctx context.Context, namespace, deployment string) (int32, error) {
	found, err := w.Kubernetes.AppsV1().Deployments(namespace).Get(ctx, deployment, metav1.GetOptions{})
	if err != nil {
		return 0, err
	}
	return *found.Spec.Replicas, nil
}

// pause lets time pass in which nothing is to happen.
func pause(ctx context.Context, length time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(length):
		return nil
	}
}
