package scenario

import (
	"context"
	"fmt"
)

// Builtin has short rows come while long ones are worked on, with KEDA's own trigger and with ours.
var Builtin = Scenario{
	Name: "built-in-trigger",
	Claim: "three short rows come while Jobs work on three long ones: under deploy/examples/scaled-job-builtin-trigger.yaml none is begun before a long one is done, as each " +
		"running Job hides a waiting row; under deploy/examples/scaled-job.yaml all are",
	Long: true,
	Run: func(ctx context.Context, w *World) (string, error) {
		builtin, err := w.shortBesideLong(ctx, "deploy/examples/scaled-job-builtin-trigger.yaml")
		if err == nil && builtin.before != 0 {
			err = fmt.Errorf("%d short rows were begun before a long one was done", builtin.before)
		}
		if err != nil {
			return "", fmt.Errorf("KEDA's own trigger: %w", err)
		}
		ours, err := w.shortBesideLong(ctx, scaledJobFile)
		if err == nil && (ours.before != 3 || ours.counted.idle != 0) {
			err = fmt.Errorf("%d short rows were begun before a long one was done; %v", ours.before, ours.counted)
		}
		if err != nil {
			return "", fmt.Errorf("ours: %w", err)
		}
		return fmt.Sprintf("KEDA's own trigger: %d of 3 begun before, the longest wait %.0f s, %v. Ours: %d of 3, %.0f s, %v",
			builtin.before, builtin.wait, builtin.counted, ours.before, ours.wait, ours.counted), nil
	},
}

// besideLong is what became of the short rows.
type besideLong struct {
	before  int     // were begun before the first long row was done
	wait    float64 // is the longest of theirs, in seconds
	counted counted
}

// longWork is far longer than a poll and the start of a pod take, so that only its end can be what a row waits for.
const longWork = 90

func (w *World) shortBesideLong(ctx context.Context, shipped string) (besideLong, error) {
	jobs, err := w.withScaledJobOf(ctx, shipped, "", func(*jobs) error {
		insert := func(seconds int) error {
			_, err := w.SQL(ctx, fmt.Sprintf("INSERT INTO make_it_clap (duration_seconds) SELECT %d FROM generate_series(1, 3)", seconds))
			return err
		}
		if err := insert(longWork); err != nil {
			return err
		}
		if err := w.running(ctx, 3); err != nil {
			return err
		}
		if err := insert(1); err != nil {
			return err
		}
		return w.done(ctx, 6)
	})
	if err != nil {
		return besideLong{}, err
	}
	var seen besideLong
	rows, err := w.SQL(ctx, fmt.Sprintf(`
SELECT count(*) FILTER (WHERE c.started_at < (SELECT min(finished_at) FROM clap JOIN make_it_clap USING (id) WHERE duration_seconds = %[1]d)),
       extract(epoch FROM max(c.started_at - r.requested_at))
  FROM clap c JOIN make_it_clap r USING (id) WHERE r.duration_seconds <> %[1]d`, longWork))
	if err != nil {
		return besideLong{}, err
	}
	if _, err := fmt.Sscan(rows[0][0]+" "+rows[0][1], &seen.before, &seen.wait); err != nil {
		return besideLong{}, err
	}
	seen.counted, err = w.count(ctx, jobs)
	return seen, err
}
