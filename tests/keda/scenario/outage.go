package scenario

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Outage takes the database away for half a minute while claps are worked on.
var Outage = Scenario{
	Name: "outage",
	Claim: "while the database is away KEDA starts and removes nothing; the ScaledJob says so, a ScaledObject with `fallback` stays Ready; " +
		"after its return everything goes on by itself, each row is done once, and a push arrives",
	Run: func(ctx context.Context, w *World) (string, error) {
		var recovered, pushed time.Duration
		var counted counted
		var removed int
		_, err := w.withScaledJob(ctx, "", func(jobs *jobs) error {
			stop, err := w.withWorkers(ctx)
			if err != nil {
				return err
			}
			defer stop()
			// So that the worker is gone soon after the last row, and a push can be seen.
			_, err = w.Kubectl(ctx, "", "--namespace="+clapsNamespace, "patch", "scaledobject/clap-worker", "--type=merge", `--patch={"spec": {"cooldownPeriod": 5}}`)
			if err != nil {
				return err
			}
			if recovered, err = w.away(ctx, jobs); err != nil {
				return err
			}
			if err := w.done(ctx, 20, 4*time.Minute); err != nil {
				return err
			}
			// The streams are those of before the outage, or what KEDA made of them.
			if counted, err = w.count(ctx, jobs); err != nil {
				return err
			}
			// The next row is for the Deployment; a Job that KEDA starts for it goes with the ScaledJob.
			removed = jobs.removed()
			pushed, err = w.firstWorker(ctx)
			return err
		})
		if err != nil {
			return "", err
		}
		twice, err := w.Number(ctx, "SELECT count(*) FROM (SELECT FROM clap_attempt WHERE outcome = 'SUCCESS' GROUP BY clap_id HAVING count(*) > 1) AS twice")
		if err != nil {
			return "", err
		}
		if twice != 0 || counted.claps != 20 || counted.idle != 0 || removed != 0 {
			return "", fmt.Errorf("%v; %d claps succeeded twice, %d Jobs were deleted", counted, twice, removed)
		}
		if err := within(pushed, 5*time.Second, "a push after the outage"); err != nil {
			return "", err
		}
		return fmt.Sprintf("away for 30 s: %v, none deleted; Ready again %.1f s after the return; a push then took %.2f s",
			counted, recovered.Seconds(), pushed.Seconds()), nil
	},
}

// away stops the database for 30 s while ten claps are worked on, and returns how long after its
// return the ScaledJob was Ready again.
func (w *World) away(ctx context.Context, jobs *jobs) (time.Duration, error) {
	if _, err := w.SQL(ctx, "INSERT INTO make_it_clap (duration_seconds) SELECT 10 FROM generate_series(1, 20)"); err != nil {
		return 0, err
	}
	err := w.Eventually(ctx, time.Minute, func() error {
		running, err := w.Number(ctx, "SELECT count(*) FROM clap WHERE status = 'RUNNING'")
		if err == nil && running != 10 {
			err = fmt.Errorf("%d of 10 claps are RUNNING", running)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	if err := w.scaleDatabase(ctx, 0); err != nil {
		return 0, err
	}
	stopped := time.Now()
	if err := w.Eventually(ctx, 25*time.Second, func() error {
		return w.isRead(ctx, scaledJobs, clapsNamespace, "postgres-batch", "code = Unavailable desc = ")
	}); err != nil {
		return 0, err
	}
	before := jobs.count()
	replicas, err := w.wantedReplicas(ctx)
	if err != nil {
		return 0, err
	}
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(time.Until(stopped.Add(30 * time.Second))):
	}
	if after := jobs.count(); after != before {
		return 0, fmt.Errorf("%d Jobs started without a database", after-before)
	}
	if after, err := w.wantedReplicas(ctx); err != nil || after < replicas {
		return 0, fmt.Errorf("the ScaledObject's replicas went from %d to %d without a database: %w", replicas, after, err)
	}
	// KEDA leaves an object with `fallback` Ready, also while none of its triggers answers.
	status, reason, err := w.Condition(ctx, scaledObjects, clapsNamespace, "clap-worker", "Ready")
	if err == nil && status != "True" {
		err = fmt.Errorf("the ScaledObject with fallback: Ready is %s (%s)", status, reason)
	}
	if err != nil {
		return 0, err
	}
	if err := w.scaleDatabase(ctx, 1); err != nil {
		return 0, err
	}
	returned := time.Now()
	err = w.isReady(ctx, scaledJobs, clapsNamespace, "postgres-batch", time.Minute)
	return time.Since(returned), err
}

func (w *World) wantedReplicas(ctx context.Context) (int32, error) {
	deployment, err := w.Kubernetes.AppsV1().Deployments(clapsNamespace).Get(ctx, "clap-worker", metav1.GetOptions{})
	if err != nil {
		return 0, err
	}
	return *deployment.Spec.Replicas, nil
}

// scaleDatabase stops or starts PostgreSQL, and waits until it is so.
func (w *World) scaleDatabase(ctx context.Context, replicas int) error {
	return w.scaleServer(ctx, clapsNamespace, "my-release-postgresql", replicas)
}

func (w *World) scaleServer(ctx context.Context, namespace, name string, replicas int) error {
	if _, err := w.Kubectl(ctx, "", "--namespace="+namespace, "scale", "statefulset/"+name, fmt.Sprintf("--replicas=%d", replicas)); err != nil {
		return err
	}
	if replicas > 0 {
		_, err := w.Kubectl(ctx, "", "--namespace="+namespace, "rollout", "status", "statefulset/"+name, "--timeout=120s")
		return err
	}
	_, err := w.Kubectl(ctx, "", "--namespace="+namespace, "wait", "pod/"+name+"-0", "--for=delete", "--timeout=60s")
	return err
}
