package scenario

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	scaledJobs    = schema.GroupVersionResource{Group: "keda.sh", Version: "v1alpha1", Resource: "scaledjobs"}
	scaledObjects = schema.GroupVersionResource{Group: "keda.sh", Version: "v1alpha1", Resource: "scaledobjects"}
)

// A mistake is metadata that something is wrong with, and what its owner must be able to read.
type mistake struct {
	name     string
	metadata string // beside scalerAddress
	text     string // in an event, behind KEDA's own words
}

const unknownQuery = "code = PermissionDenied desc = no query of this name or text is configured for this namespace; ask the scaler's operator"

var mistakes = []mistake{
	{"misspelt-key", `query: outstanding-claps, targetQueryVaue: "1"`,
		"code = InvalidArgument desc = targetQueryVaue: unknown key; did you mean targetQueryValue?"},
	{"no-query", `targetQueryValue: "1"`,
		"code = InvalidArgument desc = query: missing; it names a query of the scaler's configuration"},
	{"unknown-query", `query: outstanding-clap`, unknownQuery},
	{"own-sql", `query: SELECT 1`, unknownQuery},
	{"no-number", `query: outstanding-claps, targetQueryValue: one`,
		"code = InvalidArgument desc = targetQueryValue: must be "},
	{"divided-by-nothing", `query: outstanding-claps, divideBy: "0"`,
		"code = InvalidArgument desc = divideBy: must be a number above 0"},
	{"unknown-column", `query: outstanding-claps, activityColumn: claimed`,
		"code = InvalidArgument desc = activityColumn: must be one of this query's columns: outstanding, claimable"},
	{"another-database", `query: outstanding-claps, dbName: billing`,
		"code = InvalidArgument desc = dbName: differs from the query's database"},
	{"a-secret", `query: outstanding-claps, passwordFromEnv: PGPASSWORD`,
		"code = InvalidArgument desc = passwordFromEnv: "},
	{"parameter", `query: outstanding-claps, param.tenant: acme`,
		"code = InvalidArgument desc = param.tenant: not a parameter of this query"},
}

// ErrorTexts makes each mistake in a ScaledJob of its own.
var ErrorTexts = Scenario{
	Name:  "error-texts",
	Claim: "what is wrong with a trigger is read in its object's events, with our text and no value; the object is not Ready",
	Run: func(ctx context.Context, w *World) (string, error) {
		const namespace = "mistakes"
		manifests := "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + namespace + "}\n"
		for _, mistake := range mistakes {
			manifests += fmt.Sprintf(`---
apiVersion: keda.sh/v1alpha1
kind: ScaledJob
metadata: {name: %s, namespace: %s}
spec:
  pollingInterval: 2
  jobTargetRef:
    template:
      spec:
        restartPolicy: Never
        containers:
          - {name: clap-worker, image: clap-worker, env: [{name: PGPASSWORD, value: must-not-be-shown}]}
  triggers:
    - type: external
      metadata: {scalerAddress: "clapometer.clapometer.svc.cluster.local:9090", %s}
`, mistake.name, namespace, mistake.metadata)
		}
		if err := w.Apply(ctx, manifests); err != nil {
			return "", err
		}
		started := time.Now()
		failures := make([]error, len(mistakes))
		var waiting sync.WaitGroup
		for i, mistake := range mistakes {
			waiting.Go(func() {
				failures[i] = w.Eventually(ctx, time.Minute, func() error {
					return w.isRead(ctx, scaledJobs, namespace, mistake.name, mistake.text)
				})
			})
		}
		waiting.Wait()
		took := time.Since(started)
		failures = append(failures, w.shown(ctx, namespace, "must-not-be-shown"))
		if _, err := w.Kubectl(ctx, "", "delete", "namespace", namespace); err != nil {
			failures = append(failures, err)
		}
		if err := errors.Join(failures...); err != nil {
			return "", err
		}
		return fmt.Sprintf("%d mistakes, each with its text in an event KEDAScalerFailed and Ready=False, all within %.0f s", len(mistakes), took.Seconds()), nil
	},
}

// isRead checks that an event of the object holds the text, and that the object is not Ready.
func (w *World) isRead(ctx context.Context, kind schema.GroupVersionResource, namespace, name, text string) error {
	events, err := w.Events(ctx, namespace, name)
	if err != nil {
		return err
	}
	if !strings.Contains(events, text) {
		return fmt.Errorf("%s: no event with %q, but:\n%s", name, text, events)
	}
	status, reason, err := w.Condition(ctx, kind, namespace, name, "Ready")
	if err == nil && status != "False" {
		err = fmt.Errorf("%s: Ready is %s (%s)", name, status, reason)
	}
	return err
}

// shown fails if a value is in any event of the namespace.
func (w *World) shown(ctx context.Context, namespace, value string) error {
	events, err := w.Events(ctx, namespace, "")
	if err == nil && strings.Contains(events, value) {
		err = fmt.Errorf("%q is shown in an event:\n%s", value, events)
	}
	return err
}

// Events returns the warnings about an object, or about all of the namespace, a line each.
func (w *World) Events(ctx context.Context, namespace, name string) (string, error) {
	selector := "type=Warning"
	if name != "" {
		selector += ",involvedObject.name=" + name
	}
	events, err := w.Kubernetes.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: selector})
	if err != nil {
		return "", err
	}
	var text strings.Builder
	for _, event := range events.Items {
		fmt.Fprintf(&text, "%s: %s\n", event.Reason, event.Message)
	}
	return text.String(), nil
}

// Condition returns the status and reason of an object's condition; both are empty while it has none.
func (w *World) Condition(ctx context.Context, kind schema.GroupVersionResource, namespace, name, condition string) (string, string, error) {
	object, err := w.Dynamic.Resource(kind).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", "", err
	}
	conditions, _, err := unstructured.NestedSlice(object.Object, "status", "conditions")
	if err != nil {
		return "", "", err
	}
	for _, one := range conditions {
		fields, _ := one.(map[string]any)
		if fields["type"] == condition {
			return fmt.Sprint(fields["status"]), fmt.Sprint(fields["reason"]), nil
		}
	}
	return "", "", nil
}
