package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clapometer/tests/keda/lab"
)

// Keeper takes five databases away at once from five ScaledObjects that are pushed to.
var Keeper = Scenario{
	Name: "keeper",
	Claim: "with the chart's `keeper.enabled` an outage of the database ends no push stream: five ScaledObjects on five databases, and after their " +
		"return a committed row is pushed to each, before a poll finds it",
	Run: func(ctx context.Context, w *World) (string, error) {
		stop, err := w.withFiveDatabases(ctx)
		if err != nil {
			return "", err
		}
		defer stop()
		return w.keptThrough(ctx, 30*time.Second)
	},
}

// LongOutage is the same for an outage as long as in earnest, and then without the keeper.
var LongOutage = Scenario{
	Name: "long-outage",
	Claim: "so it is in an outage of 150 s; without the keeper KEDA ends the streams from 2.21 on, and they come back late; KEDA before 2.21 keeps them, " +
		"with the keeper and without it",
	Long: true,
	Run: func(ctx context.Context, w *World) (string, error) {
		const away = 150 * time.Second
		stop, err := w.withFiveDatabases(ctx)
		if err != nil {
			return "", err
		}
		defer stop()
		seen, err := w.keptThrough(ctx, away)
		if err != nil {
			return "", err
		}
		if _, err := w.Kubectl(ctx, "", "--namespace="+fiveNamespace, "delete", "scaledjob/clapometer-keeper"); err != nil {
			return "", err
		}
		alone, err := w.outageOfFive(ctx, away)
		if err != nil {
			return "", fmt.Errorf("without the keeper: %w", err)
		}
		seen = fmt.Sprintf("%s. The same without the keeper: %d streams ended, %.1f s", seen, alone.ended, alone.pushed.Seconds())
		if ended := alone.ended > 0; ended != w.since("2.21") {
			return "", errors.New(seen)
		}
		return seen, nil
	},
}

// keptThrough has an outage with the keeper, and fails if a stream ended or a row was not pushed after it.
func (w *World) keptThrough(ctx context.Context, away time.Duration) (string, error) {
	kept, err := w.outageOfFive(ctx, away)
	if err != nil {
		return "", err
	}
	if kept.ended != 0 {
		return "", fmt.Errorf("%d push streams ended in an outage of %v", kept.ended, away)
	}
	if err := within(kept.pushed, fivePoll*3/4, "the last of five pushes after the outage"); err != nil {
		return "", err
	}
	return fmt.Sprintf("away for %.0f s: no stream ended; five rows that were committed after the return took %.2f s at most",
		kept.away.Seconds(), kept.pushed.Seconds()), nil
}

const (
	fiveNamespace = "five-databases"
	// fivePoll is so long that a push comes before the next poll, and so short that one sees an outage.
	fivePoll = 20 * time.Second
)

var five = []string{"one", "two", "three", "four", "five"}

const (
	fiveWorker = `
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: %[1]s, namespace: five-databases}
spec:
  scaleTargetRef: {name: %[1]s}
  pollingInterval: %.0[2]f
  cooldownPeriod: 1
  triggers:
    - type: external-push
      metadata: {scalerAddress: "clapometer.five-databases.svc.cluster.local:9090", query: %[1]s}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, namespace: five-databases}
spec:
  replicas: 0
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec: {terminationGracePeriodSeconds: 1, containers: [{name: clap-worker, image: clap-worker}]}
`
)

// withFiveDatabases installs a server with five databases, the chart, and a ScaledObject with its worker for each, and
// waits until all streams are open. It returns what removes them.
func (w *World) withFiveDatabases(ctx context.Context) (func(), error) {
	stop := func() {
		_, _ = w.Kubectl(context.WithoutCancel(ctx), "", "delete", "namespace", fiveNamespace, "--wait=false")
	}
	return stop, w.fiveDatabases(ctx)
}

