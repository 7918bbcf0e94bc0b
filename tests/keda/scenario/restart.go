package scenario

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"clapometer/tests/keda/lab"
)

// OperatorRestart restarts KEDA's operator while it has many objects.
var OperatorRestart = Scenario{
	Name:  "operator-restart",
	Claim: "after a restart of KEDA's operator 300 ScaledJobs and 300 ScaledObjects are all polled again, one after the other as they are reconciled, and not at the same time",
	Long:  true,
	Alone: true,
	Run: func(ctx context.Context, w *World) (string, error) {
		stop, err := w.withNumbers(ctx)
		defer stop()
		if err != nil {
			return "", err
		}
		var manifests strings.Builder
		for i := range manyObjects {
			trigger := numbersTrigger("external", "none", "")
			manifests.WriteString(numbersObject(fmt.Sprintf("object-%d", i), "pollingInterval: 600", trigger))
			manifests.WriteString(strings.Replace(numbersJob(fmt.Sprintf("job-%d", i), "", "{name: clap-worker, image: clap-worker}", trigger),
				"pollingInterval: 2", "pollingInterval: 600", 1))
		}
		if err := w.Apply(ctx, manifests.String()); err != nil {
			return "", err
		}
		if _, err := w.allAsked(ctx, time.Time{}); err != nil {
			return "", err
		}
		started, err := w.restartOperator(ctx)
		if err != nil {
			return "", err
		}
		times, err := w.allAsked(ctx, started)
		if err != nil {
			return "", err
		}
		first, last := slices.Min(times), slices.Max(times)
		if last-first < 1 {
			return "", fmt.Errorf("all %d objects were polled within %.1f s", len(times), last-first)
		}
		half := slices.Sorted(slices.Values(times))[len(times)/2]
		return fmt.Sprintf("%d objects: the first polled %.0f s after the operator was started, half of them %.0f s later, the last %.0f s later",
			len(times), first-seconds(started.UnixMilli()), half-first, last-first), nil
	},
}

const manyObjects = 300

// allAsked waits until every object was polled after a time, and returns when each was polled last, in seconds since 1970.
func (w *World) allAsked(ctx context.Context, after time.Time) ([]float64, error) {
	var times []float64
	err := w.Eventually(ctx, func() error {
		all, err := w.series(ctx, numbersNamespace, "clapometer_trigger_last_request_timestamp_seconds", `query="none"`)
		if err != nil {
			return err
		}
		times = slices.DeleteFunc(all, func(at float64) bool { return at < seconds(after.UnixMilli()) })
		if len(times) < 2*manyObjects {
			return fmt.Errorf("%d of %d objects were polled", len(times), 2*manyObjects)
		}
		return nil
	})
	return times, err
}

// restartOperator ends the pod of KEDA's operator, starts another one, and returns when it was started.
func (w *World) restartOperator(ctx context.Context) (time.Time, error) {
	scale := func(replicas int) error {
		_, err := w.Kubectl(ctx, "", "--namespace=keda", "scale", "deployment/keda-operator", fmt.Sprintf("--replicas=%d", replicas))
		return err
	}
	if err := scale(0); err != nil {
		return time.Time{}, err
	}
	if _, err := w.Kubectl(ctx, "", "--namespace=keda", "wait", "pod", "--selector=app=keda-operator", "--for=delete", lab.Timeout); err != nil {
		return time.Time{}, err
	}
	started := time.Now()
	if err := scale(1); err != nil {
		return time.Time{}, err
	}
	_, err := w.Kubectl(ctx, "", "--namespace=keda", "rollout", "status", "deployment/keda-operator", lab.Timeout)
	return started, err
}
