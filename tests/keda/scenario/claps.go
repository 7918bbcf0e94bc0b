package scenario

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

const scaledJobFile = "deploy/examples/scaled-job.yaml"

// Claps is the seed's story, with claps of two seconds.
var Claps = Scenario{
	Name:  "claps",
	Claim: "60 rows under maxReplicaCount 10, deploy/examples/scaled-job.yaml as shipped: 60 SUCCESS by 60 Jobs, none idle, 10 at most",
	Run: func(ctx context.Context, w *World) (string, error) {
		started := time.Now()
		jobs, err := w.withScaledJob(ctx, "", func(jobs *jobs) error {
			if _, err := w.SQL(ctx, "INSERT INTO make_it_clap (duration_seconds) SELECT 2 FROM generate_series(1, 60)"); err != nil {
				return err
			}
			if err := w.done(ctx, 60); err != nil {
				return err
			}
			// A Job too many would start within the next polls, of which there is one every 5 seconds.
			return w.quiet(ctx, jobs, 11*time.Second)
		})
		if err != nil {
			return "", err
		}
		counted, err := w.count(ctx, jobs)
		if err != nil {
			return "", err
		}
		if counted.claps != 60 || counted.jobs != 60 || counted.idle != 0 || counted.attempts != 60 || jobs.most > 10 {
			return "", fmt.Errorf("%v", counted)
		}
		return fmt.Sprintf("%v, in %.0f s", counted, time.Since(started).Seconds()-11), nil
	},
}

// withScaledJob applies the shipped ScaledJob on empty tables, waits until KEDA polls it, runs act, and deletes it with its Jobs.
// It returns the Jobs that were seen. patch is applied at once if there is one: a JSON merge patch, or a JSON patch, which is a list.
func (w *World) withScaledJob(ctx context.Context, patch string, act func(*jobs) error) (*jobs, error) {
	applied := time.Now()
	return w.withScaledJobOf(ctx, scaledJobFile, patch, func(jobs *jobs) error {
		if err := w.settles(ctx, ownNamespace, "postgres-batch", clapsPoll, applied); err != nil {
			return err
		}
		return act(jobs)
	})
}

// settles waits until two polls of a ScaledJob were an interval apart, as the clapometer in a namespace tells. KEDA reconciles an object again just after it is
// made or edited, and ends the loop that was under way. If that was about to create a Job, the Job may come even so, unseen by the next loop, which creates one too many.
func (w *World) settles(ctx context.Context, clapometer, scaledJob string, interval time.Duration, applied time.Time) error {
	last := float64(applied.Unix())
	polled := false
	return w.Eventually(ctx, func() error {
		times, err := w.series(ctx, clapometer, "clapometer_trigger_last_request_timestamp_seconds", `name="`+scaledJob+`"`)
		if err != nil {
			return err
		}
		before := last
		for _, at := range times {
			last = max(last, at)
		}
		if polled && last-before > interval.Seconds()*3/4 {
			return nil
		}
		polled = polled || last > before
		return fmt.Errorf("no two polls of %s were an interval apart", scaledJob)
	})
}

// withScaledJobOf does the same with another shipped ScaledJob, which has the same name.
func (w *World) withScaledJobOf(ctx context.Context, shipped, patch string, act func(*jobs) error) (*jobs, error) {
	if err := w.empty(ctx); err != nil {
		return nil, err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	jobs, err := w.watchJobs(watching, batch{clapsNamespace, ofScaledJobs, demoDatabase})
	if err != nil {
		return nil, err
	}
	file := "--filename=" + filepath.Join(w.Root, shipped)
	if _, err := w.Kubectl(ctx, "", "apply", file); err != nil {
		return nil, err
	}
	if patch != "" {
		if err := w.patchScaledJob(ctx, patch); err != nil {
			return nil, err
		}
	}
	failed := act(jobs)
	if failed == nil {
		// A clap is done a moment before its Job is.
		failed = w.Eventually(ctx, func() error { return w.finished(ctx, jobs) })
	}
	if _, err := w.Kubectl(ctx, "", "delete", file, "--cascade=foreground"); failed == nil {
		failed = err
	}
	return jobs, failed
}

func (w *World) patchScaledJob(ctx context.Context, patch string) error {
	kind := "merge"
	if strings.HasPrefix(patch, "[") {
		kind = "json"
	}
	_, err := w.Kubectl(ctx, "", "--namespace="+clapsNamespace, "patch", "scaledjob/postgres-batch", "--type="+kind, "--patch="+patch)
	return err
}

// done waits until that many claps of the demo are SUCCESS.
func (w *World) done(ctx context.Context, claps int) error {
	return w.doneIn(ctx, demoDatabase, claps)
}

func (w *World) doneIn(ctx context.Context, database Database, claps int) error {
	return w.Eventually(ctx, func() error {
		done, err := w.NumberAt(ctx, database, "SELECT count(*) FROM clap WHERE status = 'SUCCESS'")
		if err == nil && done != claps {
			err = fmt.Errorf("%d of %d claps are SUCCESS", done, claps)
		}
		return err
	})
}

// quiet observes that no Job is created for a while.
func (w *World) quiet(ctx context.Context, jobs *jobs, observed time.Duration) error {
	before := jobs.count()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(observed):
	}
	if after := jobs.count(); after != before {
		return fmt.Errorf("%d Jobs started when everything was done", after-before)
	}
	return nil
}

