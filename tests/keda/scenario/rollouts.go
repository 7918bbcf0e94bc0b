package scenario

import (
	"context"
	"fmt"
)

// Rollouts edits a ScaledJob while its Jobs run, with each rollout strategy.
var Rollouts = Scenario{
	Name:  "rollouts",
	Claim: "an edit of a ScaledJob keeps its Jobs under `gradual`; without it they are deleted, give their rows back, and nothing is lost",
	Run: func(ctx context.Context, w *World) (string, error) {
		gradual, err := w.edited(ctx, "")
		if err != nil {
			return "", fmt.Errorf("gradual: %w", err)
		}
		if gradual.deleted != 0 || gradual.counted.claps != 3 || gradual.counted.attempts != 3 || gradual.counted.jobs != 3 {
			return "", fmt.Errorf("gradual: %v", gradual)
		}
		otherwise, err := w.edited(ctx, `{"spec": {"rollout": null}}`)
		if err != nil {
			return "", fmt.Errorf("default: %w", err)
		}
		// KEDA polls at once after the edit. A Job of that poll may come before a deleted one has given its row back, and
		// then finds nothing to do.
		if otherwise.deleted != 3 || otherwise.interrupted != 3 || otherwise.counted.claps != 3 {
			return "", fmt.Errorf("default: %v", otherwise)
		}
		return fmt.Sprintf("gradual: %v. Default: %v", gradual, otherwise), nil
	},
}

type editedRun struct {
	counted     counted
	deleted     int
	interrupted int
}

func (r editedRun) String() string {
	return fmt.Sprintf("%d Jobs deleted, %d attempts INTERRUPTED, %d claps SUCCESS by %d Jobs, of which %d idle",
		r.deleted, r.interrupted, r.counted.claps, r.counted.jobs, r.counted.idle)
}

// edited has three claps running, edits the ScaledJob, and waits until all are done.
func (w *World) edited(ctx context.Context, before string) (editedRun, error) {
	jobs, err := w.withScaledJob(ctx, before, func(*jobs) error {
		if _, err := w.SQL(ctx, "INSERT INTO make_it_clap (duration_seconds) SELECT 20 FROM generate_series(1, 3)"); err != nil {
			return err
		}
		if err := w.running(ctx, 3); err != nil {
			return err
		}
		if err := w.patchScaledJob(ctx, `{"spec": {"maxReplicaCount": 9}}`); err != nil {
			return err
		}
		return w.done(ctx, 3)
	})
	if err != nil {
		return editedRun{}, err
	}
	run := editedRun{deleted: jobs.removed()}
	if run.counted, err = w.count(ctx, jobs); err != nil {
		return editedRun{}, err
	}
	run.interrupted, err = w.Number(ctx, "SELECT count(*) FROM clap_attempt WHERE outcome = 'INTERRUPTED'")
	return run, err
}
