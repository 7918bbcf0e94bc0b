package scenario

import (
	"context"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Budget fills four queues that share ten Jobs, one after the other while the Jobs of the last one start.
var Budget = Scenario{
	Name: "budget",
	Claim: "four ScaledJobs on the keys of a query with `budget: {total: 10}`: never more than 22 Jobs start or work at once, as docs/scale.md " +
		"derives, and every row is worked",
	Run: func(ctx context.Context, w *World) (string, error) {
		defer func() {
			ctx := context.WithoutCancel(ctx)
			_, _ = w.Kubectl(ctx, "", "delete", "namespace", budgetNamespace, "--wait=false")
			_, _ = w.SQL(ctx, "DROP DATABASE IF EXISTS "+queueDatabase.Name+" WITH (FORCE)")
		}()
		if err := w.withQueues(ctx); err != nil {
			return "", err
		}
		started := time.Now()
		for _, queue := range queues {
			rows := fmt.Sprintf("INSERT INTO job (queue) SELECT '%s' FROM generate_series(1, %d)", queue, rowsOfQueue)
			if _, err := w.SQLAt(ctx, queueDatabase, rows); err != nil {
				return "", err
			}
			if err := w.Eventually(ctx, func() error { return w.hasJob(ctx, queue) }); err != nil {
				return "", err
			}
		}
		if err := w.Eventually(ctx, func() error { return w.worked(ctx, len(queues)*rowsOfQueue) }); err != nil {
			return "", err
		}
		took := time.Since(started)
		var jobs []batchv1.Job
		err := w.Eventually(ctx, func() (err error) {
			jobs, err = w.completeJobs(ctx)
			return err
		})
		if err != nil {
			return "", err
		}
		most, err := w.mostAtOnce(ctx, jobs)
		if err != nil {
			return "", err
		}
		if most > budgetBound {
			return "", fmt.Errorf("%d Jobs started or worked at once", most)
		}
		return fmt.Sprintf("%d rows of %d queues by %d Jobs, %d at most at once, in %.0f s", len(queues)*rowsOfQueue, len(queues), len(jobs), most, took.Seconds()), nil
	},
}

const (
	budgetNamespace = "budget"
	budgetTotal     = 10
	rowsOfQueue     = 8
	// budgetBound is total/1 + total/2 + total/3 + total/4, each rounded up.
	budgetBound = 10 + 5 + 4 + 3
)

var (
	queues        = []string{"letters", "parcels", "invoices", "reminders"}
	queueDatabase = Database{clapsNamespace, "my-release-postgresql", "queues"}
)

var budgetClapometer = "apiVersion: v1\nkind: Namespace\nmetadata: {name: budget}\n---" + ownClapometer(budgetNamespace, 2, fmt.Sprintf(`
databases:
  queues:
    host: my-release-postgresql.keda-with-postgresql.svc.cluster.local
    dbname: queues
    user: postgres
    password: {file: /secrets/password}
    sslmode: disable
queries:
  queues:
    sql: >-
      SELECT queue, count(*) FILTER (WHERE done_at IS NULL) AS outstanding,
      count(*) FILTER (WHERE claimed_at IS NULL) AS claimable, max(claimed_at) AS latest_claim
      FROM job GROUP BY queue
    group_by: queue
    value_column: outstanding
    activity_column: claimable
    budget: {total: %d, since_column: latest_claim}
`, budgetTotal))

// A Job claims a row of its queue, works for 20 s, longer than the four queues take to fill, and says that it is done.
const queueManifest = `---
apiVersion: keda.sh/v1alpha1
kind: ScaledJob
metadata: {name: %[1]s, namespace: budget}
spec:
  pollingInterval: 5
  maxReplicaCount: 10
  jobTargetRef:
    backoffLimit: 4
    template:
      spec:
        restartPolicy: Never
        enableServiceLinks: false
        securityContext: {runAsNonRoot: true, runAsUser: 999}
        containers:
          - name: worker
            image: postgres
            env:
              - {name: PGHOST, value: my-release-postgresql.keda-with-postgresql.svc.cluster.local}
              - {name: PGDATABASE, value: queues}
              - {name: PGUSER, value: postgres}
              - {name: PGPASSWORD, valueFrom: {secretKeyRef: {name: clapometer, key: password}}}
              - {name: JOB, valueFrom: {fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/job-name']"}}}
            args:
              - psql
              - --set=ON_ERROR_STOP=1
              - --command
              - >-
                UPDATE job SET claimed_at = clock_timestamp(), claimed_by = '$(JOB)'
                WHERE id = (SELECT id FROM job WHERE queue = '%[1]s' AND claimed_at IS NULL ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)
              - --command
              - SELECT pg_sleep(20)
              - --command
              - UPDATE job SET done_at = clock_timestamp() WHERE claimed_by = '$(JOB)'
  triggers:
    - type: external
      metadata: {scalerAddress: "clapometer.budget.svc.cluster.local:9090", query: queues, param.queue: %[1]s, targetQueryValue: "1"}
`

func (w *World) withQueues(ctx context.Context) error {
	if _, err := w.SQL(ctx, "CREATE DATABASE "+queueDatabase.Name); err != nil {
		return err
	}
	_, err := w.SQLAt(ctx, queueDatabase, "CREATE TABLE job (id bigserial PRIMARY KEY, queue text NOT NULL, claimed_by text, claimed_at timestamptz, done_at timestamptz)")
	if err != nil {
		return err
	}
	if err := w.Apply(ctx, budgetClapometer); err != nil {
		return err
	}
	if err := w.serves(ctx, budgetNamespace, "clapometer"); err != nil {
		return err
	}
	var manifests string
	for _, queue := range queues {
		manifests += fmt.Sprintf(queueManifest, queue)
	}
	if err := w.Apply(ctx, manifests); err != nil {
		return err
	}
	for _, queue := range queues {
		if err := w.isReady(ctx, scaledJobs, budgetNamespace, queue); err != nil {
			return err
		}
	}
	return nil
}

func (w *World) hasJob(ctx context.Context, queue string) error {
	jobs, err := w.Kubernetes.BatchV1().Jobs(budgetNamespace).List(ctx, metav1.ListOptions{LabelSelector: ofScaledJobs + "=" + queue, Limit: 1})
	if err == nil && len(jobs.Items) == 0 {
		err = fmt.Errorf("no Job of the queue %s", queue)
	}
	return err
}

func (w *World) worked(ctx context.Context, rows int) error {
	done, err := w.SQLAt(ctx, queueDatabase, "SELECT queue, count(*) FROM job WHERE done_at IS NULL GROUP BY queue")
	if err == nil && len(done) > 0 {
		err = fmt.Errorf("of %d rows, not worked: %v", rows, done)
	}
	return err
}

// completeJobs returns all Jobs once none is unfinished.
func (w *World) completeJobs(ctx context.Context) ([]batchv1.Job, error) {
	jobs, err := w.Kubernetes.BatchV1().Jobs(budgetNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, job := range jobs.Items {
		if job.Status.CompletionTime == nil {
			return nil, fmt.Errorf("the Job %s is not complete: %v", job.Name, job.Status)
		}
	}
	return jobs.Items, nil
}

// mostAtOnce returns how many Jobs started or worked at the same time. A Job works until its row is done, or, if it got none, until it
// is complete. Kubernetes rounds its times to a second: each Job is taken to be made at the end of that second.
func (w *World) mostAtOnce(ctx context.Context, jobs []batchv1.Job) (int, error) {
	rows, err := w.SQLAt(ctx, queueDatabase, "SELECT claimed_by, extract(epoch FROM done_at) FROM job")
	if err != nil {
		return 0, err
	}
	done := map[string]float64{}
	for _, row := range rows {
		var at float64
		if _, err := fmt.Sscan(row[1], &at); err != nil {
			return 0, err
		}
		done[row[0]] = at
	}
	type change struct {
		at float64
		by int
	}
	var changes []change
	for _, job := range jobs {
		end, worked := done[job.Name]
		if !worked {
			end = float64(job.Status.CompletionTime.Unix())
		}
		if start := float64(job.CreationTimestamp.Unix() + 1); start < end {
			changes = append(changes, change{start, 1}, change{end, -1})
		}
	}
	slices.SortFunc(changes, func(a, b change) int {
		if a.at != b.at {
			if a.at < b.at {
				return -1
			}
			return 1
		}
		return a.by - b.by
	})
	now, most := 0, 0
	for _, change := range changes {
		now += change.by
		most = max(most, now)
	}
	return most, nil
}
