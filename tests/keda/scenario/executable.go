package scenario

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"clapometer/tests/keda/lab"
)

// executable is somebody else's scenario. It holds if the program exits with 0; the last line of its standard output is
// what was seen.
func executable(path string) Scenario {
	return Scenario{
		Name:  path,
		Claim: "exits with 0",
		Run: func(ctx context.Context, w *World) (string, error) {
			address, err := w.ServiceAddress(ctx, clapsNamespace, "my-release-postgresql")
			if err != nil {
				return "", err
			}
			log, err := w.Log(filepath.Base(path))
			if err != nil {
				return "", err
			}
			defer log.Close()
			var output bytes.Buffer
			command := w.Command(ctx, path)
			command.Stdout, command.Stderr = io.MultiWriter(&output, log), log
			command.Env = append(command.Env, "PGHOST="+address, "PGUSER=postgres", "PGPASSWORD="+demoPassword, "PGDATABASE=postgres", "PGSSLMODE=disable")
			if err := command.Run(); err != nil {
				return "", fmt.Errorf("%w; its output is in %s, and ends:\n%s", err, filepath.Base(log.Name()), lab.Tail(log.Name()))
			}
			lines := strings.Split(strings.TrimSpace(output.String()), "\n")
			return lines[len(lines)-1], nil
		},
	}
}