// A batch is where Jobs run, what selects them there, and the database whose claps they work on.
type batch struct {
	namespace, selector string
	database            Database
}

// jobs are the Jobs of a batch that were seen, also those that are gone.
type jobs struct {
	batch
	mu      sync.Mutex
	seen    map[types.UID]time.Time // when they were noticed first
	deleted map[types.UID]bool      // while they were unfinished
	open    map[types.UID]bool
	most    int // that were unfinished at the same time
}

func (j *jobs) count() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.seen)
}

// finished fails while there is an unfinished Job, or one whose creation was not yet seen.
func (w *World) finished(ctx context.Context, jobs *jobs) error {
	listed, err := w.Kubernetes.BatchV1().Jobs(jobs.namespace).List(ctx, metav1.ListOptions{LabelSelector: jobs.selector})
	if err != nil {
		return err
	}
	jobs.mu.Lock()
	defer jobs.mu.Unlock()
	for _, job := range listed.Items {
		if jobs.seen[job.UID].IsZero() {
			return fmt.Errorf("the Job %s was not seen", job.Name)
		}
	}
	if len(jobs.open) > 0 {
		return fmt.Errorf("%d Jobs have not finished", len(jobs.open))
	}
	return nil
}

// removed returns how many were deleted before they had finished.
func (j *jobs) removed() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.deleted)
}

// ofScaledJobs selects the Jobs that KEDA makes.
const ofScaledJobs = "scaledjob.keda.sh/name"

// watchJobs sees all Jobs of a batch from now on. It waits until those of earlier scenarios are gone.
func (w *World) watchJobs(ctx context.Context, batch batch) (*jobs, error) {
	var none *batchv1.JobList
	err := w.Eventually(ctx, func() (err error) {
		none, err = w.Kubernetes.BatchV1().Jobs(batch.namespace).List(ctx, metav1.ListOptions{LabelSelector: batch.selector})
		if err == nil && len(none.Items) > 0 {
			err = fmt.Errorf("%d Jobs of another scenario are left", len(none.Items))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	// The API server may end the watch of a slow reader; this one then goes on from where it was.
	watching, err := watchtools.NewRetryWatcherWithContext(ctx, none.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.LabelSelector = batch.selector
			return w.Kubernetes.BatchV1().Jobs(batch.namespace).Watch(ctx, options)
		},
	})
	if err != nil {
		return nil, err
	}
	j := &jobs{batch: batch, seen: map[types.UID]time.Time{}, deleted: map[types.UID]bool{}, open: map[types.UID]bool{}}
	go func() {
		for event := range watching.ResultChan() {
			if job, is := event.Object.(*batchv1.Job); is {
				j.notice(event.Type, job)
			}
		}
	}()
	return j, nil
}

func (j *jobs) notice(event watch.EventType, job *batchv1.Job) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.seen[job.UID].IsZero() {
		j.seen[job.UID] = time.Now()
	}
	switch {
	case finished(job):
		delete(j.open, job.UID)
	case event == watch.Deleted || job.DeletionTimestamp != nil:
		if j.open[job.UID] {
			j.deleted[job.UID] = true
		}
		delete(j.open, job.UID)
	default:
		j.open[job.UID] = true
	}
	j.most = max(j.most, len(j.open))
}

func finished(job *batchv1.Job) bool {
	for _, condition := range job.Status.Conditions {
		if (condition.Type == batchv1.JobComplete || condition.Type == batchv1.JobFailed) && condition.Status == "True" {
			return true
		}
	}
	return false
}

// counted is what a run came to. A Job is idle if no attempt was its own.
type counted struct{ claps, attempts, jobs, idle, most int }

func (c counted) String() string {
	return fmt.Sprintf("%d claps SUCCESS by %d attempts, %d Jobs, %d idle, %d at most at a time", c.claps, c.attempts, c.jobs, c.idle, c.most)
}

func (w *World) count(ctx context.Context, jobs *jobs) (counted, error) {
	rows, err := w.SQLAt(ctx, jobs.database, "SELECT DISTINCT job_uid FROM clap_attempt")
	if err != nil {
		return counted{}, err
	}
	busy := map[types.UID]bool{}
	for _, row := range rows {
		busy[types.UID(row[0])] = true
	}
	jobs.mu.Lock()
	defer jobs.mu.Unlock()
	c := counted{jobs: len(jobs.seen), most: jobs.most}
	for uid := range jobs.seen {
		if !busy[uid] {
			c.idle++
		}
	}
	if c.claps, err = w.NumberAt(ctx, jobs.database, "SELECT count(*) FROM clap WHERE status = 'SUCCESS'"); err != nil {
		return counted{}, err
	}
	c.attempts, err = w.NumberAt(ctx, jobs.database, "SELECT count(*) FROM clap_attempt")
	return c, err
}
