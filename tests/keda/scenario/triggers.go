package scenario

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// SeveralTriggers gives ScaledJobs three triggers each, and no Job ever ends.
var SeveralTriggers = Scenario{
	Name: "several-triggers",
	Claim: "a ScaledJob with triggers of 4, 2 and an inactive one starts 4 Jobs under `max`, 2 under `min`, 3 under `avg`, 6 under `sum`, and no more while they run; " +
		"`minReplicaCount: 2` starts Jobs where there is nothing to do, and again when they have ended",
	Long: true,
	Run: func(ctx context.Context, w *World) (string, error) {
		stop, err := w.withNumbers(ctx)
		defer stop()
		if err != nil {
			return "", err
		}
		wanted := map[string]int{"max": 4, "min": 2, "avg": 3, "sum": 6}
		const larger, smaller = "number, param.name: larger", "number, param.name: smaller"
		var manifests string
		for calculation := range wanted {
			manifests += numbersJob(calculation, "scalingStrategy: {multipleScalersCalculation: "+calculation+"}", "{name: clap-worker, image: clap-worker}",
				numbersTrigger("external", larger, ""), numbersTrigger("external", smaller, ""), numbersTrigger("external", "none", ""))
		}
		manifests += numbersJob("floor", "minReplicaCount: 2", "{name: done, image: postgres, args: [psql, --version]}", numbersTrigger("external", "none", ""))
		for _, name := range []string{"larger", "smaller"} {
			if err := w.number(ctx, name, 0); err != nil {
				return "", err
			}
		}
		applied := time.Now()
		if err := w.Apply(ctx, manifests); err != nil {
			return "", err
		}
		for calculation := range wanted {
			if err := w.settles(ctx, numbersNamespace, calculation, numbersPoll, applied); err != nil {
				return "", err
			}
		}
		// The smaller first: a poll that read only the larger would start four Jobs under `min` and `avg`, and no Job ends.
		if err := w.number(ctx, "smaller", 2); err != nil {
			return "", err
		}
		for calculation := range wanted {
			if err := w.hasJobs(ctx, calculation, 2); err != nil {
				return "", err
			}
		}
		if err := w.number(ctx, "larger", 4); err != nil {
			return "", err
		}
		for calculation, jobs := range wanted {
			if err := w.hasJobs(ctx, calculation, jobs); err != nil {
				return "", err
			}
		}
		if err := w.Eventually(ctx, func() error {
			found, err := w.jobsOf(ctx, "floor")
			if err == nil && found < 6 {
				err = fmt.Errorf("%d Jobs of `minReplicaCount: 2`", found)
			}
			return err
		}); err != nil {
			return "", err
		}
		var seen []string
		for _, calculation := range []string{"max", "min", "avg", "sum"} {
			found, err := w.jobsOf(ctx, calculation)
			if err == nil && found != wanted[calculation] {
				err = fmt.Errorf("%s: %d Jobs in the end", calculation, found)
			}
			if err != nil {
				return "", err
			}
			seen = append(seen, fmt.Sprintf("`%s` %d", calculation, found))
		}
		return "Jobs: " + strings.Join(seen, ", ") + ", three polls later as many; 6 idle Jobs and more by `minReplicaCount: 2`", nil
	},
}

// hasJobs waits until a ScaledJob has so many Jobs, and for three polls after that.
func (w *World) hasJobs(ctx context.Context, scaledJob string, jobs int) error {
	if err := w.Eventually(ctx, func() error {
		found, err := w.jobsOf(ctx, scaledJob)
		if err == nil && found != jobs {
			err = fmt.Errorf("%s: %d Jobs, not %d", scaledJob, found, jobs)
		}
		return err
	}); err != nil {
		return err
	}
	before, err := w.requests(ctx, scaledJob)
	if err != nil {
		return err
	}
	return w.Eventually(ctx, func() error {
		// A poll asks each of the three triggers twice.
		asked, err := w.requests(ctx, scaledJob)
		if err == nil && asked < before+4*6 {
			err = fmt.Errorf("%s: %d requests since there were %d Jobs", scaledJob, asked-before, jobs)
		}
		return err
	})
}

