// Package scenario holds what is claimed about KEDA, and how each claim is seen to hold.
//
// A scenario is one claim in one file: a Scenario in All, whose Run returns what was seen, or an error
// where that is something else. Those of one group run at the same time and must not share rows,
// objects or outages; the groups run one after the other, but for what runs beside the next ones.
package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"k8s.io/apimachinery/pkg/util/version"

	"clapometer/tests/keda/lab"
)

// A Scenario is a claim, and a way to see it hold or fail.
type Scenario struct {
	Name  string // what `scripts/keda NAME` runs
	Claim string // one sentence, for the table
	Long  bool   // it takes so long that it is run with --long, or by its name, only
	// Beside lets the groups that follow begin before it has ended. It has all that it needs to itself.
	Beside bool
	// Alone has it begin when nothing else runs: it restarts KEDA's operator.
	Alone bool
	// Run returns what was seen, with its figures, or what was seen instead.
	Run func(context.Context, *World) (string, error)
}

// All scenarios, in groups.
var All = [][]Scenario{
	{Shipped},
	{Claps, OlderDefinitions, ErrorTexts, TLS},
	{Push, Migrate, Checks},
	{Outage, ConnectionAge},
	{Rollouts, Keeper, Budget},
	{Trickle},
	{Strategies, ScaledObjects, TenMinutes},
	{ScalerFaults, Services, Failover},
	{FrozenDatabase, LongOutage},
	{Builtin, SeveralTriggers},
	{Walkthrough},
	{Retries},
	{Renewal},
	{OperatorRestart},
}

// longest is how long one scenario may take: far longer than any does, so that one which hangs is named.
const longest = 30 * time.Minute

// A Result is what one scenario saw.
type Result struct {
	Scenario
	Seen  string
	Err   error
	Ended time.Time
}

// Run runs the named scenarios, or all, then the executables, which are the names with a slash. The first group is always
// run: it deploys what the others use. Whenever some have ended it calls keep with their results.
func Run(ctx context.Context, world *World, names []string, progress func(string), keep func([]Result) error) ([]Result, error) {
	groups := slices.Clone(All)
	for _, name := range names {
		if strings.Contains(name, "/") {
			groups = append(groups, []Scenario{executable(name)})
		} else if !slices.ContainsFunc(slices.Concat(All...), func(s Scenario) bool { return s.Name == name }) {
			return nil, fmt.Errorf("there is no scenario %q", name)
		}
	}
	run := func(scenario Scenario) Result {
		progress(scenario.Name + ": " + scenario.Claim)
		started := time.Now()
		ctx, cancel := context.WithTimeout(ctx, longest)
		defer cancel()
		text, err := scenario.Run(ctx, world)
		if err != nil {
			progress(scenario.Name + ": FAILED: " + err.Error() + "\n" + world.Evidence(started))
		} else {
			progress(scenario.Name + ": " + text)
		}
		return Result{scenario, text, err, time.Now()}
	}
	var results []Result
	ended := func(seen []Result) error {
		results = append(results, seen...)
		return keep(seen)
	}
	besides := background{run: run}
	defer besides.wait()
	for i, group := range groups {
		group = slices.DeleteFunc(slices.Clone(group), func(s Scenario) bool {
			if len(names) == 0 {
				return s.Long && !world.Long
			}
			return i > 0 && !slices.Contains(names, s.Name)
		})
		if slices.ContainsFunc(group, func(s Scenario) bool { return s.Alone }) {
			if err := ended(besides.wait()); err != nil {
				return results, err
			}
		}
		var here []Scenario
		for _, scenario := range group {
			if scenario.Beside {
				besides.start(scenario)
			} else {
				here = append(here, scenario)
			}
		}
		seen := make([]Result, len(here))
		var running sync.WaitGroup
		for j, scenario := range here {
			running.Go(func() { seen[j] = run(scenario) })
		}
		running.Wait()
		if err := ended(seen); err != nil {
			return results, err
		}
		if i == 0 && seen[0].Err != nil {
			return results, nil
		}
		if ctx.Err() != nil {
			return results, context.Cause(ctx)
		}
	}
	return results, ended(besides.wait())
}

// background are scenarios that run beside others.
type background struct {
	run     func(Scenario) Result
	running sync.WaitGroup
	mu      sync.Mutex
	seen    []Result
}

func (b *background) start(scenario Scenario) {
	b.running.Go(func() {
		result := b.run(scenario)
		b.mu.Lock()
		defer b.mu.Unlock()
		b.seen = append(b.seen, result)
	})
}

