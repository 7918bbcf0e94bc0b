package scenario

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clapometer/tests/keda/lab"
)

// ScalerFaults replaces, kills, freezes and removes the two pods of clapometer while rows wait.
var ScalerFaults = Scenario{
	Name: "scaler-faults",
	Claim: "clapometer as shipped is rolled out, killed, frozen until its liveness probe has it started again, and taken away: a rollout fails no poll; while nobody " +
		"is there no Job starts, the ScaledJob stays Ready, and `fallback` does not start; then all goes on by itself, each row is done once, and no Job is idle",
	Long: true,
	Run: func(ctx context.Context, w *World) (string, error) {
		var seen []string
		var rows int
		jobs, err := w.withScaledJob(ctx, "", func(jobs *jobs) error {
			for _, fault := range []struct {
				name string
				make func(context.Context) error
			}{
				{"rolled out", w.rollOutScaler}, {"killed", w.killScaler}, {"frozen", w.freezeScaler},
				{"away", func(ctx context.Context) error { return w.removeScaler(ctx, jobs) }},
			} {
				took, err := w.goesOn(ctx, &rows, fault.make)
				if err != nil {
					return fmt.Errorf("%s: %w", fault.name, err)
				}
				seen = append(seen, fmt.Sprintf("%s: the rows of that time are done %.0f s later", fault.name, took.Seconds()))
			}
			return nil
		})
		if err != nil {
			return "", err
		}
		counted, err := w.count(ctx, jobs)
		if err != nil {
			return "", err
		}
		if counted.claps != rows || counted.attempts != rows || counted.idle != 0 {
			return "", fmt.Errorf("%v", counted)
		}
		return strings.Join(seen, "; ") + "; " + counted.String(), nil
	},
}

// goesOn makes a fault in which five rows come, and returns how long after it all rows were done.
func (w *World) goesOn(ctx context.Context, rows *int, fault func(context.Context) error) (time.Duration, error) {
	if err := w.isReady(ctx, scaledJobs, clapsNamespace, "postgres-batch"); err != nil {
		return 0, err
	}
	if err := fault(ctx); err != nil {
		return 0, err
	}
	over := time.Now()
	*rows += 5
	err := w.done(ctx, *rows)
	return time.Since(over), err
}

func (w *World) fiveRows(ctx context.Context) error {
	_, err := w.SQL(ctx, "INSERT INTO make_it_clap (duration_seconds) SELECT 1 FROM generate_series(1, 5)")
	return err
}

// rollOutScaler replaces both pods, and checks that KEDA's operator failed to reach none.
func (w *World) rollOutScaler(ctx context.Context) error {
	began := time.Now()
	if _, err := w.Kubectl(ctx, "", "--namespace="+ownNamespace, "rollout", "restart", "deployment/clapometer"); err != nil {
		return err
	}
	if err := w.fiveRows(ctx); err != nil {
		return err
	}
	if err := w.serves(ctx, ownNamespace, "clapometer"); err != nil {
		return err
	}
	if err := w.Eventually(ctx, func() error { return w.hasPods(ctx, ownNamespace, 2) }); err != nil {
		return err
	}
	// Two polls with the new pods alone.
	if err := pause(ctx, 2*clapsPoll); err != nil {
		return err
	}
	failed, err := w.failedCalls(ctx, "postgres-batch", began)
	if err == nil && failed != 0 {
		err = fmt.Errorf("%d calls failed", failed)
	}
	return err
}

// killScaler ends the processes of both pods at once, without notice.
func (w *World) killScaler(ctx context.Context) error {
	if err := w.signalScaler(ctx, syscall.SIGKILL); err != nil {
		return err
	}
	if err := w.fiveRows(ctx); err != nil {
		return err
	}
	return w.serves(ctx, ownNamespace, "clapometer")
}

// freezeScaler stops both pods until their liveness probes have them started again.
func (w *World) freezeScaler(ctx context.Context) error {
	before, err := w.scalerRestarts(ctx)
	if err != nil {
		return err
	}
	if err := w.signalScaler(ctx, syscall.SIGSTOP); err != nil {
		return err
	}
	if err := w.fiveRows(ctx); err != nil {
		return err
	}
	if err := w.Eventually(ctx, func() error {
		restarts, err := w.scalerRestarts(ctx)
		if err == nil && restarts < before+2 {
			err = fmt.Errorf("%d of 2 frozen pods were started again", restarts-before)
		}
		return err
	}); err != nil {
		return err
	}
	return w.serves(ctx, ownNamespace, "clapometer")
}

