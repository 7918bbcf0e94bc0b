package scenario

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clapometer/tests/keda/lab"
)

// Shipped deploys the demo, and shows everything else to the API server and to KEDA's webhook.
var Shipped = Scenario{
	Name: "shipped",
	Claim: "deploy/kustomize/demo comes up; base, mtls, the chart with everything on, deploy/examples and README's YAML " +
		"are taken as they are, without a warning",
	Run: func(ctx context.Context, w *World) (string, error) {
		if err := w.webhookIsAsked(ctx); err != nil {
			return "", err
		}
		files, err := w.dryRuns(ctx)
		if err != nil {
			return "", err
		}
		check, err := w.demo(ctx)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("demo up, `clapometer check`: %s; %d other documents taken by dry run, no warning", check, files), nil
	},
}

// webhookIsAsked shows it something that only it refuses: where it is not reached, it would refuse nothing.
// Its Pod is ready before it serves, and the API server takes an object whose webhook does not answer (failurePolicy: Ignore).
func (w *World) webhookIsAsked(ctx context.Context) error {
	const twice = `
apiVersion: keda.sh/v1alpha1
kind: ScaledJob
metadata: {name: refused, namespace: default}
spec:
  jobTargetRef: {template: {spec: {containers: [{name: one, image: one}]}}}
  triggers:
    - {type: external, name: twice, metadata: {scalerAddress: "a:1"}}
    - {type: external, name: twice, metadata: {scalerAddress: "a:1"}}
`
	return w.Eventually(ctx, func() error {
		switch err := w.Apply(ctx, twice, "--dry-run=server"); {
		case err == nil:
			return errors.New("two triggers of one name were taken: KEDA's webhook was not asked")
		case strings.Contains(err.Error(), `triggerName "twice" is defined multiple times`):
			return nil
		default:
			return fmt.Errorf("KEDA's webhook did not refuse two triggers of one name: %w", err)
		}
	})
}

// dryRuns asks the server to take documents without keeping them, and returns how many it took.
func (w *World) dryRuns(ctx context.Context) (int, error) {
	if _, err := w.Kubectl(ctx, "", "apply", "--server-side", "--filename="+filepath.Join(w.Definitions, "chart")); err != nil {
		return 0, err
	}
	if _, err := w.Kubectl(ctx, "", "wait", "--for=condition=Established", "--filename="+filepath.Join(w.Definitions, "chart"), lab.Timeout); err != nil {
		return 0, err
	}
	// The server may list the new kinds a moment after it serves them.
	if err := w.Eventually(ctx, func() error {
		_, err := w.Kubectl(ctx, "", "get", "certificates,issuers,servicemonitors,prometheusrules", "--all-namespaces")
		return err
	}); err != nil {
		return 0, err
	}
	// Namespaces cannot be tried: what is in them would have no place.
	for _, namespace := range []string{ownNamespace, clapsNamespace, "billing"} {
		if err := w.Apply(ctx, "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+namespace+"}\n"); err != nil {
			return 0, err
		}
		if err := w.takesPods(ctx, namespace); err != nil {
			return 0, err
		}
	}
	documents, err := w.documents(ctx)
	if err != nil {
		return 0, err
	}
	for _, document := range documents {
		if err := w.Apply(ctx, document.text, "--dry-run=server"); err != nil {
			return 0, fmt.Errorf("%s: %w", document.from, err)
		}
	}
	return len(documents), nil
}

type document struct{ from, text string }

// documents returns what is shipped, but for the demo: overlays and files whole, README's YAML block by block.
func (w *World) documents(ctx context.Context) ([]document, error) {
	var found []document
	for _, overlay := range []string{"base", "mtls"} {
		path := filepath.Join("deploy/kustomize", overlay)
		text, err := w.Kubectl(ctx, "", "kustomize", filepath.Join(w.Root, path))
		if err != nil {
			return nil, err
		}
		found = append(found, document{path, text})
	}
	chart, err := os.ReadFile(w.Chart)
	if err != nil {
		return nil, err
	}
	found = append(found, document{"the chart with ci/full-values.yaml", string(chart)})
	err = filepath.WalkDir(filepath.Join(w.Root, "deploy/examples"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		// deploy/examples/own-table/clapometer.yaml is clapometer's own configuration.
		if strings.Contains(string(text), "\napiVersion:") {
			found = append(found, document{strings.TrimPrefix(path, w.Root+"/"), string(text)})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	readme, err := os.ReadFile(filepath.Join(w.Root, "README.md"))
	if err != nil {
		return nil, err
	}
	for i, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(readme), -1) {
		if strings.HasPrefix(block[1], "apiVersion:") {
			found = append(found, document{fmt.Sprintf("README.md, block %d", i+1), block[1]})
		}
	}
	for _, needed := range []string{"README.md", "deploy/examples/scaled-job.yaml"} {
		if !slices.ContainsFunc(found, func(d document) bool { return strings.HasPrefix(d.from, needed) }) {
			return nil, fmt.Errorf("no document found in %s", needed)
		}
	}
	return found, nil
}

// demo applies the demo, waits for it as the walkthrough does, and returns the last line of `clapometer check`.
func (w *World) demo(ctx context.Context) (string, error) {
	_, warnings, err := w.KubectlWarnings(ctx, "", "apply", "--kustomize="+filepath.Join(w.Root, "deploy/kustomize/demo"))
	if err == nil && strings.TrimSpace(warnings) != "" {
		err = errors.New(strings.TrimSpace(warnings))
	}
	if err != nil {
		return "", fmt.Errorf("deploy/kustomize/demo: %w", err)
	}
	if _, err := w.Kubectl(ctx, "", "--namespace="+clapsNamespace, "wait", "job/prepare-database", "--for=condition=Complete", lab.Timeout); err != nil {
		return "", fmt.Errorf("the demo's database: %w", err)
	}
	if _, err := w.Kubectl(ctx, "", "--namespace="+ownNamespace, "rollout", "status", "deployment/clapometer", lab.Timeout); err != nil {
		return "", fmt.Errorf("the demo's clapometer: %w", err)
	}
	var check string
	// A statement may be late on a busy machine.
	err = w.Eventually(ctx, func() (err error) {
		check, err = w.Kubectl(ctx, "", "--namespace="+ownNamespace, "exec", "deployment/clapometer", "--",
			"/clapometer", "check", "--config", "/etc/clapometer/clapometer.yaml")
		return err
	})
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, check)
	}
	pods, err := w.Kubernetes.CoreV1().Pods(ownNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	if len(pods.Items) != 2 {
		return "", fmt.Errorf("clapometer has %d pods instead of 2", len(pods.Items))
	}
	lines := strings.Split(strings.TrimSpace(check), "\n")
	return lines[len(lines)-1], nil
}
