package scenario

import (
	"context"
	"fmt"
	"syscall"
	"time"
)

// FrozenDatabase stops the processes of the database while claps are worked on: connections stay open, and nobody answers.
var FrozenDatabase = Scenario{
	Name: "frozen-database",
	Claim: "while the database is frozen, its connections open and nobody answering, KEDA starts and removes nothing, and the ScaledJob is not Ready; after the thaw everything goes on " +
		"by itself, each row is done once and no Job is idle",
	Long: true,
	Run: func(ctx context.Context, w *World) (string, error) {
		const pod = "my-release-postgresql-0"
		var recovered time.Duration
		jobs, err := w.withScaledJob(ctx, "", func(jobs *jobs) error {
			if _, err := w.SQL(ctx, "INSERT INTO make_it_clap (duration_seconds) SELECT 10 FROM generate_series(1, 20)"); err != nil {
				return err
			}
			if err := w.running(ctx, 5); err != nil {
				return err
			}
			if err := w.Signal(clapsNamespace, pod, syscall.SIGSTOP); err != nil {
				return err
			}
			thaw := func() error { return w.Signal(clapsNamespace, pod, syscall.SIGCONT) }
			defer func() { _ = thaw() }()
			if err := w.Eventually(ctx, func() error { return w.isFailing(ctx, clapsNamespace, "postgres-batch") }); err != nil {
				return err
			}
			before := jobs.count()
			// Four polls.
			if err := pause(ctx, 4*clapsPoll); err != nil {
				return err
			}
			if started := jobs.count() - before; started != 0 {
				return fmt.Errorf("%d Jobs started while the database was frozen", started)
			}
			if err := thaw(); err != nil {
				return err
			}
			thawed := time.Now()
			if err := w.isReady(ctx, scaledJobs, clapsNamespace, "postgres-batch"); err != nil {
				return err
			}
			recovered = time.Since(thawed)
			return w.done(ctx, 20)
		})
		if err != nil {
			return "", err
		}
		counted, err := w.count(ctx, jobs)
		if err != nil {
			return "", err
		}
		twice, err := w.succeededTwice(ctx)
		if err != nil {
			return "", err
		}
		if twice != 0 || counted.claps != 20 || counted.idle != 0 || jobs.removed() != 0 {
			return "", fmt.Errorf("%v; %d claps succeeded twice, %d Jobs were deleted", counted, twice, jobs.removed())
		}
		return fmt.Sprintf("%v, none deleted; Ready again %.1f s after the thaw", counted, recovered.Seconds()), nil
	},
}

// isFailing checks that a ScaledJob's polls fail.
func (w *World) isFailing(ctx context.Context, namespace, name string) error {
	status, reason, err := w.Condition(ctx, scaledJobs, namespace, name, "Ready")
	if err == nil && status != "False" {
		err = fmt.Errorf("%s: Ready is %s (%s)", name, status, reason)
	}
	return err
}
