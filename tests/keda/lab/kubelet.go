package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clapometer/tests/keda/container"
	"clapometer/tests/keda/node"
)

// node starts what a node has: the runtime, the kubelet, addresses of services, names, and what the
// scheduler and a storage provisioner would do.
func (l *Lab) node(ctx context.Context, network *node.Network) error {
	images, err := l.images()
	if err != nil {
		return err
	}
	runtime, err := node.NewRuntime(filepath.Join(scratch, "runtime"), filepath.Join(l.programs, "container"), images, network)
	if err != nil {
		return err
	}
	l.Signal = runtime.Signal
	socket := filepath.Join(scratch, "runtime.sock")
	go func() {
		if err := runtime.Serve(socket); err != nil {
			panic(fmt.Sprintf("the container runtime ended: %v", err))
		}
	}()
	if err := l.services(ctx); err != nil {
		return err
	}
	if err := l.schedule(ctx); err != nil {
		return err
	}
	kubeconfig, err := l.pki.kubeconfig("kubelet", apiServerURL)
	if err != nil {
		return err
	}
	config := filepath.Join(scratch, "kubelet.yaml")
	if err := os.WriteFile(config, []byte(l.kubeletConfig(socket)), 0o644); err != nil {
		return err
	}
	kubelet, err := l.start("kubelet", "--config="+config, "--kubeconfig="+kubeconfig, "--hostname-override="+nodeName,
		"--node-ip="+nodeAddress, "--root-dir="+filepath.Join(scratch, "kubelet"), "--cert-dir="+filepath.Join(scratch, "kubelet-pki"))
	if err != nil {
		return err
	}
	return kubelet.ready(func() error {
		node, err := l.Kubernetes.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("the node is not ready: %v", node.Status.Conditions)
	})
}

// kubeletConfig leaves to the kubelet what it is here for. Not done are cgroups, eviction, image
// garbage collection. ConfigMaps and Secrets reach a pod sooner than by default: the period of
// syncing pods is 5 seconds instead of a minute, and they are read from the API server each time. The kubelet's cache of them waits a second for its
// first answer, which is too little for a slow machine, and without cgroups a container whose first start fails so crashes the kubelet at the
// second one: it takes the container for one to resize, and reads a cgroup that is not there (doPodResizeAction in kuberuntime_manager.go, 1.36.4).
func (l *Lab) kubeletConfig(socket string) string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://%s
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: false}
  x509: {clientCAFile: %q}
authorization: {mode: AlwaysAllow}
cgroupsPerQOS: false
configMapAndSecretChangeDetectionStrategy: Get
enforceNodeAllocatable: []
localStorageCapacityIsolation: false
failSwapOn: false
clusterDNS: [%s]
clusterDomain: cluster.local
resolvConf: ""
podLogsDir: %q
volumePluginDir: %q
staticPodPath: ""
syncFrequency: 5s
imageGCHighThresholdPercent: 100
imageMinimumGCAge: 24h
evictionHard: {memory.available: "0%%", imagefs.available: "0%%", nodefs.available: "0%%", nodefs.inodesFree: "0%%", imagefs.inodesFree: "0%%"}
registryPullQPS: 0
serializeImagePulls: false
eventRecordQPS: 0
kubeAPIQPS: 100
kubeAPIBurst: 200
maxPods: 250
shutdownGracePeriod: 0s
`, socket, l.pki.path("ca.crt"), dnsAddress, filepath.Join(l.logs, "pods"), filepath.Join(scratch, "volume-plugins"))
}

// postgreSQLEntrypoint starts as the image's own entry point does: makes a cluster where there is none, and
// lets every host in by password.
const postgreSQLEntrypoint = `#!/bin/sh
set -eu
if [ "$1" != postgres ]; then exec "$@"; fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  printf %s "$POSTGRES_PASSWORD" >/tmp/password
  initdb --pgdata="$PGDATA" --username=postgres --pwfile=/tmp/password --auth=scram-sha-256 --encoding=UTF8 --no-locale
  rm /tmp/password
  echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
fi
shift
exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp -c fsync=off "$@"
`

// images names what a container of each image runs.
func (l *Lab) images() (node.Images, error) {
	entrypoint := filepath.Join(scratch, "postgres-entrypoint")
	if err := os.WriteFile(entrypoint, []byte(postgreSQLEntrypoint), 0o755); err != nil {
		return node.Images{}, err
	}
	one := func(source, target string, command ...string) node.Image {
		return node.Image{
			Entrypoint: []string{target}, Command: command, User: 65532,
			Env:    []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Mounts: []container.Mount{{Source: source, Target: target, ReadOnly: true}},
		}
	}
	idle := one(filepath.Join(l.programs, "container"), "/container", "idle")
	return node.NewImages(map[string]node.Image{
		"clapometer":              one(filepath.Join(l.options.Executables, "clapometer"), "/clapometer", "serve"),
		"postgres-batch":          one(filepath.Join(l.options.Executables, "postgres-batch"), "/postgres-batch", "work"),
		"keda":                    one(filepath.Join(l.programs, "keda-operator"), "/keda"),
		"keda-metrics-apiserver":  one(filepath.Join(l.programs, "keda-adapter"), "/keda-adapter"),
		"keda-admission-webhooks": one(filepath.Join(l.programs, "keda-webhooks"), "/keda-admission-webhooks"),
		"clap-worker":             idle,
		"invoices":                idle,
		"postgres":                l.postgres(entrypoint),
	})
}

func (l *Lab) postgres(entrypoint string) node.Image {
	image := node.Image{
		Entrypoint: []string{"/entrypoint"}, Command: []string{"postgres"}, StopSignal: syscall.SIGINT,
		Env:    []string{"PGDATA=/var/lib/postgresql/data", "PATH=" + l.options.PostgreSQL + ":/usr/local/bin:/usr/bin:/bin"},
		Mounts: []container.Mount{{Source: entrypoint, Target: "/entrypoint", ReadOnly: true}},
	}
	if !strings.HasPrefix(l.options.PostgreSQL, "/usr/") {
		// Its programs find their libraries by their own path.
		home := filepath.Dir(l.options.PostgreSQL)
		image.Mounts = append(image.Mounts, container.Mount{Source: home, Target: home, ReadOnly: true})
	}
	return image
}
