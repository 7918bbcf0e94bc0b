package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"clapometer/tests/keda/lab"
)

// TLS follows docs/tls.md word by word, but for clapometer's namespace, and then makes each mistake of its table.
var TLS = Scenario{
	Name: "tls",
	Claim: "docs/tls.md's commands and the chart let KEDA in by its own certificate; a trigger that says something else about TLS is not let in: " +
		"the operator's log says why, its ScaledObject is not Ready, its ScaledJob stays Ready",
	Run: func(ctx context.Context, w *World) (string, error) {
		defer w.removeTLS(ctx)
		if _, err := w.serveTLS(ctx); err != nil {
			return "", err
		}
		var manifests string
		for _, trigger := range tlsTriggers {
			manifests += trigger.manifest()
		}
		started := time.Now()
		if err := w.Apply(ctx, manifests); err != nil {
			return "", err
		}
		unread := make([]error, len(tlsTriggers))
		var waiting sync.WaitGroup
		for i, trigger := range tlsTriggers {
			waiting.Go(func() {
				unread[i] = w.Eventually(ctx, func() error { return w.tlsIsRead(ctx, trigger) })
			})
		}
		waiting.Wait()
		if err := errors.Join(unread...); err != nil {
			return "", err
		}
		return fmt.Sprintf("the trigger of docs/tls.md let in; %d mistakes in the operator's log, ScaledObjects Ready=False, ScaledJobs "+
			"not, no event with the reason, within %.0f s", len(tlsTriggers)-1, time.Since(started).Seconds()), nil
	},
}

const tlsNamespace = "with-tls"

// A tlsTrigger is what a trigger says beside its query, and what KEDA makes of it; an empty text says that it works.
type tlsTrigger struct {
	name           string
	address        string
	metadata       string
	authentication string
	text           string
}

const (
	tlsAddress = "clapometer.with-tls.svc.cluster.local:9090"
	tlsEnabled = `, enableTLS: "true"`
	tlsOurs    = "{name: clapometer, kind: ClusterTriggerAuthentication}"
)

var tlsTriggers = []tlsTrigger{
	{"as-documented", tlsAddress, tlsEnabled, tlsOurs, ""},
	{"another-name", "another-name.with-tls.svc.cluster.local:9090", tlsEnabled, tlsOurs, "certificate is valid for clapometer.with-tls, "},
	{"no-authentication", tlsAddress, tlsEnabled, "", "certificate signed by unknown authority"},
	{"no-certificate", tlsAddress, tlsEnabled, "{name: authority-alone}", "tls: certificate required"},
	{"plain-text", tlsAddress, "", "", "error reading server preface"},
	{"tls-to-plain-text", scalerAddress, tlsEnabled, tlsOurs, "first record does not look like a TLS handshake"},
}

