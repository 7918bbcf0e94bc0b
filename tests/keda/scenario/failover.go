package scenario

import (
	"context"
	"fmt"
	"strings"
	"time"

	"clapometer/tests/keda/lab"
)

// Failover promotes a standby when its primary is gone, and has the Service lead to it.
var Failover = Scenario{
	Name: "failover",
	Claim: "when the primary is gone and the Service leads to the promoted standby, clapometer answers from it without a restart, and a row that is committed there starts " +
		"the worker of a ScaledObject",
	Long: true,
	Run: func(ctx context.Context, w *World) (string, error) {
		defer func() {
			_, _ = w.Kubectl(context.WithoutCancel(ctx), "", "delete", "namespace", failoverNamespace, "--wait=false")
		}()
		if err := w.withStandby(ctx); err != nil {
			return "", err
		}
		if err := w.Apply(ctx, failoverObject); err != nil {
			return "", err
		}
		if err := w.isReady(ctx, scaledObjects, failoverNamespace, "worker"); err != nil {
			return "", err
		}
		gone := time.Now()
		if err := w.scaleServer(ctx, failoverNamespace, "one", 0); err != nil {
			return "", err
		}
		if err := w.Eventually(ctx, func() error {
			return w.isRead(ctx, scaledObjects, failoverNamespace, "worker", "KEDAScalerFailed")
		}); err != nil {
			return "", fmt.Errorf("KEDA did not notice the outage: %w", err)
		}
		standby := Database{failoverNamespace, "two", "postgres"}
		if _, err := w.SQLAt(ctx, standby, "SELECT pg_promote()"); err != nil {
			return "", err
		}
		if _, err := w.Kubectl(ctx, "", "--namespace="+failoverNamespace, "patch", "service/primary", "--type=merge",
			`--patch={"spec": {"selector": {"app": "two"}}}`); err != nil {
			return "", err
		}
		promoted := time.Now()
		if _, err := w.SQLAt(ctx, standby, "INSERT INTO task DEFAULT VALUES"); err != nil {
			return "", err
		}
		if err := w.replicas(ctx, failoverNamespace, "worker", 1); err != nil {
			return "", err
		}
		started := time.Since(promoted)
		if err := w.isReady(ctx, scaledObjects, failoverNamespace, "worker"); err != nil {
			return "", err
		}
		restarts, err := w.Kubectl(ctx, "", "--namespace="+failoverNamespace, "get", "pods", "--selector=app.kubernetes.io/name=clapometer",
			"--output=jsonpath={.items[*].status.containerStatuses[*].restartCount}")
		if err == nil && strings.Trim(restarts, "0 ") != "" {
			err = fmt.Errorf("clapometer was started again: %s", restarts)
		}
		return fmt.Sprintf("without a primary for %.0f s; replicas 1 for a new row %.1f s after the Service leads to the standby, clapometer not restarted",
			promoted.Sub(gone).Seconds(), started.Seconds()), err
	},
}

const failoverNamespace = "failover"

// failoverServer is a PostgreSQL and its Service. The command of the standby copies the primary first.
const failoverServer = `---
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: failover}
spec:
  selector: {app: %[1]s}
  publishNotReadyAddresses: true
  ports: [{port: 5432}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: %[1]s, namespace: failover}
spec:
  serviceName: %[1]s
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      enableServiceLinks: false
      securityContext: {runAsNonRoot: true, runAsUser: 999, runAsGroup: 999, fsGroup: 999}
      containers:
        - name: postgresql
          image: postgres
          args: %[2]s
          env:
            - {name: POSTGRES_PASSWORD, value: ` + demoPassword + `}
            - {name: PGPASSWORD, value: ` + demoPassword + `}
            - {name: PGDATA, value: /var/lib/postgresql/data/pgdata}
          readinessProbe: {exec: {command: [pg_isready, --quiet, --host=127.0.0.1, --username=postgres]}, periodSeconds: 1}
          volumeMounts: [{name: data, mountPath: /var/lib/postgresql/data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
`

const copyPrimary = `[sh, -euc, "pg_basebackup --host=one --username=postgres --pgdata=$PGDATA --write-recovery-conf && ` +
	`exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp -c fsync=off"]`

const failoverServices = `
apiVersion: v1
kind: Service
metadata: {name: primary, namespace: failover}
spec:
  selector: {app: one}
  ports: [{port: 5432}]
---`

var failoverClapometer = ownClapometer(failoverNamespace, 1, `
databases:
  tasks: {host: primary.failover.svc.cluster.local, dbname: postgres, user: postgres, password: {file: /secrets/password}, sslmode: disable}
queries:
  tasks: {sql: SELECT count(*) FROM task}
`)

const failoverObject = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: worker, namespace: failover}
spec:
  replicas: 0
  selector: {matchLabels: {app: worker}}
  template:
    metadata: {labels: {app: worker}}
    spec: {terminationGracePeriodSeconds: 1, containers: [{name: clap-worker, image: clap-worker}]}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: worker, namespace: failover}
spec:
  scaleTargetRef: {name: worker}
  pollingInterval: 2
  triggers:
    - type: external-push
      metadata: {scalerAddress: "clapometer.failover.svc.cluster.local:9090", query: tasks}
`

func (w *World) withStandby(ctx context.Context) error {
	if err := w.Apply(ctx, "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+failoverNamespace+"}\n"+fmt.Sprintf(failoverServer, "one", "[postgres]")); err != nil {
		return err
	}
	ready := func(name string) error {
		_, err := w.Kubectl(ctx, "", "--namespace="+failoverNamespace, "rollout", "status", "statefulset/"+name, lab.Timeout)
		return err
	}
	if err := ready("one"); err != nil {
		return err
	}
	for _, statement := range []string{
		`COPY (SELECT 'host replication all all scram-sha-256') TO PROGRAM 'cat >>"$PGDATA/pg_hba.conf"'`,
		"SELECT pg_reload_conf()",
		"CREATE TABLE task ()",
	} {
		if _, err := w.SQLAt(ctx, Database{failoverNamespace, "one", "postgres"}, statement); err != nil {
			return err
		}
	}
	if err := w.Apply(ctx, fmt.Sprintf(failoverServer, "two", copyPrimary)); err != nil {
		return err
	}
	if err := ready("two"); err != nil {
		return err
	}
	if err := w.Apply(ctx, failoverServices+failoverClapometer); err != nil {
		return err
	}
	return w.serves(ctx, failoverNamespace, "clapometer")
}