func (w *World) fiveDatabases(ctx context.Context) error {
	// An earlier scenario's namespace may still be on its way out.
	if _, err := w.Kubectl(ctx, "", "wait", "namespace/"+fiveNamespace, "--for=delete", lab.Timeout); err != nil {
		return err
	}
	if err := w.Apply(ctx, ownPostgreSQL(fiveNamespace)); err != nil {
		return err
	}
	if _, err := w.Kubectl(ctx, "", "--namespace="+fiveNamespace, "rollout", "status", "statefulset/postgresql", lab.Timeout); err != nil {
		return err
	}
	for _, name := range five {
		if _, err := w.SQLAt(ctx, Database{fiveNamespace, "postgresql", "postgres"}, "CREATE DATABASE "+name); err != nil {
			return err
		}
		if err := w.inFive(ctx, name, "CREATE TABLE task ()"); err != nil {
			return err
		}
	}
	chart, err := os.ReadFile(w.FiveDatabases)
	if err != nil {
		return err
	}
	if err := w.Apply(ctx, string(chart)); err != nil {
		return err
	}
	if err := w.serves(ctx, fiveNamespace, "clapometer"); err != nil {
		return err
	}
	var workers string
	for _, name := range five {
		workers += fmt.Sprintf(fiveWorker, name, fivePoll.Seconds())
	}
	if err := w.Apply(ctx, workers); err != nil {
		return err
	}
	for _, name := range five {
		if err := w.isReady(ctx, scaledObjects, fiveNamespace, name); err != nil {
			return err
		}
	}
	return w.isReady(ctx, scaledJobs, fiveNamespace, "clapometer-keeper")
}

func (w *World) inFive(ctx context.Context, database, sql string) error {
	_, err := w.SQLAt(ctx, Database{fiveNamespace, "postgresql", database}, sql)
	return err
}

// fiveOutage is what became of the push streams in an outage.
type fiveOutage struct {
	away   time.Duration // for which the server was
	ended  int           // streams
	pushed time.Duration // from a row's commit to its worker, the longest of the five
}

func (w *World) outageOfFive(ctx context.Context, away time.Duration) (fiveOutage, error) {
	for _, name := range five {
		if err := w.inFive(ctx, name, "TRUNCATE task"); err != nil {
			return fiveOutage{}, err
		}
	}
	if err := w.Eventually(ctx, func() error { return w.fiveAreIdle(ctx) }); err != nil {
		return fiveOutage{}, err
	}
	before, err := w.endedStreams(ctx)
	if err != nil {
		return fiveOutage{}, err
	}
	if err := w.fiveServer(ctx, 0); err != nil {
		return fiveOutage{}, err
	}
	stopped := time.Now()
	for _, name := range five {
		err := w.Eventually(ctx, func() error { return w.isRead(ctx, scaledObjects, fiveNamespace, name, "code = Unavailable desc = ") })
		if err != nil {
			return fiveOutage{}, fmt.Errorf("KEDA did not notice the outage: %w", err)
		}
	}
	if err := pause(ctx, time.Until(stopped.Add(away))); err != nil {
		return fiveOutage{}, err
	}
	if err := w.fiveServer(ctx, 1); err != nil {
		return fiveOutage{}, err
	}
	outage := fiveOutage{away: time.Since(stopped)}
	if outage.pushed, err = w.pushesToFive(ctx); err != nil {
		return fiveOutage{}, err
	}
	after, err := w.endedStreams(ctx)
	outage.ended = after - before
	return outage, err
}

// fiveAreIdle checks that each worker has no replica and its stream is open.
func (w *World) fiveAreIdle(ctx context.Context) error {
	deployments, err := w.Kubernetes.AppsV1().Deployments(fiveNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, deployment := range deployments.Items {
		if deployment.Name != "clapometer" && *deployment.Spec.Replicas != 0 {
			return fmt.Errorf("%s has %d replicas", deployment.Name, *deployment.Spec.Replicas)
		}
	}
	open, err := w.metric(ctx, fiveNamespace, "clapometer_streams", `rpc="StreamIsActive"`)
	if err == nil && open != len(five) {
		err = fmt.Errorf("%d streams are open, not %d", open, len(five))
	}
	return err
}

// pushesToFive commits a row in each database, and returns how long it took until the last worker was to have a replica.
func (w *World) pushesToFive(ctx context.Context) (time.Duration, error) {
	committed := make([]time.Time, len(five))
	for i, name := range five {
		if err := w.inFive(ctx, name, "INSERT INTO task DEFAULT VALUES"); err != nil {
			return 0, err
		}
		committed[i] = time.Now()
	}
	took := make([]time.Duration, len(five))
	failed := make([]error, len(five))
	var waiting sync.WaitGroup
	for i, name := range five {
		waiting.Go(func() {
			failed[i] = w.replicas(ctx, fiveNamespace, name, 1)
			took[i] = time.Since(committed[i])
		})
	}
	waiting.Wait()
	return slices.Max(took), errors.Join(failed...)
}

func (w *World) fiveServer(ctx context.Context, replicas int) error {
	return w.scaleServer(ctx, fiveNamespace, "postgresql", replicas)
}

// endedStreams returns how many StreamIsActive have ended since clapometer's start.
func (w *World) endedStreams(ctx context.Context) (int, error) {
	return w.metric(ctx, fiveNamespace, "grpc_server_handled_total", `grpc_method="StreamIsActive"`)
}
