package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Migrate takes two ScaledObjects from KEDA's built-in trigger to clapometer and back, as `clapometer migrate` says.
var Migrate = Scenario{
	Name: "migrate",
	Claim: "the manifests that `clapometer migrate` writes are taken without a warning, and KEDA has the same numbers and targets for the HPA " +
		"as with its own `postgresql` triggers; so it is after the way back",
	Run: func(ctx context.Context, w *World) (string, error) {
		defer func() {
			ctx := context.WithoutCancel(ctx)
			_, _ = w.Kubectl(ctx, "", "delete", "namespace", migratedNamespace, "--wait=false")
			_, _ = w.SQL(ctx, "DROP TABLE IF EXISTS invoice")
		}()
		if err := w.Apply(ctx, "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+migratedNamespace+"}\n"+builtinManifests); err != nil {
			return "", err
		}
		if _, err := w.SQL(ctx, invoices); err != nil {
			return "", err
		}
		migrated, err := w.migrated(ctx)
		if err != nil {
			return "", err
		}
		builtin, err := w.numbers(ctx, "postgresql")
		if err != nil {
			return "", fmt.Errorf("with KEDA's triggers: %w", err)
		}
		for _, way := range []struct{ manifests, metrics string }{{migrated, ""}, {builtinManifests, "postgresql"}} {
			if err := w.Apply(ctx, way.manifests); err != nil {
				return "", err
			}
			found, err := w.numbers(ctx, way.metrics)
			if err != nil {
				return "", fmt.Errorf("after a way: %w", err)
			}
			if !slices.Equal(found, builtin) {
				return "", fmt.Errorf("before: %s; after: %s", strings.Join(builtin, ", "), strings.Join(found, ", "))
			}
		}
		return "before, after, and after the way back: " + strings.Join(builtin, ", "), nil
	},
}

const migratedNamespace = "migrated"

const invoices = `
CREATE TABLE invoice AS SELECT n AS id, n % 5 AS customer, CASE WHEN n % 3 = 0 THEN now() END AS paid FROM generate_series(1, 60) AS n;
GRANT SELECT ON invoice TO clapometer
`

// The passwords come in both ways in which KEDA takes them.
const builtinManifests = `---
apiVersion: v1
kind: Secret
metadata: {name: billing, namespace: migrated}
stringData: {password: demo-clapometer}
---
apiVersion: keda.sh/v1alpha1
kind: TriggerAuthentication
metadata: {name: billing, namespace: migrated}
spec:
  secretTargetRef: [{parameter: password, name: billing, key: password}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: invoices, namespace: migrated}
spec:
  replicas: 0
  selector: {matchLabels: {app: invoices}}
  template:
    metadata: {labels: {app: invoices}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: invoices, image: invoices}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: reminders, namespace: migrated}
spec:
  replicas: 0
  selector: {matchLabels: {app: reminders}}
  template:
    metadata: {labels: {app: reminders}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: reminders
          image: invoices
          env: [{name: DB_PASSWORD, valueFrom: {secretKeyRef: {name: billing, key: password}}}]
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: invoices, namespace: migrated}
spec:
  scaleTargetRef: {name: invoices}
  pollingInterval: 5
  triggers:
    - type: postgresql
      metadata:
        host: my-release-postgresql.keda-with-postgresql.svc.cluster.local
        port: "5432"
        dbName: postgres
        userName: clapometer
        sslmode: disable
        query: SELECT count(*)::numeric / 7 FROM invoice WHERE paid IS NULL
        targetQueryValue: "2.5"
        activationTargetQueryValue: "3"
      authenticationRef: {name: billing}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: reminders, namespace: migrated}
spec:
  scaleTargetRef: {name: reminders}
  pollingInterval: 5
  triggers:
    - type: postgresql
      metricType: Value
      metadata:
        host: my-release-postgresql.keda-with-postgresql.svc.cluster.local
        port: "5432"
        dbName: postgres
        userName: clapometer
        passwordFromEnv: DB_PASSWORD
        sslmode: disable
        query: "SELECT count(*) FROM invoice WHERE customer = 3;"
        targetQueryValue: "4"
    - type: postgresql
      metadata:
        host: my-release-postgresql.keda-with-postgresql.svc.cluster.local
        port: "5432"
        dbName: postgres
        userName: clapometer
        passwordFromEnv: DB_PASSWORD
        sslmode: disable
        query: "SELECT count(*) FROM invoice WHERE customer = 4 AND paid IS NULL;"
        targetQueryValue: "6"
`

// The clapometer of this scenario: its Secret is the one that the report says how to make.
const migratedClapometer = `
apiVersion: v1
kind: ConfigMap
metadata: {name: clapometer, namespace: migrated}
data: {clapometer.yaml: %q}
---
apiVersion: v1
kind: Service
metadata: {name: clapometer, namespace: migrated}
spec:
  selector: {app: clapometer}
  ports: [{name: grpc, port: 9090}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: clapometer, namespace: migrated}
spec:
  selector: {matchLabels: {app: clapometer}}
  template:
    metadata: {labels: {app: clapometer}}
    spec:
      enableServiceLinks: false
      securityContext: {runAsNonRoot: true, runAsUser: 65532, fsGroup: 65532}
      containers:
        - name: clapometer
          image: clapometer
          imagePullPolicy: Never
          args: [serve, --config, /etc/clapometer/clapometer.yaml]
          readinessProbe: {httpGet: {path: /readyz, port: 9091}, periodSeconds: 1}
          volumeMounts: [{name: config, mountPath: /etc/clapometer}, {name: password, mountPath: /secrets/clapometer-postgres}]
      volumes:
        - {name: config, configMap: {name: clapometer}}
        - {name: password, secret: {secretName: clapometer-postgres}}
`

