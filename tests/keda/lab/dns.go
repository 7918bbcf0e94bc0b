package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/api/core/v1"
)

const (
	clusterDomain = "svc.cluster.local."
	dnsTTL        = 5 // CoreDNS's
)

// serveDNS answers names of Services, as CoreDNS does, and knows no other.
func (d *directory) serveDNS(address string) error {
	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	streams, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, from, err := packets.ReadFrom(buffer)
			if err != nil {
				panic(fmt.Sprintf("the name server ended: %v", err))
			}
			if reply, err := d.reply(buffer[:n]); err == nil {
				// Who asked asks again if this gets lost.
				_, _ = packets.WriteTo(reply, from)
			}
		}
	}()
	go func() {
		for {
			connection, err := streams.Accept()
			if err != nil {
				panic(fmt.Sprintf("the name server ended: %v", err))
			}
			go d.serveStream(connection)
		}
	}()
	return nil
}

func (d *directory) serveStream(connection net.Conn) {
	defer connection.Close()
	for {
		var size uint16
		if err := binary.Read(connection, binary.BigEndian, &size); err != nil {
			return
		}
		query := make([]byte, size)
		if _, err := io.ReadFull(connection, query); err != nil {
			return
		}
		reply, err := d.reply(query)
		if err != nil {
			return
		}
		if _, err := connection.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
			return
		}
	}
}

func (d *directory) reply(query []byte) ([]byte, error) {
	var parser dnsmessage.Parser
	header, err := parser.Start(query)
	if err != nil {
		return nil, err
	}
	question, err := parser.Question()
	if err != nil {
		return nil, err
	}
	addresses, err := d.resolve(strings.ToLower(question.Name.String()))
	answer := dnsmessage.Header{ID: header.ID, Response: true, Authoritative: true, RecursionDesired: header.RecursionDesired}
	if err != nil {
		answer.RCode = dnsmessage.RCodeNameError
	}
	builder := dnsmessage.NewBuilder(nil, answer)
	builder.EnableCompression()
	if err := builder.StartQuestions(); err != nil {
		return nil, err
	}
	if err := builder.Question(question); err != nil {
		return nil, err
	}
	if err := builder.StartAnswers(); err != nil {
		return nil, err
	}
	if question.Type == dnsmessage.TypeA {
		for _, address := range addresses {
			resource := dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET, TTL: dnsTTL}
			if err := builder.AResource(resource, dnsmessage.AResource{A: [4]byte(address.To4())}); err != nil {
				return nil, err
			}
		}
	}
	return builder.Finish()
}

var errNoName = errors.New("no such name")

// resolve answers SERVICE.NAMESPACE, and HOST.SERVICE.NAMESPACE for pods of a headless Service.
func (d *directory) resolve(name string) ([]net.IP, error) {
	inside, found := strings.CutSuffix(name, "."+clusterDomain)
	if !found {
		return nil, errNoName
	}
	labels := strings.Split(inside, ".")
	host := ""
	if len(labels) == 3 {
		host, labels = labels[0], labels[1:]
	}
	if len(labels) != 2 {
		return nil, errNoName
	}
	service, err := d.services.Services(labels[1]).Get(labels[0])
	if err != nil {
		return nil, errNoName
	}
	if service.Spec.ClusterIP != corev1.ClusterIPNone {
		if host != "" {
			return nil, errNoName
		}
		return []net.IP{net.ParseIP(service.Spec.ClusterIP)}, nil
	}
	var addresses []net.IP
	for _, slice := range d.slices(service) {
		for _, endpoint := range slice.Endpoints {
			named := host == "" || endpoint.Hostname != nil && *endpoint.Hostname == host
			if named && (holds(endpoint.Conditions.Ready) || service.Spec.PublishNotReadyAddresses) {
				addresses = append(addresses, net.ParseIP(endpoint.Addresses[0]))
			}
		}
	}
	if len(addresses) == 0 {
		return nil, errNoName
	}
	return addresses, nil
}
