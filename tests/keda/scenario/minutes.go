package scenario

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"clapometer/tests/keda/lab"
)

// TenMinutes lets the same rows trickle in for two ScaledJobs side by side.
var TenMinutes = Scenario{
	Name: "ten-minutes",
	Claim: "rows that come one by one for ten minutes, to deploy/examples/scaled-job.yaml and beside it to the same under `accurate`, each with a database of its own: the first starts " +
		"a Job for each row, none idle, 10 at most; the second starts idle Jobs, as the outstanding rows are counted; `clapometer simulate` has idle Jobs there, too",
	Long:   true,
	Beside: true,
	Run: func(ctx context.Context, w *World) (string, error) {
		stop, err := w.withTrickles(ctx)
		defer stop()
		if err != nil {
			return "", err
		}
		restarts, err := w.operatorRestarts(ctx)
		if err != nil {
			return "", err
		}
		watching, end := context.WithCancel(ctx)
		defer end()
		jobs := make([]*jobs, len(trickles))
		applied := time.Now()
		for i, strategy := range trickles {
			if jobs[i], err = w.watchJobs(watching, batchOf(strategy)); err != nil {
				return "", err
			}
			manifest, err := w.shippedFor(strategy)
			if err != nil {
				return "", err
			}
			if err := w.Apply(ctx, manifest); err != nil {
				return "", err
			}
		}
		for _, strategy := range trickles {
			if err := w.settles(ctx, tricklesNamespace, strategy, clapsPoll, applied); err != nil {
				return "", err
			}
		}
		if err := w.trickleFor(ctx, tricklesRows, tricklesEvery); err != nil {
			return "", err
		}
		var all []string
		for i, strategy := range trickles {
			if err := w.doneIn(ctx, jobs[i].database, tricklesRows); err != nil {
				return "", fmt.Errorf("%s: %w", strategy, err)
			}
			// A clap is done a moment before its Job is.
			if err := w.Eventually(ctx, func() error { return w.finished(ctx, jobs[i]) }); err != nil {
				return "", fmt.Errorf("%s: %w", strategy, err)
			}
			seen, err := w.became(ctx, jobs[i], map[string]string{"strategy": strategy}, restarts)
			if err != nil {
				return "", fmt.Errorf("%s: %w", strategy, err)
			}
			if err := w.keepTrace("ten-minutes-"+strategy, seen.trace); err != nil {
				return "", err
			}
			exact := seen.counted.idle == 0 && seen.counted.jobs == tricklesRows && seen.simulated.IdleJobs == 0
			idle := seen.counted.idle > 0 && seen.simulated.IdleJobs > 0
			right := map[string]bool{"default": exact, "accurate": idle}[strategy]
			if !right || seen.counted.claps != tricklesRows || seen.counted.attempts != tricklesRows || seen.counted.most > 10 {
				return "", fmt.Errorf("%s: %v", strategy, seen)
			}
			all = append(all, fmt.Sprintf("`%s`: %v; %d of %d rows waited for longer than a poll and the start of their pod", strategy, seen, seen.trace.late(), tricklesRows))
		}
		return strings.Join(all, ". "), nil
	},
}

const (
	tricklesNamespace = "ten-minutes"
	// Every four seconds, so that rows come at all times between two polls, which are five seconds apart.
	tricklesEvery = 4 * time.Second
	tricklesRows  = int(10 * time.Minute / tricklesEvery)
)

// trickles are the strategies, which name the ScaledJob, the query and the database of each, too.
var trickles = []string{"default", "accurate"}

func batchOf(strategy string) batch {
	return batch{tricklesNamespace, ofScaledJobs + "=" + strategy, Database{tricklesNamespace, "postgresql", "trickle_" + strategy}}
}

