package scenario

import (
	"context"
	"fmt"
	"time"

	"clapometer/tests/keda/lab"
)

// Outage takes the database away for half a minute while claps are worked on.
var Outage = Scenario{
	Name: "outage",
	Claim: "while the database is away KEDA starts and removes nothing; the ScaledJob says so, a ScaledObject with `fallback` stays Ready; " +
		"after its return everything goes on by itself, each row is done once, and a push arrives",
	Run: func(ctx context.Context, w *World) (string, error) {
		var away, recovered, pushed time.Duration
		var counted counted
		var removed int
		_, err := w.withScaledJob(ctx, "", func(jobs *jobs) error {
			stop, err := w.withWorkers(ctx)
			if err != nil {
				return err
			}
			defer stop()
			if away, recovered, err = w.away(ctx, jobs); err != nil {
				return err
			}
			if err := w.done(ctx, 20); err != nil {
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
		twice, err := w.succeededTwice(ctx)
		if err != nil {
			return "", err
		}
		if twice != 0 || counted.claps != 20 || counted.idle != 0 || removed != 0 {
			return "", fmt.Errorf("%v; %d claps succeeded twice, %d Jobs were deleted", counted, twice, removed)
		}
		return fmt.Sprintf("away for %.0f s: %v, none deleted; Ready again %.1f s after the return; a push then took %.2f s",
			away.Seconds(), counted, recovered.Seconds(), pushed.Seconds()), nil
	},
}

// away stops the database for at least half a minute while claps are worked on, and returns for how long, and how long after its
// return the ScaledJob was Ready again.
func (w *World) away(ctx context.Context, jobs *jobs) (away, recovered time.Duration, err error) {
	if _, err := w.SQL(ctx, "INSERT INTO make_it_clap (duration_seconds) SELECT 10 FROM generate_series(1, 20)"); err != nil {
		return 0, 0, err
	}
	if err := w.running(ctx, 5); err != nil {
		return 0, 0, err
	}
	if err := w.scaleDatabase(ctx, 0); err != nil {
		return 0, 0, err
	}
	stopped := time.Now()
	if err := w.Eventually(ctx, func() error {
		return w.isRead(ctx, scaledJobs, clapsNamespace, "postgres-batch", "code = Unavailable desc = ")
	}); err != nil {
		return 0, 0, err
	}
	before := jobs.count()
	replicas, err := w.wantedReplicas(ctx, clapsNamespace, "clap-worker")
	if err != nil {
		return 0, 0, err
	}
	// Four polls of the ScaledJob, and one of the ScaledObject.
	if err := pause(ctx, 20*time.Second); err != nil {
		return 0, 0, err
	}
	if after := jobs.count(); after != before {
		return 0, 0, fmt.Errorf("%d Jobs started without a database", after-before)
	}
	after, err := w.wantedReplicas(ctx, clapsNamespace, "clap-worker")
	if err == nil && after < replicas {
		err = fmt.Errorf("the ScaledObject's replicas went from %d to %d without a database", replicas, after)
	}
	if err != nil {
		return 0, 0, err
	}
	// KEDA leaves an object with `fallback` Ready, also while none of its triggers answers.
	if err := w.isReady(ctx, scaledObjects, clapsNamespace, "clap-worker"); err != nil {
		return 0, 0, fmt.Errorf("the ScaledObject with fallback: %w", err)
	}
	if err := pause(ctx, time.Until(stopped.Add(30*time.Second))); err != nil {
		return 0, 0, err
	}
	if err := w.scaleDatabase(ctx, 1); err != nil {
		return 0, 0, err
	}
	returned := time.Now()
	err = w.isReady(ctx, scaledJobs, clapsNamespace, "postgres-batch")
	return returned.Sub(stopped), time.Since(returned), err
}

// succeededTwice returns how many claps have two attempts with success.
func (w *World) succeededTwice(ctx context.Context) (int, error) {
	return w.Number(ctx, "SELECT count(*) FROM (SELECT FROM clap_attempt WHERE outcome = 'SUCCESS' GROUP BY clap_id HAVING count(*) > 1) AS twice")
}

// running waits until so many claps or more are RUNNING.
func (w *World) running(ctx context.Context, claps int) error {
	return w.Eventually(ctx, func() error {
		running, err := w.Number(ctx, "SELECT count(*) FROM clap WHERE status = 'RUNNING'")
		if err == nil && running < claps {
			err = fmt.Errorf("%d of %d claps are RUNNING", running, claps)
		}
		return err
	})
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
		_, err := w.Kubectl(ctx, "", "--namespace="+namespace, "rollout", "status", "statefulset/"+name, lab.Timeout)
		return err
	}
	_, err := w.Kubectl(ctx, "", "--namespace="+namespace, "wait", "pod/"+name+"-0", "--for=delete", lab.Timeout)
	return err
}