// wait returns the results of those that were started since the last time, when all have ended.
func (b *background) wait() []Result {
	b.running.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	seen := b.seen
	b.seen = nil
	return seen
}

// A World is the cluster with the demo in it, as scenarios use it.
type World struct {
	*lab.Lab
	Root        string // the repository
	Definitions string // the folder of definitions that scripts/keda gathers
	Chart       string // the file with the rendered chart
	// FiveDatabases is the file with the chart as the scenario keeper installs it.
	FiveDatabases string
	WithTLS       string // the same for the scenario tls
	WithChecks    string // and for the scenario checks
	Executables   string // the folder of clapometer and postgres-batch
	KEDA          string // its version
	Long          bool   // scenarios that take long are run, too
}

// since tells whether KEDA is of this version or a later one.
func (w *World) since(first string) bool {
	return version.MustParseGeneric(w.KEDA).AtLeast(version.MustParseGeneric(first))
}

// Names of the demo.
const (
	clapsNamespace = "keda-with-postgresql"
	ownNamespace   = "clapometer"
	demoPassword   = "demo-postgres"
)

// SQL runs statements in the demo's database as its superuser, and returns the rows of the last as text.
func (w *World) SQL(ctx context.Context, sql string) ([][]string, error) {
	return w.SQLAt(ctx, demoDatabase, sql)
}

// A Database is one of a server behind a Service, whose superuser has the demo's password.
type Database struct{ Namespace, Service, Name string }

var demoDatabase = Database{clapsNamespace, "my-release-postgresql", "postgres"}

// SQLAt runs statements in a database as its superuser, and returns the rows of the last as text.
func (w *World) SQLAt(ctx context.Context, database Database, sql string) ([][]string, error) {
	connection, err := w.connect(ctx, database)
	if err != nil {
		return nil, err
	}
	defer connection.Close(ctx)
	results, err := connection.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	var rows [][]string
	for _, row := range results[len(results)-1].Rows {
		var texts []string
		for _, value := range row {
			texts = append(texts, string(value))
		}
		rows = append(rows, texts)
	}
	return rows, nil
}

func (w *World) connect(ctx context.Context, database Database) (*pgx.Conn, error) {
	address, err := w.ServiceAddress(ctx, database.Namespace, database.Service)
	if err != nil {
		return nil, err
	}
	var connection *pgx.Conn
	// A server's pod is ready a moment before its Service takes connections.
	err = w.Eventually(ctx, func() error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		var err error
		connection, err = pgx.Connect(ctx, "host="+address+" user=postgres password="+demoPassword+" dbname="+database.Name+" sslmode=disable")
		return err
	})
	return connection, err
}

// Number returns the one number that a statement answers in the demo's database.
func (w *World) Number(ctx context.Context, sql string) (int, error) {
	return w.NumberAt(ctx, demoDatabase, sql)
}

// NumberAt returns the one number that a statement answers.
func (w *World) NumberAt(ctx context.Context, database Database, sql string) (int, error) {
	rows, err := w.SQLAt(ctx, database, sql)
	if err != nil {
		return 0, err
	}
	if len(rows) != 1 || len(rows[0]) != 1 {
		return 0, fmt.Errorf("%s: not one value: %v", sql, rows)
	}
	var number int
	_, err = fmt.Sscan(rows[0][0], &number)
	return number, err
}

// Apply applies manifests, and fails on a warning, too.
func (w *World) Apply(ctx context.Context, manifests string, args ...string) error {
	_, warnings, err := w.KubectlWarnings(ctx, manifests, append([]string{"apply", "--filename=-"}, args...)...)
	if err == nil && strings.TrimSpace(warnings) != "" {
		err = errors.New(strings.TrimSpace(warnings))
	}
	return err
}

// empty deletes all claps and what was asked for.
func (w *World) empty(ctx context.Context) error {
	// A query that reads the tables in another order makes a deadlock, in which PostgreSQL may end either of the two.
	return w.Eventually(ctx, func() error {
		_, err := w.SQL(ctx, "TRUNCATE make_it_clap, clap, clap_attempt RESTART IDENTITY CASCADE")
		return err
	})
}

// within fails a claim that says how long something takes at most.
func within(took, limit time.Duration, what string) error {
	if took > limit {
		return fmt.Errorf("%s took %.1f s, more than %v", what, took.Seconds(), limit)
	}
	return nil
}