// removeScaler has no clapometer for a while, also for a ScaledObject with `fallback`.
func (w *World) removeScaler(ctx context.Context, jobs *jobs) error {
	if err := w.scaleScaler(ctx, 0); err != nil {
		return err
	}
	if err := w.Apply(ctx, alone); err != nil {
		return err
	}
	defer func() {
		_, _ = w.Kubectl(context.WithoutCancel(ctx), alone, "delete", "--filename=-")
	}()
	before := jobs.count()
	gone := time.Now()
	if err := w.fiveRows(ctx); err != nil {
		return err
	}
	for _, name := range []string{"postgres-batch", aloneName} {
		if err := w.Eventually(ctx, func() error { return w.isLoggedSince(ctx, gone, name, "connection refused") }); err != nil {
			return err
		}
	}
	if err := pause(ctx, 30*time.Second); err != nil {
		return err
	}
	if started := jobs.count() - before; started != 0 {
		return fmt.Errorf("%d Jobs started while nobody answered", started)
	}
	status, reason, err := w.Condition(ctx, scaledJobs, clapsNamespace, "postgres-batch", "Ready")
	if err == nil && status != "True" {
		err = fmt.Errorf("Ready is %s (%s)", status, reason)
	}
	if err != nil {
		return err
	}
	replicas, err := w.wantedReplicas(ctx, clapsNamespace, aloneName)
	if err == nil && replicas != 0 {
		err = fmt.Errorf("`fallback` started %d replicas", replicas)
	}
	if err != nil {
		return err
	}
	return w.scaleScaler(ctx, 2)
}

const aloneName = "alone"

// alone is a ScaledObject whose scaler is away from its beginning on.
const alone = `---
apiVersion: apps/v1
kind: Deployment
metadata: {name: alone, namespace: keda-with-postgresql}
spec:
  replicas: 0
  selector: {matchLabels: {app: alone}}
  template:
    metadata: {labels: {app: alone}}
    spec:
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: clap-worker
          image: clap-worker
          securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: alone, namespace: keda-with-postgresql}
spec:
  scaleTargetRef: {name: alone}
  pollingInterval: 2
  fallback: {failureThreshold: 1, replicas: 2}
  triggers:
    - type: external
      metadata: {scalerAddress: "` + scalerAddress + `", query: dead-claps}
`

// clapometers returns the pods of clapometer in a namespace, those that end among them.
func (w *World) clapometers(ctx context.Context, namespace string) ([]corev1.Pod, error) {
	pods, err := w.Kubernetes.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=clapometer"})
	if err != nil {
		return nil, err
	}
	return pods.Items, nil
}

// hasPods fails while clapometer has another number of pods in a namespace.
func (w *World) hasPods(ctx context.Context, namespace string, wanted int) error {
	pods, err := w.clapometers(ctx, namespace)
	if err == nil && len(pods) != wanted {
		err = fmt.Errorf("clapometer has %d pods in %s, not %d", len(pods), namespace, wanted)
	}
	return err
}

func (w *World) signalScaler(ctx context.Context, signal syscall.Signal) error {
	pods, err := w.clapometers(ctx, ownNamespace)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		if err := w.Signal(pod.Namespace, pod.Name, signal); err != nil {
			return err
		}
	}
	return nil
}

func (w *World) scalerRestarts(ctx context.Context) (int32, error) {
	pods, err := w.clapometers(ctx, ownNamespace)
	return restarts(pods), err
}

// restarts returns how often containers of pods were started again.
func restarts(pods []corev1.Pod) int32 {
	var total int32
	for _, pod := range pods {
		for _, container := range pod.Status.ContainerStatuses {
			total += container.RestartCount
		}
	}
	return total
}

// scaleScaler waits until clapometer has so many pods, and no more.
func (w *World) scaleScaler(ctx context.Context, replicas int) error {
	if _, err := w.Kubectl(ctx, "", "--namespace="+ownNamespace, "scale", "deployment/clapometer", fmt.Sprintf("--replicas=%d", replicas)); err != nil {
		return err
	}
	if replicas > 0 {
		return w.serves(ctx, ownNamespace, "clapometer")
	}
	_, err := w.Kubectl(ctx, "", "--namespace="+ownNamespace, "wait", "pod", "--selector=app.kubernetes.io/name=clapometer", "--for=delete", lab.Timeout)
	return err
}
