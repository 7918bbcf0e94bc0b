package scenario

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Push takes a Deployment from zero to one by a push, then to as many as the HPA says, and changes a
// target in clapometer's configuration.
var Push = Scenario{
	Name: "push",
	Claim: "with external-push a committed row starts the first worker at once; the HPA takes the rest from KEDA's metrics server; " +
		"a ScaledObject whose query a reload brings later is pushed to at once; a target that a reload changes reaches the HPA, without an edit from KEDA 2.21 on",
	Run: func(ctx context.Context, w *World) (string, error) {
		stop, err := w.withWorkers(ctx)
		if err != nil {
			return "", err
		}
		defer stop()
		first, err := w.firstWorker(ctx)
		if err != nil {
			return "", err
		}
		started := time.Now()
		if _, err := w.SQL(ctx, "INSERT INTO make_it_clap (duration_seconds) SELECT 1 FROM generate_series(1, 65)"); err != nil {
			return "", err
		}
		if err := w.replicas(ctx, clapsNamespace, "clap-worker", 7); err != nil {
			return "", err
		}
		scaled := time.Since(started)
		late, reloaded, err := w.reloads(ctx)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("commit to replicas 1: %.2f s; 66 rows at a target of 10: 7 replicas after %.0f s; edited ConfigMap to replicas 1 of a ScaledObject "+
			"that was there before its query: %.0f s, to HPA: %.0f s", first.Seconds(), scaled.Seconds(), late.Seconds(), reloaded.Seconds()), nil
	},
}

// workersPoll is how often withWorkers has KEDA ask: so rarely that a push comes first.
const workersPoll = 30 * time.Second

