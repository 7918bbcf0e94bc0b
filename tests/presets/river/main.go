// Holds the preset of River to River itself: what its clients hand out, what a killed one leaves, and what `clapometer check`
// counts. Called by scripts/presets, with the server in PGHOST and PGPORT. With the argument `work` it is a client that holds
// what it gets until it is killed; with `kills` it is River's part of kills/run.py.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

const dbname = "preset_river"

type mail struct{}

func (mail) Kind() string { return "mail" }

// A worker that holds its job for ever, or is done at once.
type worker struct {
	river.WorkerDefaults[mail]
	holds bool
}

func (w *worker) Work(ctx context.Context, _ *river.Job[mail]) error {
	if w.holds {
		<-ctx.Done()
	}
	return nil
}

// River rescues no job whose timeout is not over, and -1 is never over.
func (w *worker) Timeout(*river.Job[mail]) time.Duration {
	if w.holds {
		return -1
	}
	return time.Second
}

// What clapometer counts.
type counts struct{ claimable, held, stalled int }

func url(name string) string {
	return fmt.Sprintf("postgres://%s@%s:%s/%s", os.Getenv("PGUSER"), os.Getenv("PGHOST"), os.Getenv("PGPORT"), name)
}

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, "river:", err)
		os.Exit(1)
	}
	return value
}

func client(pool *pgxpool.Pool, holds bool, most int) *river.Client[pgx.Tx] {
	workers := river.NewWorkers()
	river.AddWorker(workers, &worker{holds: holds})
	return must(river.NewClient(riverpgxv5.New(pool), &river.Config{
		JobTimeout:           time.Second,
		Queues:               map[string]river.QueueConfig{"mail": {MaxWorkers: most}},
		Workers:              workers,
		RescueStuckJobsAfter: 2 * time.Second,
	}))
}

func counted(keys map[string]string) counts {
	query := map[string]string{"preset": "river", "queue": "mail"}
	for key, value := range keys {
		query[key] = value
	}
	database := map[string]string{"url": url(dbname) + "?sslmode=disable"}
	configuration := must(json.Marshal(map[string]any{
		"databases": map[string]any{"d": database},
		"queries":   map[string]any{"q": query},
	}))
	file := filepath.Join(must(os.MkdirTemp("", "presets-")), "clapometer.yaml")
	must(0, os.WriteFile(file, configuration, 0o600))
	defer os.RemoveAll(filepath.Dir(file))
	output, err := exec.Command(os.Getenv("CLAPOMETER"), "check", "--json", "--config", file).Output()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		must(0, err)
	}
	var report struct {
		Databases []struct {
			Queries []struct {
				Name            string
				Value, Activity int
				Warnings        []struct{ Text string }
			}
		}
	}
	must(0, json.Unmarshal(output, &report))
	for _, query := range report.Databases[0].Queries {
		if query.Name == "q" {
			found := counts{claimable: query.Activity, held: query.Value - query.Activity}
			for _, warning := range query.Warnings {
				fmt.Sscanf(warning.Text, "%d stalled", &found.stalled)
			}
			return found
		}
	}
	fmt.Fprintf(os.Stderr, "river: no query in %s\n", output)
	os.Exit(1)
	return counts{}
}

var wrong int

func expect(what string, found, expected counts) {
	if found == expected {
		fmt.Printf("ok    river, %s: %+v\n", what, found)
		return
	}
	wrong++
	fmt.Printf("WRONG river, %s: %+v, expected %+v\n", what, found, expected)
}

func until(ctx context.Context, pool *pgxpool.Pool, what, condition string, within time.Duration) {
	for deadline := time.Now().Add(within); ; time.Sleep(100 * time.Millisecond) {
		var holds bool
		must(0, pool.QueryRow(ctx, "SELECT "+condition).Scan(&holds))
		if holds {
			return
		}
		if time.Now().After(deadline) {
			fmt.Fprintf(os.Stderr, "river: %s: not within %s\n", what, within)
			os.Exit(1)
		}
	}
}

func main() {
	ctx := context.Background()
	if len(os.Args) > 1 && os.Args[1] == "work" {
		must(0, client(must(pgxpool.New(ctx, url(dbname))), true, 2).Start(ctx))
		select {}
	}
	if len(os.Args) > 2 && os.Args[1] == "kills" {
		runKills(ctx, os.Args[2], os.Args[3:])
		return
	}
	administrator := must(pgx.Connect(ctx, url("postgres")))
	must(administrator.Exec(ctx, "DROP DATABASE IF EXISTS "+dbname+" WITH (FORCE)"))
	must(administrator.Exec(ctx, "CREATE DATABASE "+dbname))
	pool := must(pgxpool.New(ctx, url(dbname)))
	must(must(rivermigrate.New(riverpgxv5.New(pool), nil)).Migrate(ctx, rivermigrate.DirectionUp, nil))

	inserter := must(river.NewClient(riverpgxv5.New(pool), &river.Config{}))
	for range 4 {
		must(inserter.Insert(ctx, mail{}, &river.InsertOpts{Queue: "mail"}))
	}
	must(inserter.Insert(ctx, mail{}, &river.InsertOpts{Queue: "mail", ScheduledAt: time.Now().Add(time.Hour)}))
	must(inserter.Insert(ctx, mail{}, &river.InsertOpts{Queue: "other"}))
	oneRow := map[string]string{"workers": "one-row"}
	expect("4 jobs and 1 for later", counted(oneRow), counts{claimable: 4})

	command := exec.Command(must(os.Executable()), "work")
	command.Stderr = os.Stderr
	must(0, command.Start())
	until(ctx, pool, "a client takes two jobs", "count(*) = 2 FROM river_job WHERE state = 'running'", 30*time.Second)
	expect("a client of two workers runs", counted(oneRow), counts{claimable: 2, held: 2})
	must(0, command.Process.Kill())
	_ = command.Wait()
	expect("it was killed", counted(oneRow), counts{claimable: 2, held: 2})
	until(ctx, pool, "its jobs are old",
		"bool_and(attempted_at < now() - interval '2 s') FROM river_job WHERE state = 'running'", 30*time.Second)
	rescued := map[string]string{"rescue_after": "2s", "workers": "one-row"}
	expect("for one row its jobs are lost", counted(rescued), counts{claimable: 2, stalled: 2})
	rescued["workers"] = "long-lived"
	before := counted(rescued)
	expect("for a client they are not", counts{claimable: before.claimable + before.held}, counts{claimable: 4})

	// One client, started alone, must get all that was counted.
	other := client(pool, false, 10)
	must(0, other.Start(ctx))
	until(ctx, pool, "a client finishes all four", "count(*) = 4 FROM river_job WHERE state = 'completed'", 90*time.Second)
	must(0, other.Stop(ctx))
	expect("a client has run them", counted(rescued), counts{})
	must(inserter.Insert(ctx, mail{}, &river.InsertOpts{Queue: "mail"}))
	must(0, inserter.QueuePause(ctx, "mail", nil))
	expect("its queue is paused", counted(rescued), counts{})
	must(0, inserter.QueueResume(ctx, "mail", nil))
	expect("and resumed", counts{claimable: counted(rescued).claimable}, counts{claimable: 1})
	if wrong > 0 {
		fmt.Printf("%d wrong\n", wrong)
		os.Exit(1)
	}
	fmt.Println("all right")
}
