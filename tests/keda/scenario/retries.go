package scenario

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Retries is the seed's second and third version on one ScaledJob: Kubernetes tries again, and not the queue.
var Retries = Scenario{
	Name: "retries",
	Claim: "the seed's v2 and v3, with `--retry-by job` and `FAIL_FIRST=3`: a Job's next pod works on the row of the one before; a row is SUCCESS by the fourth pod of its Job, " +
		"one that may be tried three times is DEAD after the third, and KEDA starts no other Job for either",
	Long: true,
	Run: func(ctx context.Context, w *World) (string, error) {
		var ends [][]string
		jobs, err := w.withScaledJob(ctx, "", func(*jobs) error {
			edited := time.Now()
			if _, err := w.Kubectl(ctx, "", "--namespace="+clapsNamespace, "patch", "scaledjob/postgres-batch", "--type=json", "--patch="+retriedByJob); err != nil {
				return err
			}
			if err := w.settles(ctx, ownNamespace, "postgres-batch", clapsPoll, edited); err != nil {
				return err
			}
			if _, err := w.SQL(ctx, "INSERT INTO make_it_clap (duration_seconds, max_attempts) VALUES (1, 5), (1, 3)"); err != nil {
				return err
			}
			return w.Eventually(ctx, func() (err error) {
				ends, err = w.SQL(ctx, `
SELECT c.status, count(*), count(DISTINCT a.pod_name), count(DISTINCT a.job_uid)
  FROM clap c JOIN clap_attempt a ON a.clap_id = c.id
 WHERE c.status IN ('SUCCESS', 'DEAD')
 GROUP BY c.id, c.status
 ORDER BY c.id`)
				if err == nil && len(ends) < 2 {
					err = fmt.Errorf("%d of 2 claps have come to an end", len(ends))
				}
				return err
			})
		})
		if err != nil {
			return "", err
		}
		counted, err := w.count(ctx, jobs)
		if err != nil {
			return "", err
		}
		wanted := [][]string{{"SUCCESS", "4", "4", "1"}, {"DEAD", "3", "3", "1"}}
		if !slices.EqualFunc(ends, wanted, slices.Equal) || counted.jobs != 2 || counted.idle != 0 {
			return "", fmt.Errorf("status, attempts, pods, Jobs: %v; %v", ends, counted)
		}
		return fmt.Sprintf("SUCCESS by the fourth pod of one Job, DEAD after the third of the other; %d Jobs, %d idle", counted.jobs, counted.idle), nil
	},
}

const retriedByJob = `[
  {"op": "add", "path": "/spec/jobTargetRef/template/spec/containers/0/env/-", "value": {"name": "POSTGRES_BATCH_RETRY_BY", "value": "job"}},
  {"op": "add", "path": "/spec/jobTargetRef/template/spec/containers/0/env/-", "value": {"name": "FAIL_FIRST", "value": "3"}}]`
