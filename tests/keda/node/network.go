package node

import (
	"fmt"
	"net"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A Network is a bridge that pods are attached to. The node itself has the first address.
type Network struct {
	Gateway net.IP
	subnet  *net.IPNet
	bridge  *netlink.Bridge
	next    uint32
	pods    map[string]*os.File // the pods' network namespaces
}

// NewNetwork makes the bridge, and makes every address of services the node's own: whoever listens
// on one of them is that service, and where nobody listens a connection is refused.
func NewNetwork(subnet, services string) (*Network, error) {
	gateway, prefix, err := net.ParseCIDR(subnet)
	if err != nil {
		return nil, err
	}
	network := &Network{Gateway: gateway, subnet: prefix, next: 1, pods: map[string]*os.File{}}
	network.bridge = &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "pods"}}
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(loopback); err != nil {
		return nil, err
	}
	if err := netlink.LinkAdd(network.bridge); err != nil {
		return nil, fmt.Errorf("making a bridge: %w", err)
	}
	if err := netlink.AddrAdd(network.bridge, &netlink.Addr{IPNet: &net.IPNet{IP: gateway, Mask: prefix.Mask}}); err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(network.bridge); err != nil {
		return nil, err
	}
	_, addresses, err := net.ParseCIDR(services)
	if err != nil {
		return nil, err
	}
	return network, netlink.RouteAdd(&netlink.Route{
		LinkIndex: loopback.Attrs().Index, Dst: addresses, Table: unix.RT_TABLE_LOCAL,
		Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
	})
}

// attach makes a network namespace for a pod, and returns its address and the namespace's path.
func (n *Network) attach(pod string) (net.IP, string, error) {
	namespace, err := newNetworkNamespace()
	if err != nil {
		return nil, "", err
	}
	n.next++
	address := make(net.IP, 4)
	copy(address, n.subnet.IP.To4())
	address[2] += byte(n.next >> 8)
	address[3] += byte(n.next)
	fd := int(namespace.Fd())
	pair := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("pod%d", n.next), MasterIndex: n.bridge.Index},
		PeerName:  "eth0", PeerNamespace: netlink.NsFd(fd),
	}
	if err := netlink.LinkAdd(pair); err != nil {
		return nil, "", fmt.Errorf("making a pair of interfaces: %w", err)
	}
	if err := netlink.LinkSetUp(pair); err != nil {
		return nil, "", err
	}
	if err := n.configure(fd, address); err != nil {
		return nil, "", err
	}
	n.pods[pod] = namespace
	return address, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), nil
}

func (n *Network) configure(fd int, address net.IP) error {
	inside, err := netlink.NewHandleAt(netns.NsHandle(fd))
	if err != nil {
		return err
	}
	defer inside.Close()
	for _, name := range []string{"lo", "eth0"} {
		link, err := inside.LinkByName(name)
		if err != nil {
			return err
		}
		if err := inside.LinkSetUp(link); err != nil {
			return err
		}
		if name == "lo" {
			continue
		}
		if err := inside.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: address, Mask: n.subnet.Mask}}); err != nil {
			return err
		}
		if err := inside.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: n.Gateway}); err != nil {
			return err
		}
	}
	return nil
}

// detach gives the pod's namespace back; its interfaces go with it when its last process has ended.
func (n *Network) detach(pod string) error {
	namespace := n.pods[pod]
	delete(n.pods, pod)
	return namespace.Close()
}

// newNetworkNamespace opens a namespace that lives as long as the file.
func newNetworkNamespace() (*os.File, error) {
	type result struct {
		file *os.File
		err  error
	}
	made := make(chan result)
	go func() {
		// The thread is in another namespace than the rest afterwards, so it is not unlocked: it ends with the goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{err: fmt.Errorf("making a network namespace: %w", err)}
			return
		}
		file, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		made <- result{file, err}
	}()
	got := <-made
	return got.file, got.err
}