// numbersPoll is the `pollingInterval` of numbersJob.
const numbersPoll = 2 * time.Second

// numbersJob is a ScaledJob with a container. spec is what its specification has beside.
func numbersJob(name, spec, container string, triggers ...string) string {
	return fmt.Sprintf(`---
apiVersion: keda.sh/v1alpha1
kind: ScaledJob
metadata: {name: %s, namespace: numbers}
spec:
  pollingInterval: 2
  %s
  jobTargetRef: {template: {spec: {restartPolicy: Never, securityContext: {runAsUser: 999}, containers: [%s]}}}
  triggers:%s
`, name, spec, container, strings.Join(triggers, ""))
}

// ScaledObjects shows the fields of a ScaledObject that change what KEDA asks, and when.
var ScaledObjects = Scenario{
	Name: "scaled-objects",
	Claim: "with `useCachedMetrics` the HPA gets the poll's value; `fallback` starts when a query fails, with Ready=True and Fallback=True, and ends with the failure; " +
		"under `scalingModifiers` the formula alone decides; from KEDA 2.21 `minReplicaCount: 1` replaces the polls by what the HPA asks",
	Long: true,
	Run: func(ctx context.Context, w *World) (string, error) {
		stop, err := w.withNumbers(ctx)
		defer stop()
		if err != nil {
			return "", err
		}
		for name, value := range map[string]int{"cached": 2, "asked": 2, fallingBack: 1} {
			if err := w.number(ctx, name, value); err != nil {
				return "", err
			}
		}
		if err := w.Apply(ctx, scaledObjectsManifests()); err != nil {
			return "", err
		}
		// KEDA's webhook warns of this one.
		if _, err := w.Kubectl(ctx, floorObject(), "apply", "--filename=-"); err != nil {
			return "", err
		}
		var seen []string
		for _, part := range []func(context.Context) (string, error){w.formulaDecides, w.pollIsCached, w.fallbackStarts, w.floorIsPolled} {
			text, err := part(ctx)
			if err != nil {
				return "", err
			}
			seen = append(seen, text)
		}
		return strings.Join(seen, "; "), nil
	},
}

func scaledObjectsManifests() string {
	number := func(name, more string) string {
		return numbersTrigger("external", "number, param.name: "+name, more)
	}
	const scaleDownAtOnce = "advanced: {horizontalPodAutoscalerConfig: {behavior: {scaleDown: {stabilizationWindowSeconds: 0}}}}"
	return numbersObject("cached", "pollingInterval: 600", number("cached", "\n      useCachedMetrics: true")) +
		numbersObject("asked", "pollingInterval: 600", number("asked", "")) +
		numbersObject(fallingBack, "pollingInterval: 2\nfallback: {failureThreshold: 2, replicas: 3}\n"+scaleDownAtOnce,
			number(fallingBack, "")) +
		numbersObject("modified", "pollingInterval: 2\nadvanced: {scalingModifiers: {formula: four - two, target: \"1\"}}",
			numbersTrigger("external", "four", ""), numbersTrigger("external", "two", ""), numbersTrigger("external", "nine", "")) +
		numbersObject("polled", "pollingInterval: 1", numbersTrigger("external", "two", ""))
}

func floorObject() string {
	return numbersObject("floor", "pollingInterval: 1\nminReplicaCount: 1", numbersTrigger("external", "two", ""))
}

// formulaDecides waits for the replicas that the formula says: 4 - 2, and not the 9 of a trigger that is not in it.
func (w *World) formulaDecides(ctx context.Context) (string, error) {
	if err := w.replicas(ctx, numbersNamespace, "modified", 2); err != nil {
		return "", err
	}
	return "formula `four - two`: 2 replicas, whatever the trigger of 9 says", nil
}