// withWorkers applies the shipped ScaledObject, in plain text as its comment says, and waits until KEDA is ready for it. Its polls are
// rarer than shipped, and its worker is gone sooner after the last row, so that a push can be seen.
func (w *World) withWorkers(ctx context.Context) (func(), error) {
	if err := w.empty(ctx); err != nil {
		return nil, err
	}
	shipped, err := os.ReadFile(filepath.Join(w.Root, "deploy/examples/scaled-object-external-push.yaml"))
	if err != nil {
		return nil, err
	}
	replaced := map[string]string{
		"enableTLS:": "", "authenticationRef:": "", "name: clapometer": "", "kind: ClusterTriggerAuthentication": "",
		"pollingInterval:": fmt.Sprintf("  pollingInterval: %.0f", workersPoll.Seconds()), "cooldownPeriod:": "  cooldownPeriod: 5",
	}
	var text strings.Builder
	found := 0
	for line := range strings.Lines(string(shipped)) {
		for start, other := range replaced {
			if content := strings.TrimSpace(line); content == start || strings.HasSuffix(start, ":") && strings.HasPrefix(content, start) {
				line = other + "\n"
				found++
				break
			}
		}
		text.WriteString(line)
	}
	if found != len(replaced) {
		return nil, fmt.Errorf("%d lines of the shipped ScaledObject are those that this scenario replaces, not %d", found, len(replaced))
	}
	stop := func() {
		// What is left is deleted with the laboratory.
		_, _ = w.Kubectl(context.WithoutCancel(ctx), text.String(), "delete", "--filename=-")
	}
	if err := w.Apply(ctx, text.String()); err != nil {
		return nil, err
	}
	if err := w.isReady(ctx, scaledObjects, clapsNamespace, "clap-worker"); err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

// firstWorker commits one row when there is no worker, and returns how long it took until the Deployment was to have one. It fails
// if a poll may have found the row: the last one was the object's first, or the one that took the last worker away.
func (w *World) firstWorker(ctx context.Context) (time.Duration, error) {
	if err := w.replicas(ctx, clapsNamespace, "clap-worker", 0); err != nil {
		return 0, err
	}
	if _, err := w.SQL(ctx, "INSERT INTO make_it_clap (duration_seconds) VALUES (1)"); err != nil {
		return 0, err
	}
	committed := time.Now()
	if err := w.replicas(ctx, clapsNamespace, "clap-worker", 1); err != nil {
		return 0, err
	}
	took := time.Since(committed)
	return took, within(took, workersPoll*2/3, "the push of a row")
}

// reloads has a ScaledObject for a query that does not exist, adds the query to clapometer's configuration, then another ScaledObject
// that leaves the target to it, then edits the target. It returns how long it took from the ConfigMap to the first
// ScaledObject's worker, and to the HPA of the second.
func (w *World) reloads(ctx context.Context) (late, reloaded time.Duration, err error) {
	const query, before, after = "reloaded", "before-its-query", "after-its-query"
	original, err := w.Kubernetes.CoreV1().ConfigMaps(ownNamespace).Get(ctx, "clapometer", metav1.GetOptions{})
	if err != nil {
		return 0, 0, err
	}
	configure := func(text string) error {
		patch := fmt.Sprintf(`{"data": {"clapometer.yaml": %q}}`, text)
		_, err := w.Kubernetes.CoreV1().ConfigMaps(ownNamespace).Patch(ctx, "clapometer", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		return err
	}
	text := original.Data["clapometer.yaml"]
	withTarget := func(target int) string {
		added := fmt.Sprintf("queries:\n  %s:\n    sql: SELECT claimable + held FROM clap_backlog\n    target: %d\n", query, target)
		return strings.Replace(text, "queries:\n", added, 1)
	}
	defer func() { _ = configure(text) }()
	defer func() {
		_, _ = w.Kubectl(context.WithoutCancel(ctx), pushed(before, query)+pushed(after, query), "delete", "--ignore-not-found", "--filename=-")
	}()
	refused, err := w.refusedStreams(ctx)
	if err != nil {
		return 0, 0, err
	}
	if err := w.Apply(ctx, pushed(before, query)); err != nil {
		return 0, 0, err
	}
	// Whether it is Ready is left to chance: KEDA's first poll and its reconcile write that at the same time.
	if err := w.Eventually(ctx, func() error {
		events, err := w.Events(ctx, clapsNamespace, before)
		if err == nil && !strings.Contains(events, unknownQuery) {
			err = fmt.Errorf("%s: no event with %q, but:\n%s", before, unknownQuery, events)
		}
		return err
	}); err != nil {
		return 0, 0, err
	}
	added := time.Now()
	if err := configure(withTarget(10)); err != nil {
		return 0, 0, err
	}
	if err := w.everyPodKnows(ctx, query, 10); err != nil {
		return 0, 0, err
	}
	if err := w.replicas(ctx, clapsNamespace, before, 1); err != nil {
		return 0, 0, fmt.Errorf("a query was there, and its stream was deaf: %w", err)
	}
	late = time.Since(added)
	// A stream that is refused is opened again within a minute, and would then push, too.
	refusedSince, err := w.refusedStreams(ctx)
	if err == nil && refusedSince != refused {
		err = fmt.Errorf("%d streams of a query that is not there were refused", refusedSince-refused)
	}
	if err != nil {
		return 0, 0, err
	}
	if err := w.Apply(ctx, pushed(after, query)); err != nil {
		return 0, 0, err
	}
	if err := w.hpaTarget(ctx, after, "10"); err != nil {
		return 0, 0, err
	}
	edited := time.Now()
	if err := configure(withTarget(4)); err != nil {
		return 0, 0, err
	}
	if !w.since("2.21") {
		// It opens no StreamMetricSpec.
		if err := w.everyPodKnows(ctx, query, 4); err != nil {
			return 0, 0, err
		}
		_, err := w.Kubectl(ctx, "", "--namespace="+clapsNamespace, "patch", "scaledobject/"+after, "--type=merge", `--patch={"spec": {"cooldownPeriod": 301}}`)
		if err != nil {
			return 0, 0, err
		}
	}
	err = w.hpaTarget(ctx, after, "4")
	return late, time.Since(edited), err
}

// pushed returns a ScaledObject with a worker. It is polled at its creation and not again, so that what scales it later was pushed.
func pushed(name, query string) string {
	return fmt.Sprintf(`---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  scaleTargetRef: {name: %[1]s}
  pollingInterval: 600
  maxReplicaCount: 1
  triggers:
    - type: external-push
      metadata: {scalerAddress: %[3]q, query: %[4]s}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  replicas: 0
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: clap-worker
          image: clap-worker
          securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
`, name, clapsNamespace, scalerAddress, query)
}

// refusedStreams returns how many StreamIsActive clapometer has refused since its start.
func (w *World) refusedStreams(ctx context.Context) (int, error) {
	return w.metric(ctx, ownNamespace, "grpc_server_handled_total", `grpc_method="StreamIsActive"`, `grpc_code="PermissionDenied"`)
}

// everyPodKnows waits until each pod of clapometer answers for the query, with that target.
func (w *World) everyPodKnows(ctx context.Context, query string, target int) error {
	pods, err := w.Kubernetes.CoreV1().Pods(ownNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, pod := range pods.Items {
		err := w.Eventually(ctx, func() error {
			answer, err := w.Kubectl(ctx, "", "--namespace="+ownNamespace, "exec", pod.Name, "--",
				"/clapometer", "get", query, "--namespace", clapsNamespace)
			if err == nil && !strings.Contains(answer, fmt.Sprintf(", target %d ", target)) {
				err = fmt.Errorf("the pod %s has another target than %d:\n%s", pod.Name, target, answer)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *World) hpaTarget(ctx context.Context, scaledObject, wanted string) error {
	return w.Eventually(ctx, func() error {
		hpa, err := w.Kubernetes.AutoscalingV2().HorizontalPodAutoscalers(clapsNamespace).Get(ctx, "keda-hpa-"+scaledObject, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if target := hpa.Spec.Metrics[0].External.Target.AverageValue.String(); target != wanted {
			return fmt.Errorf("the HPA's target is %s, not %s", target, wanted)
		}
		return nil
	})
}
