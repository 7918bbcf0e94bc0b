package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

// A mistake is metadata that something is wrong with, or a query that fails, and what the trigger's
// owner must be able to read.
type mistake struct {
	name     string
	metadata string // beside scalerAddress
	text     string // in an event, behind KEDA's own words
}

// Queries that fail are those of a clapometer of this scenario's own.
const (
	scalerAddress   = "clapometer.clapometer.svc.cluster.local:9090"
	failingAddress  = "failing-queries.clapometer.svc.cluster.local:9090"
	failingManifest = `
apiVersion: v1
kind: ConfigMap
metadata: {name: failing-queries, namespace: clapometer}
data:
  clapometer.yaml: |
    server: {listen: "0.0.0.0:9090"}
    admin: {listen: "0.0.0.0:9091"}
    databases:
      claps:
        host: my-release-postgresql.keda-with-postgresql.svc.cluster.local
        dbname: postgres
        user: clapometer
        password: {file: /secrets/password}
        sslmode: disable
      away: {host: "127.0.0.1", port: 1, dbname: postgres, user: clapometer, sslmode: disable}
      failed-often: {host: "127.0.0.1", port: 1, dbname: postgres, user: clapometer, sslmode: disable}
      disabled: {host: "127.0.0.1", dbname: postgres, user: clapometer, sslmode: disable, enabled: false}
    queries:
      no-table: {database: claps, sql: SELECT count(*) FROM nothing}
      no-grant: {database: claps, sql: SELECT count(payload) FROM make_it_clap}
      no-row: {database: claps, sql: SELECT 1 WHERE false, on_no_row: error}
      negative: {database: claps, sql: SELECT -1}
      slow: {database: claps, sql: SELECT 1 FROM pg_sleep(5), timeout: 1s}
      locked: {database: claps, sql: SELECT count(*) FROM locked}
      not-there: {database: away, sql: SELECT 1}
      failed-often: {database: failed-often, sql: SELECT 1}
      of-tenant: {database: claps, sql: SELECT count(*) FROM make_it_clap WHERE $1 = '', parameters: {tenant: text}}
      switched-off: {database: disabled, sql: SELECT 1}
      elsewhere: {database: claps, sql: SELECT 1, namespaces: [billing]}
---
apiVersion: v1
kind: Service
metadata: {name: failing-queries, namespace: clapometer}
spec:
  selector: {app: failing-queries}
  ports: [{name: grpc, port: 9090}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: failing-queries, namespace: clapometer}
spec:
  selector: {matchLabels: {app: failing-queries}}
  template:
    metadata: {labels: {app: failing-queries}}
    spec:
      enableServiceLinks: false
      securityContext: {runAsNonRoot: true, runAsUser: 65532, fsGroup: 65532, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: clapometer
          image: clapometer
          imagePullPolicy: Never
          args: [serve, --config, /etc/clapometer/clapometer.yaml]
          readinessProbe: {httpGet: {path: /readyz, port: 9091}, periodSeconds: 1}
          securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
          volumeMounts: [{name: config, mountPath: /etc/clapometer}, {name: password, mountPath: /secrets}]
      volumes:
        - {name: config, configMap: {name: failing-queries}}
        - {name: password, secret: {secretName: clapometer-database}}
`
)

