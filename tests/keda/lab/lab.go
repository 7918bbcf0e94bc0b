// Package lab is a Kubernetes cluster with KEDA, of one node, that runs in namespaces of its own and
// leaves nothing behind.
package lab

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"clapometer/tests/keda/node"
)

const (
	podSubnet     = "10.244.0.1/16"
	serviceSubnet = "10.96.0.0/16"
	nodeAddress   = "10.244.0.1"
	dnsAddress    = "10.96.0.10"
	nodeName      = "node"
)

// patience bounds every wait for a state that comes by itself. It is many times what anything takes, because a machine may be
// slow and busy: it ends the wait for what never comes, and says nothing about speed.
const patience = 10 * time.Minute

// Timeout is the same for kubectl.
const Timeout = "--timeout=600s"

// Options are the paths of what is run, inside the namespaces.
type Options struct {
	Root        string // the repository
	Programs    string // the folder of what scripts/keda builds
	Executables string // the folder of clapometer and postgres-batch
	PostgreSQL  string // the folder of PostgreSQL's programs
	KEDA        string // the folder with KEDA's folder `config`
	// Ended is told when a program of the cluster has ended, and why.
	Ended func(error)
}

// A Lab is the running cluster.
type Lab struct {
	// Clients with every right.
	Kubernetes kubernetes.Interface
	Dynamic    dynamic.Interface
	Config     *rest.Config
	// Kubeconfig is the path of the same for kubectl.
	Kubeconfig string
	// Signal sends a signal to every process of the pod with a namespace and a name.
	Signal func(namespace, name string, signal syscall.Signal) error

	options    Options
	programs   string
	logs       string
	pki        *authority
	apiServer  *process
	postgreSQL string
}

// Start brings the cluster and KEDA up, and returns when KEDA's three Deployments are available.
func Start(ctx context.Context, options Options, progress func(string)) (*Lab, error) {
	l := &Lab{options: options, programs: options.Programs, logs: filepath.Join(options.Root, "target/keda/logs")}
	if err := os.RemoveAll(l.logs); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(l.logs, 0o755); err != nil {
		return nil, err
	}
	network, err := node.NewNetwork(podSubnet, serviceSubnet)
	if err != nil {
		return nil, fmt.Errorf("making the network: %w", err)
	}
	if err := l.certificates(); err != nil {
		return nil, fmt.Errorf("making certificates: %w", err)
	}
	progress("etcd, kube-apiserver")
	if err := l.controlPlane(ctx); err != nil {
		return nil, err
	}
	progress("kubelet, kube-controller-manager")
	if err := l.node(ctx, network); err != nil {
		return nil, err
	}
	if err := l.controllers(); err != nil {
		return nil, err
	}
	progress("KEDA")
	return l, l.installKEDA(ctx)
}

func (l *Lab) certificates() error {
	dir := filepath.Join(scratch, "pki")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	front, err := newAuthority(dir, "front-proxy-ca")
	if err != nil {
		return err
	}
	if err := front.issue("front-proxy-client", "front-proxy-client", nil); err != nil {
		return err
	}
	if l.pki, err = newAuthority(dir, "ca"); err != nil {
		return err
	}
	server := []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
		"localhost", "127.0.0.1", nodeAddress, "10.96.0.1"}
	for _, certificate := range []struct {
		file, name string
		groups     []string
		names      []string
	}{
		{"apiserver", "kube-apiserver", nil, server},
		{"service-accounts", "service-accounts", nil, nil},
		{"apiserver-kubelet-client", "kube-apiserver", []string{"system:masters"}, nil},
		{"admin", "admin", []string{"system:masters"}, nil},
		{"controller-manager", "system:kube-controller-manager", []string{"system:masters"}, nil},
		{"kubelet", "system:node:" + nodeName, []string{"system:nodes"}, nil},
	} {
		if err := l.pki.issue(certificate.file, certificate.name, certificate.groups, certificate.names...); err != nil {
			return err
		}
	}
	return nil
}

const apiServerURL = "https://127.0.0.1:6443"

