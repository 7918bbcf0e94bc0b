package lab

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
)

// A directory knows Services and their endpoints, for kube-proxy's work and for CoreDNS's.
type directory struct {
	services  corelisters.ServiceLister
	endpoints discoverylisters.EndpointSliceLister

	mu        sync.Mutex
	listeners map[string]net.Listener // by address of a Service
}

// services listens on the addresses of Services and carries connections to their endpoints, and answers names.
func (l *Lab) services(ctx context.Context) error {
	factory := informers.NewSharedInformerFactory(l.Kubernetes, 0)
	d := &directory{
		services:  factory.Core().V1().Services().Lister(),
		endpoints: factory.Discovery().V1().EndpointSlices().Lister(),
		listeners: map[string]net.Listener{},
	}
	changed := make(chan struct{}, 1)
	notice := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { notice() }, UpdateFunc: func(any, any) { notice() }, DeleteFunc: func(any) { notice() },
	}
	for _, informer := range []cache.SharedIndexInformer{
		factory.Core().V1().Services().Informer(), factory.Discovery().V1().EndpointSlices().Informer(),
	} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
				d.listen()
			}
		}
	}()
	return d.serveDNS(net.JoinHostPort(dnsAddress, "53"))
}

// listen has a listener for each port of a Service with endpoints, and for no other: without one the
// kernel refuses the connection, as kube-proxy does.
func (d *directory) listen() {
	wanted := map[string]func() []string{}
	services, err := d.services.List(labels.Everything())
	if err != nil {
		panic(err) // a lister of a cache has no error of its own
	}
	for _, service := range services {
		if service.Spec.ClusterIP == "" || service.Spec.ClusterIP == corev1.ClusterIPNone {
			continue
		}
		for _, port := range service.Spec.Ports {
			targets := func() []string { return d.targets(service, port.Name) }
			if port.Protocol == corev1.ProtocolTCP && len(targets()) > 0 {
				wanted[net.JoinHostPort(service.Spec.ClusterIP, strconv.Itoa(int(port.Port)))] = targets
			}
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for address, listener := range d.listeners {
		if wanted[address] == nil {
			listener.Close()
			delete(d.listeners, address)
		}
	}
	for address, targets := range wanted {
		if d.listeners[address] != nil {
			continue
		}
		listener, err := net.Listen("tcp", address)
		if err != nil {
			panic(fmt.Sprintf("listening on a Service's address: %v", err))
		}
		d.listeners[address] = listener
		go forward(listener, targets)
	}
}

// slices returns the Service's slices of endpoints.
func (d *directory) slices(service *corev1.Service) []*discoveryv1.EndpointSlice {
	slices, err := d.endpoints.EndpointSlices(service.Namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service.Name}))
	if err != nil {
		panic(err) // as above
	}
	return slices
}

// targets returns the endpoints that take connections of the port: those that are ready, or, if there
// are none, those that serve while they end.
func (d *directory) targets(service *corev1.Service, port string) []string {
	var ready, ending []string
	for _, slice := range d.slices(service) {
		for _, candidate := range slice.Ports {
			if candidate.Name == nil || *candidate.Name != port || candidate.Port == nil {
				continue
			}
			for _, endpoint := range slice.Endpoints {
				address := net.JoinHostPort(endpoint.Addresses[0], strconv.Itoa(int(*candidate.Port)))
				if holds(endpoint.Conditions.Ready) {
					ready = append(ready, address)
				} else if holds(endpoint.Conditions.Serving) {
					ending = append(ending, address)
				}
			}
		}
	}
	if len(ready) > 0 {
		return ready
	}
	return ending
}

// holds reads a condition: one that is not set holds.
func holds(condition *bool) bool { return condition == nil || *condition }

func forward(listener net.Listener, targets func() []string) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		go carry(client.(*net.TCPConn), targets())
	}
}

func carry(client *net.TCPConn, targets []string) {
	defer client.Close()
	if len(targets) == 0 {
		reset(client)
		return
	}
	connection, err := net.DialTimeout("tcp", targets[rand.IntN(len(targets))], 10*time.Second)
	if err != nil {
		reset(client)
		return
	}
	server := connection.(*net.TCPConn)
	defer server.Close()
	var both sync.WaitGroup
	both.Add(2)
	go func() { defer both.Done(); pass(server, client) }()
	go func() { defer both.Done(); pass(client, server) }()
	both.Wait()
}

// pass copies one direction, and ends it as it ended: by an end, or by a reset of both.
func pass(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		reset(to)
		reset(from)
		return
	}
	_ = to.CloseWrite()
}

func reset(connection *net.TCPConn) {
	_ = connection.SetLinger(0)
	_ = connection.Close()
}