// serveTLS installs a clapometer with certificates as docs/tls.md makes them, and returns the folder that they were made in.
func (w *World) serveTLS(ctx context.Context) (string, error) {
	// An earlier scenario's namespace may still be on its way out.
	if _, err := w.Kubectl(ctx, "", "wait", "namespace/"+tlsNamespace, "--for=delete", lab.Timeout); err != nil {
		return "", err
	}
	err := w.Apply(ctx, fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata: {name: %[1]s}
---
apiVersion: v1
kind: Secret
metadata: {name: clapometer-database, namespace: %[1]s}
stringData: {password: demo-clapometer}
`, tlsNamespace))
	if err != nil {
		return "", err
	}
	if err := w.takesPods(ctx, tlsNamespace); err != nil {
		return "", err
	}
	commands, err := w.commandsOfTLS()
	if err != nil {
		return "", err
	}
	work, err := w.TempDir()
	if err != nil {
		return "", err
	}
	shell := w.Command(ctx, "bash", "-euo", "pipefail", "-c", commands)
	shell.Dir = work
	if output, err := shell.CombinedOutput(); err != nil {
		return "", fmt.Errorf("docs/tls.md's commands: %w: %s", err, output)
	}
	chart, err := os.ReadFile(w.WithTLS)
	if err != nil {
		return "", err
	}
	authority, err := os.ReadFile(filepath.Join(work, "clapometer-ca.crt"))
	if err != nil {
		return "", err
	}
	others := fmt.Sprintf(`
---
apiVersion: v1
kind: Service
metadata: {name: another-name, namespace: %[1]s}
spec:
  selector: {app.kubernetes.io/name: clapometer}
  ports: [{port: 9090}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: authority-alone, namespace: %[1]s}
data: {ca.crt: %[2]q}
---
apiVersion: keda.sh/v1alpha1
kind: TriggerAuthentication
metadata: {name: authority-alone, namespace: %[1]s}
spec:
  configMapTargetRef: [{parameter: caCert, name: authority-alone, key: ca.crt}]
`, tlsNamespace, authority)
	if err := w.Apply(ctx, string(chart)+others); err != nil {
		return "", err
	}
	return work, w.serves(ctx, tlsNamespace, "clapometer")
}

func (w *World) removeTLS(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	_, _ = w.Kubectl(ctx, "", "delete", "namespace", tlsNamespace, "--wait=false")
	_, _ = w.Kubectl(ctx, "", "--namespace=keda", "delete", "configmap/clapometer-ca")
	_, _ = w.Kubectl(ctx, "", "delete", "clustertriggerauthentication/clapometer")
}

// commandsOfTLS returns the commands of the steps 1 to 4, without those that are for cert-manager only.
func (w *World) commandsOfTLS() (string, error) {
	text, err := os.ReadFile(filepath.Join(w.Root, "docs/tls.md"))
	if err != nil {
		return "", err
	}
	steps, _, found := strings.Cut(string(text), "\n## 5. ")
	blocks := regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(steps, -1)
	if !found || len(blocks) != 4 {
		return "", fmt.Errorf("docs/tls.md has %d blocks of commands in its steps 1 to 4, and this scenario knows 4", len(blocks))
	}
	var commands strings.Builder
	for _, block := range blocks {
		for line := range strings.Lines(block[1]) {
			if !strings.Contains(line, "# with cert-manager only") {
				commands.WriteString(line)
			}
		}
	}
	return strings.NewReplacer(
		"-n clapometer ", "-n "+tlsNamespace+" ",
		"clapometer.clapometer", "clapometer."+tlsNamespace,
		"deploy/examples/", filepath.Join(w.Root, "deploy/examples")+"/",
	).Replace(commands.String()), nil
}

// manifest returns a ScaledJob and a ScaledObject with the trigger.
func (t tlsTrigger) manifest() string {
	reference := ""
	if t.authentication != "" {
		reference = "\n      authenticationRef: " + t.authentication
	}
	return fmt.Sprintf(`---
apiVersion: keda.sh/v1alpha1
kind: ScaledJob
metadata: {name: %[1]s-job, namespace: %[2]s}
spec:
  pollingInterval: 2
  jobTargetRef: {template: {spec: {restartPolicy: Never, containers: [{name: clap-worker, image: clap-worker}]}}}
  triggers:
    - type: external
      metadata: {scalerAddress: %[3]q, query: clap-workers%[4]s}%[5]s
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  scaleTargetRef: {name: %[1]s}
  pollingInterval: 2
  triggers:
    - type: external-push
      metadata: {scalerAddress: %[3]q, query: clap-workers%[4]s}%[5]s
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  replicas: 0
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec: {containers: [{name: clap-worker, image: clap-worker}]}
`, t.name, tlsNamespace, t.address, t.metadata, reference)
}

// tlsIsRead checks what the owner of each object with the trigger reads, and the operator of KEDA.
func (w *World) tlsIsRead(ctx context.Context, trigger tlsTrigger) error {
	if trigger.text == "" {
		return w.isReady(ctx, scaledObjects, tlsNamespace, trigger.name)
	}
	status, reason, err := w.Condition(ctx, scaledObjects, tlsNamespace, trigger.name, "Ready")
	if err == nil && (status != "False" || reason != "ScaledObjectCheckFailed") {
		err = fmt.Errorf("%s: Ready is %s (%s)", trigger.name, status, reason)
	}
	if err != nil {
		return err
	}
	for _, name := range []string{trigger.name, trigger.name + "-job"} {
		events, err := w.Events(ctx, tlsNamespace, name)
		if err == nil && strings.Contains(events, trigger.text) {
			err = fmt.Errorf("%s: an event: %s", name, events)
		}
		if err == nil {
			err = w.isLogged(ctx, name, trigger.text)
		}
		if err != nil {
			return err
		}
	}
	status, reason, err = w.Condition(ctx, scaledJobs, tlsNamespace, trigger.name+"-job", "Ready")
	if err == nil && status == "False" {
		err = fmt.Errorf("%s-job: Ready is %s (%s)", trigger.name, status, reason)
	}
	return err
}