// migrated runs `clapometer migrate`, does what its report says before the apply, and returns the manifests that it wrote.
func (w *World) migrated(ctx context.Context) (string, error) {
	work, err := w.TempDir()
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(work, "billing.yaml"), []byte(builtinManifests), 0o644); err != nil {
		return "", err
	}
	migrate := w.Command(ctx, filepath.Join(w.Executables, "clapometer"), "migrate", "--out", "migrated",
		"--scaler-address", "clapometer.migrated.svc.cluster.local:9090", "billing.yaml")
	migrate.Dir = work
	if output, err := migrate.CombinedOutput(); err != nil {
		return "", fmt.Errorf("clapometer migrate: %w: %s", err, output)
	}
	written := map[string]string{}
	for _, name := range []string{"clapometer.yaml", "report.md", "manifests/billing.yaml"} {
		text, err := os.ReadFile(filepath.Join(work, "migrated", name))
		if err != nil {
			return "", err
		}
		written[name] = string(text)
	}
	// The command that checks without the Secrets is part of a list, and indented.
	commands := regexp.MustCompile("(?ms)^```console\n(.*?)^```").FindStringSubmatch(written["report.md"])
	if commands == nil {
		return "", fmt.Errorf("the report has no command that copies the password:\n%s", written["report.md"])
	}
	copying := strings.Replace(commands[1], "--namespace clapometer ", "--namespace "+migratedNamespace+" ", 1)
	if output, err := w.Command(ctx, "bash", "-euo", "pipefail", "-c", copying).CombinedOutput(); err != nil {
		return "", fmt.Errorf("the report's command: %w: %s", err, output)
	}
	configuration := "server: {listen: \"0.0.0.0:9090\"}\nadmin: {listen: \"0.0.0.0:9091\"}\n" + written["clapometer.yaml"]
	if err := w.Apply(ctx, fmt.Sprintf(migratedClapometer, configuration)); err != nil {
		return "", err
	}
	return written["manifests/billing.yaml"], w.serves(ctx, migratedNamespace, "clapometer")
}

// numbers waits until KEDA has metrics of a type for both ScaledObjects, and returns the value and target of each. An empty type
// stands for any but KEDA's own: an external trigger's metrics are called after its query.
func (w *World) numbers(ctx context.Context, metrics string) ([]string, error) {
	var all []string
	for _, name := range []string{"invoices", "reminders"} {
		var found []string
		err := w.Eventually(ctx, func() (err error) {
			found, err = w.numbersOf(ctx, name, metrics)
			return err
		})
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

func (w *World) numbersOf(ctx context.Context, name, metrics string) ([]string, error) {
	object, err := w.Dynamic.Resource(scaledObjects).Namespace(migratedNamespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	names, _, err := unstructured.NestedStringSlice(object.Object, "status", "externalMetricNames")
	if err != nil {
		return nil, err
	}
	hpa, err := w.Kubernetes.AutoscalingV2().HorizontalPodAutoscalers(migratedNamespace).Get(ctx, "keda-hpa-"+name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	var found []string
	for _, metric := range hpa.Spec.Metrics {
		if !slices.Contains(names, metric.External.Metric.Name) {
			return nil, fmt.Errorf("%s: the HPA has the metric %s, the ScaledObject %v", name, metric.External.Metric.Name, names)
		}
		if builtin := strings.HasSuffix(metric.External.Metric.Name, "-postgresql"); builtin != (metrics == "postgresql") {
			return nil, fmt.Errorf("%s still has the metric %s", name, metric.External.Metric.Name)
		}
		value, err := w.externalMetric(ctx, migratedNamespace, metric.External.Metric.Name, name)
		if err != nil {
			return nil, err
		}
		target := metric.External.Target.AverageValue
		if target == nil {
			target = metric.External.Target.Value
		}
		found = append(found, fmt.Sprintf("%s %s of %s (%s)", name, value, target, metric.External.Target.Type))
	}
	return found, nil
}

// externalMetric reads a metric as the HPA does: from KEDA's metrics server.
func (w *World) externalMetric(ctx context.Context, namespace, metric, scaledObject string) (string, error) {
	answer, err := w.Kubectl(ctx, "", "get", "--raw", fmt.Sprintf("/apis/external.metrics.k8s.io/v1beta1/namespaces/%s/%s?labelSelector=scaledobject.keda.sh%%2Fname%%3D%s",
		namespace, metric, scaledObject))
	if err != nil {
		return "", err
	}
	var list struct {
		Items []struct {
			Value string `json:"value"`
		} `json:"items"`
	}
	if err := json.Unmarshal([]byte(answer), &list); err != nil {
		return "", err
	}
	if len(list.Items) != 1 {
		return "", fmt.Errorf("the metric %s of %s has %d values", metric, scaledObject, len(list.Items))
	}
	return list.Items[0].Value, nil
}
