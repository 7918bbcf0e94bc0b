package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Trickle inserts one row after the other for some minutes.
var Trickle = Scenario{
	Name: "trickle",
	Claim: "rows that come one by one for three minutes, deploy/examples/scaled-job.yaml as shipped: a Job for each row, none idle, 10 at most, as " +
		"`clapometer simulate` says of the same rows; how long rows wait depends on the machine",
	Long: true,
	Run: func(ctx context.Context, w *World) (string, error) {
		seen, err := w.trickled(ctx, nil, 60, 3*time.Second)
		if err != nil {
			return "", err
		}
		if seen.counted.claps != 60 || seen.counted.jobs != 60 || seen.counted.idle != 0 || seen.counted.most > 10 || seen.simulated.IdleJobs != 0 {
			return "", fmt.Errorf("%v", seen)
		}
		return seen.String(), w.keepTrace("trickle", seen.trace)
	},
}

// Strategies lets the same rows trickle in under the strategies that the outstanding rows are not to be counted for.
var Strategies = Scenario{
	Name: "strategies",
	Claim: "the same under `accurate`, `eager` and a `custom` that subtracts half of the Jobs: each starts idle Jobs where the outstanding rows are counted, " +
		"as `clapometer simulate` says, too, and each row is done once",
	Long: true,
	Run: func(ctx context.Context, w *World) (string, error) {
		var all []string
		for _, strategy := range []map[string]string{
			{"strategy": "accurate"}, {"strategy": "eager"}, {"strategy": "custom", "customScalingRunningJobPercentage": "0.5"},
		} {
			seen, err := w.trickled(ctx, strategy, 20, 2*time.Second)
			if err != nil {
				return "", fmt.Errorf("%v: %w", strategy, err)
			}
			if seen.counted.claps != 20 || seen.counted.attempts != 20 || seen.counted.idle == 0 || seen.simulated.IdleJobs == 0 {
				return "", fmt.Errorf("%v: %v", strategy, seen)
			}
			if err := w.keepTrace("trickle-"+strategy["strategy"], seen.trace); err != nil {
				return "", err
			}
			all = append(all, fmt.Sprintf("`%s`: %v", strategy["strategy"], seen))
		}
		return strings.Join(all, "; "), nil
	},
}

// clapsPoll is the `pollingInterval` of the shipped ScaledJob.
const clapsPoll = 5 * time.Second

// A trickle is what became of rows that came one by one, beside what was to be expected.
type trickle struct {
	counted   counted
	restarts  int32 // of KEDA's operator meanwhile
	trace     trace
	simulated simulated
}

// simulated are the figures of `clapometer simulate`; numbers of Jobs are means.
type simulated struct {
	Given       bool               `json:"given"`
	Jobs        float64            `json:"jobs"`
	IdleJobs    float64            `json:"idle_jobs"`
	WaitSeconds map[string]float64 `json:"wait_seconds"`
}

func (t trickle) String() string {
	text := fmt.Sprintf("%v; waits up to %.1f s, Jobs started in up to %.1f s; simulated: %.0f Jobs, %.0f idle, waits up to %.1f s", t.counted,
		t.trace.wait().Seconds(), t.trace.start().Seconds(), t.simulated.Jobs, t.simulated.IdleJobs, t.simulated.WaitSeconds["max"])
	if t.restarts > 0 {
		text += fmt.Sprintf("; meanwhile KEDA's operator was started again %d times", t.restarts)
	}
	return text
}

// operatorRestarts returns how often KEDA's operator was started again. It ends when it cannot renew its lease for ten seconds, as
// on a machine that stands still, and nothing is polled until it is back.
func (w *World) operatorRestarts(ctx context.Context) (int32, error) {
	pods, err := w.Kubernetes.CoreV1().Pods("keda").List(ctx, metav1.ListOptions{LabelSelector: "app=keda-operator"})
	if err != nil {
		return 0, err
	}
	return restarts(pods.Items), nil
}

// trickled inserts rows of eight seconds of work, one each so often, and waits until all are done. strategy is what
// `scalingStrategy` has beside what is shipped.
func (w *World) trickled(ctx context.Context, strategy map[string]string, rows int, every time.Duration) (trickle, error) {
	patch := ""
	if strategy != nil {
		fields, err := json.Marshal(strategy)
		if err != nil {
			return trickle{}, err
		}
		patch = fmt.Sprintf(`{"spec": {"scalingStrategy": %s}}`, fields)
	}
	before, err := w.operatorRestarts(ctx)
	if err != nil {
		return trickle{}, err
	}
	jobs, err := w.withScaledJob(ctx, patch, func(*jobs) error {
		ticks := time.NewTicker(every)
		defer ticks.Stop()
		for range rows {
			if _, err := w.SQL(ctx, "INSERT INTO make_it_clap (duration_seconds) VALUES (8)"); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-ticks.C:
			}
		}
		return w.done(ctx, rows)
	})
	if err != nil {
		return trickle{}, err
	}
	return w.became(ctx, jobs, strategy, before)
}

