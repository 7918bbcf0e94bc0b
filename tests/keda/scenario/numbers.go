package scenario

import (
	"context"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const numbersNamespace = "numbers"

// numbersClapometer answers for the numbers of a table, which scenarios change, and for numbers that stand still.
var numbersClapometer = "apiVersion: v1\nkind: Namespace\nmetadata: {name: numbers}\n---" + ownClapometer(numbersNamespace, 2, `
databases:
  numbers:
    host: my-release-postgresql.keda-with-postgresql.svc.cluster.local
    dbname: numbers
    user: postgres
    password: {file: /secrets/password}
    sslmode: disable
queries:
  two: {sql: SELECT 2}
  four: {sql: SELECT 4}
  nine: {sql: SELECT 9}
  none: {sql: SELECT 0}
  number: {sql: "SELECT value FROM number WHERE name = $1", parameters: {name: text}}
`)

// ownClapometer is a clapometer of a scenario's own, with a Service, in a namespace that there is. Its databases have the demo's password.
func ownClapometer(namespace string, replicas int, configuration string) string {
	configuration = "server: {listen: \"0.0.0.0:9090\"}\nadmin: {listen: \"0.0.0.0:9091\"}\nbuilt_in_queries: false" + configuration
	return fmt.Sprintf(`
apiVersion: v1
kind: Secret
metadata: {name: clapometer, namespace: %[1]s}
stringData: {password: %[2]s, clapometer.yaml: %[4]q}
---
apiVersion: v1
kind: Service
metadata: {name: clapometer, namespace: %[1]s}
spec:
  selector: {app.kubernetes.io/name: clapometer}
  ports: [{name: grpc, port: 9090}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: clapometer, namespace: %[1]s}
spec:
  replicas: %[3]d
  selector: {matchLabels: {app.kubernetes.io/name: clapometer}}
  template:
    metadata: {labels: {app.kubernetes.io/name: clapometer}}
    spec:
      enableServiceLinks: false
      securityContext: {runAsNonRoot: true, runAsUser: 65532, fsGroup: 65532}
      containers:
        - name: clapometer
          image: clapometer
          imagePullPolicy: Never
          args: [serve, --config, /secrets/clapometer.yaml]
          readinessProbe: {httpGet: {path: /readyz, port: 9091}, periodSeconds: 1}
          lifecycle: {preStop: {sleep: {seconds: 3}}}
          volumeMounts: [{name: secrets, mountPath: /secrets}]
      volumes: [{name: secrets, secret: {secretName: clapometer}}]
`, namespace, demoPassword, replicas, configuration)
}

// ownPostgreSQL is a namespace of a scenario's own, with a server and its Service, which are called postgresql. Its superuser has the demo's password.
func ownPostgreSQL(namespace string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata: {name: %[1]s}
---
apiVersion: v1
kind: Secret
metadata: {name: postgresql, namespace: %[1]s}
stringData: {password: %[2]s}
---
apiVersion: v1
kind: Service
metadata: {name: postgresql, namespace: %[1]s}
spec:
  selector: {app: postgresql}
  ports: [{port: 5432}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: postgresql, namespace: %[1]s}
spec:
  serviceName: postgresql
  selector: {matchLabels: {app: postgresql}}
  template:
    metadata: {labels: {app: postgresql}}
    spec:
      enableServiceLinks: false
      securityContext: {runAsNonRoot: true, runAsUser: 999, runAsGroup: 999, fsGroup: 999}
      containers:
        - name: postgresql
          image: postgres
          env:
            - {name: POSTGRES_PASSWORD, valueFrom: {secretKeyRef: {name: postgresql, key: password}}}
            - {name: PGDATA, value: /var/lib/postgresql/data/pgdata}
          readinessProbe: {exec: {command: [pg_isready, --quiet, --host=127.0.0.1, --username=postgres]}, periodSeconds: 1}
          volumeMounts: [{name: data, mountPath: /var/lib/postgresql/data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
`, namespace, demoPassword)
}

var numbersDatabase = Database{clapsNamespace, "my-release-postgresql", "numbers"}

// withNumbers installs the clapometer of these scenarios, and returns what removes it with all that they have made.
func (w *World) withNumbers(ctx context.Context) (func(), error) {
	stop := func() {
		ctx := context.WithoutCancel(ctx)
		_, _ = w.Kubectl(ctx, "", "delete", "namespace", numbersNamespace)
		_, _ = w.SQL(ctx, "DROP DATABASE IF EXISTS "+numbersDatabase.Name+" WITH (FORCE)")
	}
	if _, err := w.SQL(ctx, "CREATE DATABASE "+numbersDatabase.Name); err != nil {
		return stop, err
	}
	if _, err := w.SQLAt(ctx, numbersDatabase, "CREATE TABLE number (name text PRIMARY KEY, value integer NOT NULL)"); err != nil {
		return stop, err
	}
	if err := w.Apply(ctx, numbersClapometer); err != nil {
		return stop, err
	}
	return stop, w.serves(ctx, numbersNamespace, "clapometer")
}

// number sets a number of the table.
func (w *World) number(ctx context.Context, name string, value int) error {
	_, err := w.SQLAt(ctx, numbersDatabase,
		fmt.Sprintf("INSERT INTO number VALUES ('%s', %d) ON CONFLICT (name) DO UPDATE SET value = excluded.value", name, value))
	return err
}

// numbersTrigger is a trigger with a query of numbersClapometer; more is what it has beside. It is called after the query, or its parameter.
func numbersTrigger(kind, query, more string) string {
	words := strings.Fields(query)
	return fmt.Sprintf(`
    - type: %s
      name: %s%s
      metadata: {scalerAddress: "clapometer.numbers.svc.cluster.local:9090", query: %s, targetQueryValue: "1"}`, kind, words[len(words)-1], more, query)
}

// numbersObject is a ScaledObject whose Deployment has a worker that does nothing. spec is what its specification has beside.
func numbersObject(name, spec string, triggers ...string) string {
	return fmt.Sprintf(`---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, namespace: numbers}
spec:
  replicas: 0
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec: {terminationGracePeriodSeconds: 1, containers: [{name: clap-worker, image: clap-worker}]}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: %[1]s, namespace: numbers}
spec:
  scaleTargetRef: {name: %[1]s}
  %[2]s
  triggers:%[3]s
`, name, strings.ReplaceAll(strings.TrimSpace(spec), "\n", "\n  "), strings.Join(triggers, ""))
}

// requests returns how often GetMetrics and IsActive of an object's triggers were answered.
func (w *World) requests(ctx context.Context, name string) (int, error) {
	return w.metric(ctx, numbersNamespace, "clapometer_trigger_requests_total", `name="`+name+`"`)
}

// jobsOf returns how many Jobs of a ScaledJob there are.
func (w *World) jobsOf(ctx context.Context, scaledJob string) (int, error) {
	jobs, err := w.Kubernetes.BatchV1().Jobs(numbersNamespace).List(ctx, metav1.ListOptions{LabelSelector: ofScaledJobs + "=" + scaledJob})
	if err != nil {
		return 0, err
	}
	return len(jobs.Items), nil
}