// withTrickles makes a server, on it a database for each strategy with the tables of the batch, and the clapometer that counts in both. It returns
// what removes all of it.
func (w *World) withTrickles(ctx context.Context) (func(), error) {
	stop := func() {
		_, _ = w.Kubectl(context.WithoutCancel(ctx), "", "delete", "namespace", tricklesNamespace)
	}
	if err := w.Apply(ctx, ownPostgreSQL(tricklesNamespace)); err != nil {
		return stop, err
	}
	if _, err := w.Kubectl(ctx, "", "--namespace="+tricklesNamespace, "rollout", "status", "statefulset/postgresql", lab.Timeout); err != nil {
		return stop, err
	}
	address, err := w.ServiceAddress(ctx, tricklesNamespace, "postgresql")
	if err != nil {
		return stop, err
	}
	databases, queries := "\ndatabases:", "\nqueries:"
	for _, strategy := range trickles {
		name := batchOf(strategy).database.Name
		if _, err := w.SQLAt(ctx, Database{tricklesNamespace, "postgresql", "postgres"}, "CREATE DATABASE "+name); err != nil {
			return stop, err
		}
		migrate := w.Command(ctx, filepath.Join(w.Executables, "postgres-batch"), "migrate", "up")
		migrate.Env = append(migrate.Env, "PGHOST="+address, "PGUSER=postgres", "PGPASSWORD="+demoPassword, "PGDATABASE="+name, "PGSSLMODE=disable")
		if output, err := migrate.CombinedOutput(); err != nil {
			return stop, fmt.Errorf("postgres-batch migrate up: %w: %s", err, output)
		}
		databases += fmt.Sprintf("\n  %s: {host: postgresql, dbname: %s, user: postgres, password: {file: /secrets/password}, sslmode: disable}", strategy, name)
		// As the built-in `outstanding-claps`, of which there is one.
		queries += fmt.Sprintf(`
  %[1]s:
    database: %[1]s
    sql: SELECT claimable + held AS outstanding, claimable, next_change FROM clap_backlog
    value_column: outstanding
    activity_column: claimable
    next_change: next_change`, strategy)
	}
	if err := w.Apply(ctx, ownClapometer(tricklesNamespace, 2, databases+queries+"\n")); err != nil {
		return stop, err
	}
	return stop, w.serves(ctx, tricklesNamespace, "clapometer")
}

// shippedFor returns the shipped ScaledJob for the database of a strategy, and under it.
func (w *World) shippedFor(strategy string) (string, error) {
	manifest, err := os.ReadFile(filepath.Join(w.Root, scaledJobFile))
	if err != nil {
		return "", err
	}
	text := string(manifest)
	for _, change := range []struct{ shipped, here string }{
		{"  name: postgres-batch\n  namespace: keda-with-postgresql\n", "  name: " + strategy + "\n  namespace: " + tricklesNamespace + "\n"},
		{"value: my-release-postgresql\n", "value: postgresql\n"},
		{"value: postgres\n", "value: " + batchOf(strategy).database.Name + "\n"},
		{"value: postgres_batch\n", "value: postgres\n"},
		{"name: postgres-batch-database\n", "name: postgresql\n"},
		{"clapometer.clapometer.svc", "clapometer." + tricklesNamespace + ".svc"},
		{"query: outstanding-claps\n", "query: " + strategy + "\n"},
		{"  scalingStrategy:\n", "  scalingStrategy:\n    strategy: " + strategy + "\n"},
	} {
		if strings.Count(text, change.shipped) != 1 {
			return "", fmt.Errorf("%s has %q %d times", scaledJobFile, change.shipped, strings.Count(text, change.shipped))
		}
		text = strings.Replace(text, change.shipped, change.here, 1)
	}
	return text, nil
}

// trickleFor inserts rows of eight seconds of work into both databases, one each so often.
func (w *World) trickleFor(ctx context.Context, rows int, every time.Duration) error {
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for range rows {
		for _, strategy := range trickles {
			if _, err := w.SQLAt(ctx, batchOf(strategy).database, "INSERT INTO make_it_clap (duration_seconds) VALUES (8)"); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticks.C:
		}
	}
	return nil
}

// late returns how many rows waited for longer than a poll and the start of their pod.
func (t trace) late() int {
	late := 0
	for i, start := range t.starts() {
		if t[i].claimed-t[i].arrived > clapsPoll.Milliseconds()+start {
			late++
		}
	}
	return late
}