var failures = []mistake{
	{"no-table", "query: no-table", "code = FailedPrecondition desc = the database rejected the query (SQLSTATE 42P01)"},
	{"no-grant", "query: no-grant", "code = FailedPrecondition desc = the database rejected the query (SQLSTATE 42501)"},
	{"no-row", "query: no-row", "code = FailedPrecondition desc = the query returned no row"},
	{"negative", "query: negative", "code = FailedPrecondition desc = the query returned a negative number"},
	{"slow", "query: slow", "code = DeadlineExceeded desc = "},
	{"locked", "query: locked", "code = DeadlineExceeded desc = the query waited too long for a lock (SQLSTATE 55P03)"},
	// Or the breaker's text, if it has opened before the first poll's answer.
	{"not-there", "query: not-there", "code = Unavailable desc = the database "},
	{"failed-often", "query: failed-often", "code = Unavailable desc = the database has failed repeatedly; waiting for it to return"},
	{crowded, "query: of-tenant, param.tenant: acme",
		"code = ResourceExhausted desc = this namespace holds its share of the scaler's distinct queries and parameters"},
	{"switched-off", "query: switched-off", "code = Unavailable desc = the query's database is disabled in the scaler's configuration"},
	{"elsewhere", "query: elsewhere", unknownQuery},
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
	Name: "error-texts",
	Claim: "what is wrong with a trigger or its query is read in its object's events, with our text and no value, and the object is not Ready; " +
		"a scaler that cannot be reached is seen in the operator's log only",
	Run: func(ctx context.Context, w *World) (string, error) {
		if err := w.Apply(ctx, failingManifest); err != nil {
			return "", err
		}
		if err := w.serves(ctx, ownNamespace, "failing-queries"); err != nil {
			return "", err
		}
		release, err := w.obstacles(ctx)
		if err != nil {
			return "", err
		}
		defer release()
		manifests := "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + mistakesNamespace + "}\n" +
			"---\napiVersion: v1\nkind: Namespace\nmetadata: {name: " + crowded + "}\n"
		for _, mistake := range mistakes {
			manifests += mistake.manifest(scalerAddress)
		}
		for _, failure := range failures {
			manifests += failure.manifest(failingAddress)
		}
		unreachable := mistake{name: "nobody-there", metadata: "query: outstanding-claps"}
		manifests += unreachable.manifest("clapometer.clapometer.svc.cluster.local:9999")
		if err := w.Apply(ctx, manifests); err != nil {
			return "", err
		}
		started := time.Now()
		all := append(slices.Clone(mistakes), failures...)
		unread := make([]error, len(all))
		var waiting sync.WaitGroup
		for i, mistake := range all {
			waiting.Go(func() {
				unread[i] = w.Eventually(ctx, func() error {
					return w.isRead(ctx, scaledJobs, mistake.namespace(), mistake.name, mistake.text)
				})
			})
		}
		waiting.Wait()
		took := time.Since(started)
		unread = append(unread, w.isSilent(ctx, unreachable.name), w.shown(ctx, mistakesNamespace, "must-not-be-shown"))
		_, failed := w.Kubectl(ctx, "", "delete", "namespace", mistakesNamespace)
		unread = append(unread, failed)
		_, failed = w.Kubectl(ctx, "", "delete", "namespace", crowded)
		unread = append(unread, failed)
		_, failed = w.Kubectl(ctx, failingManifest, "delete", "--filename=-")
		if err := errors.Join(append(unread, failed)...); err != nil {
			return "", err
		}
		return fmt.Sprintf("%d mistakes and %d failing queries, each with its text in an event KEDAScalerFailed and Ready=False, all within %.0f s; "+
			"nobody at the address: no event, not Ready=False, \"connection refused\" in the log", len(mistakes), len(failures), took.Seconds()), nil
	},
}

const (
	mistakesNamespace = "mistakes"
	crowded           = "crowded" // a namespace of its own, and the one object in it
)

func (m mistake) namespace() string {
	if m.name == crowded {
		return crowded
	}
	return mistakesNamespace
}

func (m mistake) manifest(address string) string {
	return fmt.Sprintf(`---
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
      metadata: {scalerAddress: %q, %s}
`, m.name, m.namespace(), address, m.metadata)
}

// isLogged checks that KEDA's operator has logged the text about an object in the last two minutes.
func (w *World) isLogged(ctx context.Context, name, text string) error {
	return w.isLoggedSince(ctx, time.Now().Add(-2*time.Minute), name, text)
}

func (w *World) isLoggedSince(ctx context.Context, from time.Time, name, text string) error {
	log, err := w.PodLogs(ctx, "keda", "app=keda-operator", from)
	if err != nil {
		return err
	}
	for line := range strings.Lines(log) {
		if strings.Contains(line, name) && strings.Contains(line, text) {
			return nil
		}
	}
	return fmt.Errorf("KEDA's operator does not log %q about %s", text, name)
}

// isSilent waits until KEDA has logged that it does not reach the object's scaler, and checks that
// the object's owner learns nothing of it.
func (w *World) isSilent(ctx context.Context, name string) error {
	err := w.Eventually(ctx, func() error { return w.isLogged(ctx, name, "connection refused") })
	if err != nil {
		return err
	}
	events, err := w.Events(ctx, mistakesNamespace, name)
	if err != nil {
		return err
	}
	status, reason, err := w.Condition(ctx, scaledJobs, mistakesNamespace, name, "Ready")
	if err == nil && (strings.Contains(events, "connection refused") || status == "False") {
		err = fmt.Errorf("%s is not silent: Ready is %s (%s), events:\n%s", name, status, reason, events)
	}
	return err
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

// isReady waits until an object's condition Ready is True.
func (w *World) isReady(ctx context.Context, kind schema.GroupVersionResource, namespace, name string) error {
	return w.Eventually(ctx, func() error {
		status, reason, err := w.Condition(ctx, kind, namespace, name, "Ready")
		if err == nil && status != "True" {
			err = fmt.Errorf("%s is not Ready: %s (%s)", name, status, reason)
		}
		return err
	})
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
