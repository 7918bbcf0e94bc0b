package scenario

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ConnectionAge has the push streams of many ScaledObjects on one connection, and waits until clapometer has it renewed.
var ConnectionAge = Scenario{
	Name: "connection-age",
	Claim: "when a connection reaches `connection_age` its streams end with OK, StreamMetricSpec at most 20 a second, because each that opens again is a " +
		"reconcile of its ScaledObject; KEDA opens all of them again",
	Long: true,
	Run: func(ctx context.Context, w *World) (string, error) {
		defer func() {
			_, _ = w.Kubectl(context.WithoutCancel(ctx), "", "delete", "namespace", agedNamespace, "--wait=false")
		}()
		if err := w.Apply(ctx, agedClapometer); err != nil {
			return "", err
		}
		if err := w.serves(ctx, agedNamespace, "clapometer"); err != nil {
			return "", err
		}
		var manifests strings.Builder
		for i := range agedObjects {
			fmt.Fprintf(&manifests, agedObject, i)
		}
		if err := w.Apply(ctx, manifests.String()); err != nil {
			return "", err
		}
		if err := w.Eventually(ctx, func() error { return w.agedStreamsAreOpen(ctx) }); err != nil {
			return "", err
		}
		spread, err := w.endOfAgedStreams(ctx)
		if err != nil {
			return "", err
		}
		// At least 1.45 s, as the first ends at once. A slow machine only makes it longer.
		if w.since("2.21") && spread < time.Second {
			return "", fmt.Errorf("%d StreamMetricSpec ended within %v", agedObjects, spread)
		}
		ended := time.Now()
		if err := w.Eventually(ctx, func() error { return w.agedStreamsAreOpen(ctx) }); err != nil {
			return "", err
		}
		return fmt.Sprintf("%d %s ended with OK over %.1f s; all streams were open again %.1f s later", agedObjects,
			w.agedStreams()[0], spread.Seconds(), time.Since(ended).Seconds()), nil
	},
}

const (
	agedNamespace = "aged"
	agedObjects   = 30
)

// The query keeper asks no database: this one is never away, whatever other scenarios do.
const agedClapometer = `
apiVersion: v1
kind: Namespace
metadata: {name: aged}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: clapometer, namespace: aged}
data:
  clapometer.yaml: |
    server: {listen: "0.0.0.0:9090", connection_age: 45s}
    admin: {listen: "0.0.0.0:9091"}
    built_in_queries: false
    databases: {unused: {host: "127.0.0.1", port: 1, dbname: postgres, user: clapometer, sslmode: disable}}
---
apiVersion: v1
kind: Service
metadata: {name: clapometer, namespace: aged}
spec:
  selector: {app.kubernetes.io/name: clapometer}
  ports: [{name: grpc, port: 9090}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: clapometer, namespace: aged}
spec:
  selector: {matchLabels: {app.kubernetes.io/name: clapometer}}
  template:
    metadata: {labels: {app.kubernetes.io/name: clapometer}}
    spec:
      enableServiceLinks: false
      securityContext: {runAsNonRoot: true, runAsUser: 65532}
      containers:
        - name: clapometer
          image: clapometer
          imagePullPolicy: Never
          args: [serve, --config, /etc/clapometer/clapometer.yaml]
          readinessProbe: {httpGet: {path: /readyz, port: 9091}, periodSeconds: 1}
          volumeMounts: [{name: config, mountPath: /etc/clapometer}]
      volumes: [{name: config, configMap: {name: clapometer}}]
`

const agedObject = `---
apiVersion: apps/v1
kind: Deployment
metadata: {name: worker-%[1]d, namespace: aged}
spec:
  replicas: 0
  selector: {matchLabels: {app: worker-%[1]d}}
  template:
    metadata: {labels: {app: worker-%[1]d}}
    spec: {containers: [{name: clap-worker, image: clap-worker}]}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: worker-%[1]d, namespace: aged}
spec:
  scaleTargetRef: {name: worker-%[1]d}
  pollingInterval: 600
  triggers:
    - type: external-push
      metadata: {scalerAddress: "clapometer.aged.svc.cluster.local:9090", query: keeper}
`

// agedStreams are the streams that KEDA opens, the newest of its own first: before 2.21 it knows no StreamMetricSpec.
func (w *World) agedStreams() []string {
	if w.since("2.21") {
		return []string{"StreamMetricSpec", "StreamIsActive"}
	}
	return []string{"StreamIsActive"}
}

func (w *World) agedStreamsAreOpen(ctx context.Context) error {
	for _, rpc := range w.agedStreams() {
		open, err := w.metric(ctx, agedNamespace, "clapometer_streams", `rpc="`+rpc+`"`)
		if err == nil && open != agedObjects {
			err = fmt.Errorf("%d of %d %s are open", open, agedObjects, rpc)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// endOfAgedStreams waits until as many streams of the first kind have ended as there are objects, and returns how long that took from the last
// moment at which none had.
func (w *World) endOfAgedStreams(ctx context.Context) (time.Duration, error) {
	rpc := w.agedStreams()[0]
	ended := func() (int, error) {
		return w.metric(ctx, agedNamespace, "grpc_server_handled_total", `grpc_method="`+rpc+`"`, `grpc_code="OK"`)
	}
	before, err := ended()
	if err != nil {
		return 0, err
	}
	none := time.Now()
	err = w.Eventually(ctx, func() error {
		asked := time.Now()
		now, err := ended()
		switch {
		case err != nil:
			return err
		case now == before:
			none = asked
			return errors.New("no " + rpc + " has ended")
		case now < before+agedObjects:
			return fmt.Errorf("%d of %d %s have ended", now-before, agedObjects, rpc)
		default:
			return nil
		}
	})
	return time.Since(none), err
}
