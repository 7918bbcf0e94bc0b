package scenario

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Walkthrough does what a reader of docs/walkthrough-minikube.md does once the cluster and the images are there.
var Walkthrough = Scenario{
	Name: "walkthrough",
	Claim: "every command of docs/walkthrough-minikube.md from its step 3 to its step 7, one by one and as it stands there but for claps of 4 s instead of 40 s, does what the page says: " +
		"one row ends DEAD, all others are SUCCESS",
	Long: true,
	Run: func(ctx context.Context, w *World) (string, error) {
		commands, err := w.walk()
		if err != nil {
			return "", err
		}
		defer func() {
			_, _ = w.Kubectl(context.WithoutCancel(ctx), "", "delete", "--ignore-not-found", "--cascade=foreground", "--filename="+filepath.Join(w.Root, scaledJobFile))
		}()
		if err := w.empty(ctx); err != nil {
			return "", err
		}
		var repeated []string
		for _, command := range commands {
			if err := w.reaches(ctx, command); err != nil {
				return "", fmt.Errorf("before %s: %w", command, err)
			}
			tries := 0
			err := w.Eventually(ctx, func() error {
				tries++
				return w.shell(ctx, command)
			})
			if err != nil {
				return "", fmt.Errorf("%s: %w", command, err)
			}
			if tries > 1 {
				repeated = append(repeated, "`"+strings.Join(strings.Fields(strings.ReplaceAll(command, "\\\n", "")), " ")+"`")
			}
		}
		const expected = "SELECT count(*) FILTER (WHERE status = 'DEAD') = 1 AND bool_and(status IN ('DEAD', 'SUCCESS')) AND count(*) = (SELECT count(*) FROM make_it_clap) FROM clap"
		if err := w.Eventually(ctx, func() error { return w.is(ctx, expected, "t") }); err != nil {
			return "", err
		}
		claps, err := w.Number(ctx, "SELECT count(*) FROM clap")
		if err != nil {
			return "", err
		}
		seen := fmt.Sprintf("%d commands; %d claps SUCCESS, 1 DEAD", len(commands), claps-1)
		if len(repeated) > 0 {
			seen += "; run again until there was something to answer: " + strings.Join(repeated, ", ")
		}
		return seen, nil
	},
}

// walk returns the commands, without those that have no end, and without the alias, which a shell without a terminal does not take.
func (w *World) walk() ([]string, error) {
	text, err := os.ReadFile(filepath.Join(w.Root, "docs/walkthrough-minikube.md"))
	if err != nil {
		return nil, err
	}
	_, steps, found := strings.Cut(string(text), "\n## 3. ")
	steps, _, ends := strings.Cut(steps, "\n## 8. ")
	if !found || !ends {
		return nil, fmt.Errorf("docs/walkthrough-minikube.md has no steps 3 to 7")
	}
	var commands []string
	for _, block := range regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(steps, -1) {
		command := ""
		for line := range strings.Lines(block[1]) {
			command += line
			if strings.HasSuffix(line, "\\\n") || exec.Command("bash", "-n", "-c", command).Run() != nil {
				continue // the command goes on
			}
			if command = strings.TrimSpace(command); command != "" && !strings.HasPrefix(command, "alias ") {
				commands = append(commands, strings.NewReplacer(" --watch", "", "VALUES (40)", "VALUES (4)", "SELECT 40 ", "SELECT 4 ").Replace(command))
			}
			command = ""
		}
	}
	return commands, nil
}

// reaches waits until the story is where the page says that the command comes.
func (w *World) reaches(ctx context.Context, command string) error {
	for _, wait := range []struct{ command, question string }{
		{"SELECT claimable, held, waiting", "SELECT claimable + held + waiting = 0 FROM clap_backlog"},
		{"SELECT id, status, iteration, last_error", "SELECT status = 'DEAD' FROM clap ORDER BY id DESC LIMIT 1"},
		{"delete pod my-release-postgresql-0", "SELECT count(*) > 0 FROM clap WHERE status = 'SUCCESS'"},
	} {
		if strings.Contains(command, wait.command) {
			return w.Eventually(ctx, func() error { return w.is(ctx, wait.question, "t") })
		}
	}
	return nil
}

// is checks the one value that a statement answers.
func (w *World) is(ctx context.Context, sql, wanted string) error {
	rows, err := w.SQL(ctx, sql)
	if err == nil && (len(rows) != 1 || rows[0][0] != wanted) {
		err = fmt.Errorf("%s: %v", sql, rows)
	}
	return err
}

// shell runs a command with the page's alias as a function: psql finds the server of this laboratory elsewhere, and by a password.
func (w *World) shell(ctx context.Context, command string) error {
	const sql = `sql() { kubectl -n keda-with-postgresql exec -i my-release-postgresql-0 -- env PGHOST=127.0.0.1 PGPASSWORD=` + demoPassword + ` psql -U postgres "$@"; }` + "\n"
	shell := w.Command(ctx, "bash", "-euo", "pipefail", "-c", sql+command)
	shell.Dir = w.Root
	if output, err := shell.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	return nil
}