func (l *Lab) controlPlane(ctx context.Context) error {
	etcd, err := l.start("etcd", "--data-dir", filepath.Join(scratch, "etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380")
	if err != nil {
		return err
	}
	if err := etcd.ready(func() error { return get(http.DefaultClient, "http://127.0.0.1:2379/health") }); err != nil {
		return err
	}
	if l.apiServer, err = l.start("kube-apiserver", l.apiServerFlags("6443", "/registry")...); err != nil {
		return err
	}
	if l.Kubeconfig, err = l.pki.kubeconfig("admin", apiServerURL); err != nil {
		return err
	}
	if l.Config, err = clientcmd.BuildConfigFromFlags("", l.Kubeconfig); err != nil {
		return err
	}
	l.Config.QPS, l.Config.Burst = 200, 400
	if l.Kubernetes, err = kubernetes.NewForConfig(l.Config); err != nil {
		return err
	}
	if l.Dynamic, err = dynamic.NewForConfig(l.Config); err != nil {
		return err
	}
	return l.apiServer.ready(func() error { return l.get(apiServerURL + "/readyz") })
}

func (l *Lab) apiServerFlags(port, prefix string) []string {
	pki := l.pki.path
	return []string{
		"--etcd-servers=http://127.0.0.1:2379", "--etcd-prefix=" + prefix,
		"--secure-port=" + port, "--bind-address=0.0.0.0", "--advertise-address=" + nodeAddress,
		"--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"),
		"--client-ca-file=" + pki("ca.crt"), "--authorization-mode=Node,RBAC", "--allow-privileged=true",
		"--service-cluster-ip-range=" + serviceSubnet,
		"--service-account-key-file=" + pki("service-accounts.crt"), "--service-account-signing-key-file=" + pki("service-accounts.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--requestheader-client-ca-file=" + pki("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file=" + pki("front-proxy-client.crt"), "--proxy-client-key-file=" + pki("front-proxy-client.key"),
		"--kubelet-client-certificate=" + pki("apiserver-kubelet-client.crt"), "--kubelet-client-key=" + pki("apiserver-kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
	}
}

func (l *Lab) controllers() error {
	kubeconfig, err := l.pki.kubeconfig("controller-manager", apiServerURL)
	if err != nil {
		return err
	}
	pki := l.pki.path
	manager, err := l.start("kube-controller-manager", "--kubeconfig="+kubeconfig, "--leader-elect=false",
		"--service-account-private-key-file="+pki("service-accounts.key"), "--root-ca-file="+pki("ca.crt"),
		"--cluster-signing-cert-file="+pki("ca.crt"), "--cluster-signing-key-file="+pki("ca.key"),
		"--controllers=*,-node-lifecycle-controller,-taint-eviction-controller,-node-ipam-controller,"+
			"-persistentvolume-attach-detach-controller,-persistentvolume-expander-controller")
	if err != nil {
		return err
	}
	return manager.ready(func() error { return l.get("https://127.0.0.1:10257/healthz") })
}

// get asks the cluster's own servers, with the administrator's certificate.
func (l *Lab) get(url string) error {
	pair, err := tls.LoadX509KeyPair(l.pki.path("admin.crt"), l.pki.path("admin.key"))
	if err != nil {
		return err
	}
	// The controller manager shows a certificate that it made for itself.
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
		Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true,
	}}}
	return get(client, url)
}

func get(client *http.Client, url string) error {
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status + ": " + trimmed(body))
	}
	return nil
}

// Another starts a second API server on the same etcd, with nothing in it but what it makes itself.
// It is for definitions that would be in the way of the first one's.
func (l *Lab) Another(ctx context.Context) (*Lab, func(), error) {
	server, err := l.startAs("another-kube-apiserver", "kube-apiserver", l.apiServerFlags("7443", "/another")...)
	if err != nil {
		return nil, nil, err
	}
	stop := func() {
		_ = server.command.Process.Kill()
		<-server.done
	}
	another := *l
	another.Kubeconfig, err = l.pki.kubeconfig("admin", "https://127.0.0.1:7443")
	if err == nil {
		err = server.ready(func() error { return l.get("https://127.0.0.1:7443/readyz") })
	}
	if err != nil {
		stop()
		return nil, nil, err
	}
	return &another, stop, nil
}
