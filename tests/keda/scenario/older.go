package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/version"

	"clapometer/tests/keda/lab"
)

// OlderDefinitions shows our objects of KEDA's kinds to a second API server, with the definitions of
// one older KEDA after the other.
var OlderDefinitions = Scenario{
	Name:  "older-definitions",
	Claim: "what is shipped for KEDA is valid by the definitions of every KEDA from 2.17.0",
	Run: func(ctx context.Context, w *World) (string, error) {
		entries, err := os.ReadDir(filepath.Join(w.Definitions, "keda"))
		if err != nil {
			return "", err
		}
		var versions []*version.Version
		for _, entry := range entries {
			versions = append(versions, version.MustParseGeneric(entry.Name()))
		}
		slices.SortFunc(versions, func(a, b *version.Version) int {
			if a.LessThan(b) {
				return -1
			}
			return 1
		})
		documents, err := w.documents(ctx)
		if err != nil {
			return "", err
		}
		var objects []string
		for _, document := range documents {
			for _, object := range strings.Split(document.text, "\n---") {
				if strings.Contains("\n"+object, "\napiVersion: keda.sh/") {
					objects = append(objects, object)
				}
			}
		}
		second, stop, err := w.SecondAPIServer(ctx)
		if err != nil {
			return "", err
		}
		defer stop()
		for _, namespace := range []string{ownNamespace, clapsNamespace, "billing"} {
			if _, err := second.Kubectl(ctx, "", "create", "namespace", namespace); err != nil {
				return "", err
			}
		}
		var taken, refused []string
		for _, version := range versions {
			err := second.takes(ctx, filepath.Join(w.Definitions, "keda", version.String()), strings.Join(objects, "\n---\n"))
			if err != nil {
				refused = append(refused, fmt.Sprintf("KEDA %s: %v", version, err))
			} else {
				taken = append(taken, version.String())
			}
		}
		if len(refused) > 0 {
			return "", errors.New(strings.Join(refused, "\n"))
		}
		return fmt.Sprintf("%d objects taken by the definitions of %s", len(objects), strings.Join(taken, ", ")), nil
	},
}

type second struct{ *World }

// SecondAPIServer starts another API server, without webhooks, and returns what stops it.
func (w *World) SecondAPIServer(ctx context.Context) (second, func(), error) {
	other, stop, err := w.Lab.Another(ctx)
	if err != nil {
		return second{}, nil, err
	}
	world := *w
	world.Lab = other
	return second{&world}, stop, nil
}

// takes makes the definitions, tries the objects, and deletes the definitions. The next ones are new
// to the server, so that nothing is remembered of these.
func (s second) takes(ctx context.Context, definitions, objects string) error {
	if _, err := s.Kubectl(ctx, "", "create", "--filename="+definitions); err != nil {
		return err
	}
	if _, err := s.Kubectl(ctx, "", "wait", "--for=condition=Established", "--filename="+definitions, lab.Timeout); err != nil {
		return err
	}
	err := s.Eventually(ctx, func() error {
		_, err := s.Kubectl(ctx, "", "get", "scaledjobs,scaledobjects,triggerauthentications,clustertriggerauthentications", "--all-namespaces")
		return err
	})
	if err != nil {
		return err
	}
	_, warnings, refused := s.KubectlWarnings(ctx, objects, "create", "--dry-run=server", "--filename=-")
	if refused == nil && strings.TrimSpace(warnings) != "" {
		refused = errors.New(strings.TrimSpace(warnings))
	}
	if _, err := s.Kubectl(ctx, "", "delete", "--filename="+definitions, lab.Timeout); err != nil {
		return errors.Join(refused, err)
	}
	return refused
}
