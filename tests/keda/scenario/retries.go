package scenario

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Retries has each Job try again by itself, as in the second and the third version of the article that clapometer began with.
var Retries = Scenario{
	Name: "retries",
	Claim: "under `--retry-by job` every pod of a Job works on the same clap: with `FAIL_FIRST=3` the fourth succeeds, with `FINAL_STATE=FAILED` the clap is DEAD after five; " +
		"KEDA starts no second Job meanwhile, and none afterwards",
	Long: true,
	Run: func(ctx context.Context, w *World) (string, error) {
		var all []string
		for _, version := range []struct{ variable, value, status, outcomes string }{
			{"FAIL_FIRST", "3", "SUCCESS", "FAILED FAILED FAILED SUCCESS"},
			{"FINAL_STATE", "FAILED", "DEAD", "FAILED FAILED FAILED FAILED FAILED"},
		} {
			seen, err := w.retried(ctx, version.variable, version.value, version.status)
			if err != nil {
				return "", fmt.Errorf("%s: %w", version.variable, err)
			}
			tries := len(strings.Fields(version.outcomes))
			if seen.outcomes != version.outcomes || seen.pods != tries || seen.owners != 1 || seen.jobs != 1 {
				return "", fmt.Errorf("%s: %v", version.variable, seen)
			}
			all = append(all, fmt.Sprintf("`%s=%s`: %v, in %.0f s", version.variable, version.value, seen, seen.took.Seconds()))
		}
		return strings.Join(all, "; "), nil
	},
}

// retriedRun is what became of one clap: how its attempts ended in turn, how many pods and Jobs they were of, and how many Jobs there were.
type retriedRun struct {
	status, outcomes   string
	pods, owners, jobs int
	took               time.Duration
}

func (r retriedRun) String() string {
	return fmt.Sprintf("one clap %s after %s, by %d pods of %d Job; %d Job in all", r.status, strings.ReplaceAll(r.outcomes, " ", ", "), r.pods, r.owners, r.jobs)
}

// retried has one clap of one second worked on by the shipped ScaledJob with that variable and `--retry-by job`, until it has that status.
func (w *World) retried(ctx context.Context, variable, value, status string) (retriedRun, error) {
	run := retriedRun{status: status}
	container := "/spec/jobTargetRef/template/spec/containers/0"
	patch := fmt.Sprintf(`[{"op": "add", "path": "%[1]s/args/-", "value": "--retry-by=job"},
		{"op": "add", "path": "%[1]s/env/-", "value": {"name": "%[2]s", "value": "%[3]s"}}]`, container, variable, value)
	jobs, err := w.withScaledJob(ctx, patch, func(jobs *jobs) error {
		started := time.Now()
		if _, err := w.SQL(ctx, "INSERT INTO make_it_clap (duration_seconds) VALUES (1)"); err != nil {
			return err
		}
		// Kubernetes waits for 10 s before the second pod of a Job, and twice as long before each further one.
		if err := w.Eventually(ctx, func() error { return w.is(ctx, "SELECT status FROM clap", status) }); err != nil {
			return err
		}
		run.took = time.Since(started)
		return w.quiet(ctx, jobs, 11*time.Second)
	})
	if err != nil {
		return run, err
	}
	run.jobs = jobs.count()
	rows, err := w.SQL(ctx, `SELECT string_agg(outcome, ' ' ORDER BY iteration), count(DISTINCT pod_name)::text, count(DISTINCT job_uid)::text FROM clap_attempt`)
	if err != nil {
		return run, err
	}
	run.outcomes = rows[0][0]
	_, err = fmt.Sscan(rows[0][1]+" "+rows[0][2], &run.pods, &run.owners)
	return run, err
}
