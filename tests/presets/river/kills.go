package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"
)

// A job of the run in which workers are killed at random (kills/run.py).
type killed struct {
	ID      string  `json:"id"`
	Seconds float64 `json:"seconds"`
	Delay   float64 `json:"delay"`
	Fails   bool    `json:"fails"`
}

func (killed) Kind() string { return "killed" }

// A worker that notes each start of a job.
type killedWorker struct {
	river.WorkerDefaults[killed]
	pool *pgxpool.Pool
}

func (w *killedWorker) Work(ctx context.Context, job *river.Job[killed]) error {
	var starts int
	_, err := w.pool.Exec(ctx, "INSERT INTO kills_started (job, worker) VALUES ($1, $2)", job.Args.ID, os.Getenv("KILLS_WORKER"))
	if err != nil {
		return err
	}
	if err := w.pool.QueryRow(ctx, "SELECT count(*) FROM kills_started WHERE job = $1", job.Args.ID).Scan(&starts); err != nil {
		return err
	}
	time.Sleep(time.Duration(job.Args.Seconds * float64(time.Second)))
	if job.Args.Fails && starts == 1 {
		return errors.New("the first attempt of this job fails")
	}
	return nil
}

func (w *killedWorker) NextRetry(*river.Job[killed]) time.Time { return time.Now().Add(time.Second) }

// The same policy for what a client rescues.
type oneSecond struct{}

func (oneSecond) NextRetry(*rivertype.JobRow) time.Time { return time.Now().Add(time.Second) }

// runKills does what worker.py does for its libraries, with the same commands.
func runKills(ctx context.Context, command string, jobs []string) {
	// libpq's environment names the database.
	pool := must(pgxpool.New(ctx, ""))
	workers := river.NewWorkers()
	river.AddWorker(workers, &killedWorker{pool: pool})
	config := &river.Config{
		JobTimeout:           4 * time.Second,
		MaxAttempts:          100,
		Queues:               map[string]river.QueueConfig{"mail": {MaxWorkers: 3}},
		RescueStuckJobsAfter: 5 * time.Second,
		RetryPolicy:          oneSecond{},
		Workers:              workers,
	}
	switch command {
	case "install":
		must(must(rivermigrate.New(riverpgxv5.New(pool), nil)).Migrate(ctx, rivermigrate.DirectionUp, nil))
	case "add":
		var added []killed
		must(0, json.Unmarshal([]byte(jobs[0]), &added))
		inserter := must(river.NewClient(riverpgxv5.New(pool), &river.Config{MaxAttempts: 100}))
		for _, job := range added {
			options := &river.InsertOpts{Queue: "mail"}
			if job.Delay > 0 {
				options.ScheduledAt = time.Now().Add(time.Duration(job.Delay * float64(time.Second)))
			}
			must(inserter.Insert(ctx, job, options))
		}
	case "work":
		must(0, must(river.NewClient(riverpgxv5.New(pool), config)).Start(ctx))
		select {}
	case "once":
		config.Queues["mail"] = river.QueueConfig{MaxWorkers: 1}
		client := must(river.NewClient(riverpgxv5.New(pool), config))
		ended, cancel := client.Subscribe(river.EventKindJobCompleted, river.EventKindJobFailed)
		defer cancel()
		must(0, client.Start(ctx))
		<-ended
		must(0, client.Stop(ctx))
	}
}
