package scenario

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Services rolls two replicas out behind a Service with a cluster IP, and behind a headless one.
var Services = Scenario{
	Name: "services",
	Claim: "two replicas are rolled out twice: behind a Service with a cluster IP no call of KEDA fails; behind a headless one calls may fail until KEDA's " +
		"client asks the DNS again, and it goes on by itself",
	Long: true,
	Run: func(ctx context.Context, w *World) (string, error) {
		stop, err := w.withNumbers(ctx)
		defer stop()
		if err != nil {
			return "", err
		}
		manifests := headlessService
		for _, service := range scalerServices {
			trigger := strings.Replace(numbersTrigger("external", "none", ""), "clapometer.numbers", service+".numbers", 1)
			manifests += numbersJob("behind-"+service, "", "{name: clap-worker, image: clap-worker}", trigger)
		}
		if err := w.Apply(ctx, manifests); err != nil {
			return "", err
		}
		if _, err := w.polled(ctx); err != nil {
			return "", err
		}
		var seen []string
		for range 2 {
			began := time.Now()
			if err := w.rollOutNumbers(ctx); err != nil {
				return "", err
			}
			took, err := w.polled(ctx)
			if err != nil {
				return "", err
			}
			for i, service := range scalerServices {
				failed, err := w.failedCalls(ctx, "behind-"+service, began)
				if err == nil && failed != 0 && service != headless {
					err = fmt.Errorf("behind a cluster IP %d calls failed in a rollout", failed)
				}
				if err != nil {
					return "", err
				}
				seen = append(seen, fmt.Sprintf("%s: %d calls failed, five polls were answered %.0f s after the rollout", service, failed, took[i].Seconds()))
			}
		}
		return strings.Join(seen, "; "), nil
	},
}

const headless = "headless"

var scalerServices = []string{"clapometer", headless}

const headlessService = `
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: numbers}
spec:
  clusterIP: None
  selector: {app.kubernetes.io/name: clapometer}
  ports: [{name: grpc, port: 9090}]
`

// rollOutNumbers replaces both pods, and waits until the old ones are gone.
func (w *World) rollOutNumbers(ctx context.Context) error {
	if _, err := w.Kubectl(ctx, "", "--namespace="+numbersNamespace, "rollout", "restart", "deployment/clapometer"); err != nil {
		return err
	}
	if err := w.serves(ctx, numbersNamespace, "clapometer"); err != nil {
		return err
	}
	return w.Eventually(ctx, func() error { return w.hasPods(ctx, numbersNamespace, 2) })
}

// polled waits until the pods that there are, which count from their start, have answered five polls of each object, and returns how long that took.
func (w *World) polled(ctx context.Context) ([]time.Duration, error) {
	started := time.Now()
	took := make([]time.Duration, len(scalerServices))
	failed := make([]error, len(scalerServices))
	var waiting sync.WaitGroup
	for i, service := range scalerServices {
		waiting.Go(func() {
			failed[i] = w.Eventually(ctx, func() error {
				asked, err := w.requests(ctx, "behind-"+service)
				if err == nil && asked < 10 {
					err = fmt.Errorf("behind-%s: %d requests", service, asked)
				}
				return err
			})
			took[i] = time.Since(started)
		})
	}
	waiting.Wait()
	return took, errors.Join(failed...)
}

// failedCalls returns how many lines KEDA's operator has logged about calls for an object that reached nobody.
func (w *World) failedCalls(ctx context.Context, name string, from time.Time) (int, error) {
	log, err := w.PodLogs(ctx, "keda", "app=keda-operator", from)
	if err != nil {
		return 0, err
	}
	failed := 0
	for line := range strings.Lines(log) {
		if strings.Contains(line, `"`+name+`"`) && strings.Contains(line, "code = Unavailable") {
			failed++
		}
	}
	return failed, nil
}