// became returns what became of the claps that Jobs have worked on, since KEDA's operator had been started again so often.
func (w *World) became(ctx context.Context, jobs *jobs, strategy map[string]string, restarts int32) (seen trickle, err error) {
	if seen.restarts, err = w.operatorRestarts(ctx); err != nil {
		return trickle{}, err
	}
	seen.restarts -= restarts
	if seen.counted, err = w.count(ctx, jobs); err != nil {
		return trickle{}, err
	}
	if seen.trace, err = w.trace(ctx, jobs); err != nil {
		return trickle{}, err
	}
	seen.simulated, err = w.simulate(ctx, strategy, seen.trace)
	return seen, err
}

// simulate has `clapometer simulate` say what becomes of the same rows under the shipped ScaledJob with a strategy.
func (w *World) simulate(ctx context.Context, strategy map[string]string, seen trace) (simulated, error) {
	work, err := w.TempDir()
	if err != nil {
		return simulated{}, err
	}
	manifest, err := os.ReadFile(filepath.Join(w.Root, scaledJobFile))
	if err != nil {
		return simulated{}, err
	}
	text := string(manifest)
	for field, value := range strategy {
		text = strings.Replace(text, "  scalingStrategy:\n", fmt.Sprintf("  scalingStrategy:\n    %s: %q\n", field, value), 1)
	}
	if err := os.WriteFile(filepath.Join(work, "scaled-job.yaml"), []byte(text), 0o644); err != nil {
		return simulated{}, err
	}
	var arrivals strings.Builder
	for _, row := range seen {
		fmt.Fprintf(&arrivals, "%.3f,%.3f\n", seconds(row.arrived), seconds(row.done-row.claimed))
	}
	if err := os.WriteFile(filepath.Join(work, "arrivals.csv"), []byte(arrivals.String()), 0o644); err != nil {
		return simulated{}, err
	}
	starts := seen.starts()
	simulate := w.Command(ctx, filepath.Join(w.Executables, "clapometer"), "simulate", "scaled-job.yaml", "--arrivals", "arrivals.csv",
		"--start", fmt.Sprintf("%dms..%dms", slices.Min(starts), slices.Max(starts)), "--keda", w.KEDA, "--json")
	simulate.Dir = work
	output, err := simulate.Output()
	if err != nil {
		return simulated{}, fmt.Errorf("clapometer simulate: %w: %s", err, output)
	}
	var document struct {
		Candidates []simulated `json:"candidates"`
	}
	if err := json.Unmarshal(output, &document); err != nil {
		return simulated{}, err
	}
	given := slices.IndexFunc(document.Candidates, func(s simulated) bool { return s.Given })
	if given < 0 {
		return simulated{}, fmt.Errorf("clapometer simulate does not say which line is the ScaledJob as given: %s", output)
	}
	return document.Candidates[given], nil
}

// A trace is the life of each row, in milliseconds from the first row's arrival.
type trace []rowTrace

type rowTrace struct {
	arrived, claimed, done int64
	created                int64 // its Job
}

func (w *World) trace(ctx context.Context, jobs *jobs) (trace, error) {
	rows, err := w.SQLAt(ctx, jobs.database, `
SELECT (extract(epoch FROM r.requested_at) * 1000)::bigint, (extract(epoch FROM a.started_at) * 1000)::bigint,
       (extract(epoch FROM a.ended_at) * 1000)::bigint, a.job_uid
  FROM make_it_clap r JOIN clap_attempt a ON a.clap_id = r.id
 ORDER BY r.requested_at`)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, errors.New("no row was tried")
	}
	jobs.mu.Lock()
	defer jobs.mu.Unlock()
	var seen trace
	var first int64
	for i, row := range rows {
		var one rowTrace
		if _, err := fmt.Sscan(strings.Join(row[:3], " "), &one.arrived, &one.claimed, &one.done); err != nil {
			return nil, err
		}
		created, is := jobs.seen[types.UID(row[3])]
		if !is {
			return nil, fmt.Errorf("a row was claimed by %q, which is no Job of the ScaledJob", row[3])
		}
		if i == 0 {
			first = one.arrived
		}
		seen = append(seen, rowTrace{one.arrived - first, one.claimed - first, one.done - first, created.UnixMilli() - first})
	}
	return seen, nil
}

// keepTrace writes a trace to a file. A copy of that of `trickle` is tests/keda/trickle.csv, which src/keda/model/trace.rs holds the model against.
func (w *World) keepTrace(name string, seen trace) error {
	var text strings.Builder
	fmt.Fprintf(&text, "# KEDA %s: milliseconds from the first row's arrival\narrived,job created,claimed,done\n", w.KEDA)
	for _, row := range seen {
		fmt.Fprintf(&text, "%d,%d,%d,%d\n", row.arrived, row.created, row.claimed, row.done)
	}
	return os.WriteFile(filepath.Join(w.Root, "target/keda/logs", name+".csv"), []byte(text.String()), 0o644)
}

// wait is the longest from a row's arrival to its claim.
func (t trace) wait() time.Duration {
	var longest int64
	for _, row := range t {
		longest = max(longest, row.claimed-row.arrived)
	}
	return milliseconds(longest)
}

// starts are the times from a Job's creation to its claim.
func (t trace) starts() []int64 {
	var starts []int64
	for _, row := range t {
		// A Job may be noticed after its claim where the machine is busy.
		starts = append(starts, max(0, row.claimed-row.created))
	}
	return starts
}

func (t trace) start() time.Duration { return milliseconds(slices.Max(t.starts())) }

func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

func seconds(milliseconds int64) float64 { return float64(milliseconds) / 1000 }