// pollIsCached changes two numbers between two polls: one is read again for the metrics server, the other is not.
func (w *World) pollIsCached(ctx context.Context) (string, error) {
	for _, name := range []string{"cached", "asked"} {
		if err := w.replicas(ctx, numbersNamespace, name, 2); err != nil {
			return "", err
		}
		if err := w.number(ctx, name, 3); err != nil {
			return "", err
		}
	}
	if err := w.Eventually(ctx, func() error { return w.metricIs(ctx, "asked", "3") }); err != nil {
		return "", err
	}
	if err := w.metricIs(ctx, "cached", "2"); err != nil {
		return "", err
	}
	return "cached: 2 in the HPA's metric when 3 was in the table, not cached: 3", nil
}

func (w *World) metricIs(ctx context.Context, scaledObject, wanted string) error {
	names, err := w.Kubectl(ctx, "", "--namespace="+numbersNamespace, "get", "scaledobject/"+scaledObject, "--output=jsonpath={.status.externalMetricNames[0]}")
	if err != nil {
		return err
	}
	value, err := w.externalMetric(ctx, numbersNamespace, names, scaledObject)
	if err == nil && value != wanted {
		err = fmt.Errorf("the metric of %s is %s, not %s", scaledObject, value, wanted)
	}
	return err
}

const fallingBack = "falling-back"

// fallbackStarts takes a query's table away, and brings it back.
func (w *World) fallbackStarts(ctx context.Context) (string, error) {
	if err := w.replicas(ctx, numbersNamespace, fallingBack, 1); err != nil {
		return "", err
	}
	if _, err := w.SQLAt(ctx, numbersDatabase, "ALTER TABLE number RENAME TO gone"); err != nil {
		return "", err
	}
	if err := w.fallbackIs(ctx, fallingBack, "True", 3); err != nil {
		return "", err
	}
	status, reason, err := w.Condition(ctx, scaledObjects, numbersNamespace, fallingBack, "Ready")
	if err != nil {
		return "", err
	}
	if status != "True" {
		return "", fmt.Errorf("while it falls back Ready is %s (%s)", status, reason)
	}
	if _, err := w.SQLAt(ctx, numbersDatabase, "ALTER TABLE gone RENAME TO number"); err != nil {
		return "", err
	}
	if err := w.fallbackIs(ctx, fallingBack, "False", 1); err != nil {
		return "", err
	}
	return "fallback from 1 replica to 3 and back, Ready=True", nil
}

func (w *World) fallbackIs(ctx context.Context, name, wanted string, replicas int32) error {
	if err := w.Eventually(ctx, func() error {
		status, reason, err := w.Condition(ctx, scaledObjects, numbersNamespace, name, "Fallback")
		if err == nil && status != wanted {
			err = fmt.Errorf("%s: Fallback is %s (%s)", name, status, reason)
		}
		return err
	}); err != nil {
		return err
	}
	return w.replicas(ctx, numbersNamespace, name, replicas)
}

// floorIsPolled compares how often two objects with the same `pollingInterval` are asked for, one with `minReplicaCount: 1`.
func (w *World) floorIsPolled(ctx context.Context) (string, error) {
	counts := func() (polled, floor int, err error) {
		if polled, err = w.requests(ctx, "polled"); err != nil {
			return 0, 0, err
		}
		floor, err = w.requests(ctx, "floor")
		return polled, floor, err
	}
	polledBefore, floorBefore, err := counts()
	if err != nil {
		return "", err
	}
	var polled, floor int
	if err := w.Eventually(ctx, func() error {
		polledNow, floorNow, err := counts()
		polled, floor = polledNow-polledBefore, floorNow-floorBefore
		if err == nil && polled < 100 {
			err = fmt.Errorf("%d requests for an object that is polled every second", polled)
		}
		return err
	}); err != nil {
		return "", err
	}
	seen := fmt.Sprintf("`pollingInterval: 1`: %d requests, with `minReplicaCount: 1` %d in the same time", polled, floor)
	if fewer := floor < polled/2; fewer != w.since("2.21") {
		return "", fmt.Errorf("%s", seen)
	}
	return seen, nil
}
