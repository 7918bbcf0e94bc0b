// Command lab runs scenarios on a Kubernetes cluster with the real KEDA. scripts/keda starts it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"clapometer/tests/keda/lab"
	"clapometer/tests/keda/scenario"
)

func main() {
	root := flag.String("root", "", "the repository")
	programs := flag.String("programs", "", "the folder of what scripts/keda builds, from the repository")
	executables := flag.String("executables", "", "the folder of clapometer and postgres-batch, from the repository")
	postgreSQL := flag.String("postgresql", "", "the folder of PostgreSQL's programs")
	keda := flag.String("keda", "", "the version of KEDA")
	versions := flag.String("versions", "", "what it runs on, for the output")
	long := flag.Bool("long", false, "run the scenarios that take long, too")
	write := flag.Bool("write", false, "write what was seen into docs/keda.md")
	flag.Parse()
	os.Exit(lab.Isolate(*root, func(root string) int {
		run := run{
			started: time.Now(), root: root, programs: filepath.Join(root, *programs), keda: *keda, versions: *versions, long: *long, write: *write,
			options: lab.Options{
				Root: root, Programs: filepath.Join(root, *programs), Executables: filepath.Join(root, *executables),
				PostgreSQL: *postgreSQL, KEDA: filepath.Join(root, *programs, "keda"),
			},
		}
		if err := run.all(context.Background(), flag.Args()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}))
}

type run struct {
	started  time.Time
	root     string
	programs string
	keda     string
	versions string
	long     bool
	write    bool
	options  lab.Options
}

func (r run) progress(what string) {
	fmt.Printf("%6.1f s  %s\n", time.Since(r.started).Seconds(), what)
}

func (r run) all(ctx context.Context, names []string) error {
	// Without one of its programs the cluster stands still, and whatever is waited for does not come.
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	r.options.Ended = end
	cluster, err := lab.Start(ctx, r.options, r.progress)
	if err != nil {
		if cluster != nil {
			fmt.Println(cluster.Evidence(r.started))
		}
		return err
	}
	world := &scenario.World{
		Lab: cluster, Root: r.root, Definitions: filepath.Join(r.programs, "definitions"), Chart: filepath.Join(r.programs, "chart.yaml"),
		FiveDatabases: filepath.Join(r.programs, "five-databases.yaml"), WithTLS: filepath.Join(r.programs, "with-tls.yaml"),
		WithChecks: filepath.Join(r.programs, "with-checks.yaml"), Executables: r.options.Executables, KEDA: r.keda,
		Long: r.long,
	}
	results, err := scenario.Run(ctx, world, names, r.progress, r.keep)
	if err != nil {
		return err
	}
	fmt.Printf("\nKEDA %s, %s\n%s\n", r.keda, r.versions, scenario.NewTable(r.keda, results))
	for _, result := range results {
		if result.Err != nil {
			err = errors.Join(err, fmt.Errorf("%s: not as claimed", result.Name))
		}
	}
	if err != nil {
		return fmt.Errorf("%w\nThe logs are in target/keda/logs", err)
	}
	return nil
}

// keep writes what held, if it is to be written. What did not stays as it stood: the exit status says that there is something to look at.
func (r run) keep(results []scenario.Result) error {
	if !r.write {
		return nil
	}
	path := filepath.Join(r.root, "docs/keda.md")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	held := slices.DeleteFunc(slices.Clone(results), func(result scenario.Result) bool { return result.Err != nil })
	written, err := scenario.Write(string(text), r.keda, r.versions, held)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(written), 0o644)
}
