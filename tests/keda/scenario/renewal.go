package scenario

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// Renewal renews clapometer's certificate, and then changes its authority, as docs/tls.md says.
var Renewal = Scenario{
	Name: "renewal",
	Claim: "a renewed certificate of the same authority goes unnoticed; one of a new authority leaves a ScaledJob dead with Ready=True; when KEDA has both " +
		"authorities a ScaledObject comes back by itself, a ScaledJob with the restart of KEDA's operator",
	Long:  true,
	Alone: true,
	Run: func(ctx context.Context, w *World) (string, error) {
		defer w.removeTLS(ctx)
		work, err := w.serveTLS(ctx)
		if err != nil {
			return "", err
		}
		documented := tlsTriggers[0]
		job := documented.name + "-job"
		if err := w.Apply(ctx, documented.manifest()); err != nil {
			return "", err
		}
		for _, name := range []string{documented.name, job} {
			if err := w.isAnswered(ctx, name); err != nil {
				return "", err
			}
		}
		if err := w.certify(ctx, work, renewed); err != nil {
			return "", fmt.Errorf("renewal: %w", err)
		}
		for _, name := range []string{documented.name, job} {
			if err := w.isAnswered(ctx, name); err != nil {
				return "", fmt.Errorf("after the renewal: %w", err)
			}
		}
		if err := w.certify(ctx, work, newAuthority+renewed); err != nil {
			return "", fmt.Errorf("new authority: %w", err)
		}
		if err := w.Eventually(ctx, func() error { return w.isLogged(ctx, job, unknownAuthority) }); err != nil {
			return "", err
		}
		if err := w.isDead(ctx, job); err != nil {
			return "", err
		}
		if err := w.certify(ctx, work, bothAuthorities); err != nil {
			return "", fmt.Errorf("both authorities: %w", err)
		}
		if err := w.isAnswered(ctx, documented.name); err != nil {
			return "", fmt.Errorf("the ScaledObject, once KEDA has both authorities: %w", err)
		}
		if err := w.isDead(ctx, job); err != nil {
			return "", fmt.Errorf("the ScaledJob, once KEDA has both authorities: %w", err)
		}
		if _, err := w.restartOperator(ctx); err != nil {
			return "", err
		}
		if err := w.isAnswered(ctx, job); err != nil {
			return "", fmt.Errorf("the ScaledJob, once the operator was restarted: %w", err)
		}
		return "renewed: both objects are answered; new authority: the ScaledJob is not, Ready=True, no event with the reason; both authorities in clapometer-ca: the ScaledObject is answered, " +
			"the ScaledJob after the restart", nil
	},
}

const unknownAuthority = "certificate signed by unknown authority"

// Commands in the folder of docs/tls.md's.
const (
	newAuthority = `
mv clapometer-ca.crt old-ca.crt
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=clapometer-new-ca \
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign -keyout clapometer-ca.key -out clapometer-ca.crt
`
	renewed = `
openssl x509 -req -in tls.csr -CA clapometer-ca.crt -CAkey clapometer-ca.key -days 825 -extfile tls.ext -out tls.crt
kubectl -n with-tls create secret tls clapometer-tls --cert=tls.crt --key=tls.key --dry-run=client --output=yaml | kubectl -n with-tls replace --filename=-
`
	bothAuthorities = `
cat old-ca.crt clapometer-ca.crt >both/ca.crt
kubectl -n keda create configmap clapometer-ca --from-file=both/ca.crt --dry-run=client --output=yaml | kubectl -n keda replace --filename=-
`
)

// certify runs commands, waits until clapometer has the certificate that they leave, and has KEDA connect anew, as it does every
// `connection_age`.
func (w *World) certify(ctx context.Context, work, commands string) error {
	if err := os.MkdirAll(filepath.Join(work, "both"), 0o755); err != nil {
		return err
	}
	shell := w.Command(ctx, "bash", "-euo", "pipefail", "-c", commands)
	shell.Dir = work
	if output, err := shell.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(work, "tls.crt"), filepath.Join(work, "tls.key"))
	if err != nil {
		return err
	}
	if err := w.Eventually(ctx, func() error { return w.showsCertificate(ctx, pair) }); err != nil {
		return err
	}
	if _, err := w.Kubectl(ctx, "", "--namespace="+tlsNamespace, "rollout", "restart", "deployment/clapometer"); err != nil {
		return err
	}
	return w.serves(ctx, tlsNamespace, "clapometer")
}

// showsCertificate fails while a pod of clapometer shows another certificate.
func (w *World) showsCertificate(ctx context.Context, wanted tls.Certificate) error {
	pods, err := w.clapometers(ctx, tlsNamespace)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		// It is compared, and not verified.
		dialer := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}}
		connection, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(pod.Status.PodIP, "9090"))
		if err != nil {
			return err
		}
		shown := connection.(*tls.Conn).ConnectionState().PeerCertificates[0]
		connection.Close()
		if shown.SerialNumber.Cmp(wanted.Leaf.SerialNumber) != 0 {
			return fmt.Errorf("the pod %s shows the certificate %v", pod.Name, shown.SerialNumber)
		}
	}
	return nil
}

func (w *World) answered(ctx context.Context, name string) (int, error) {
	return w.metric(ctx, tlsNamespace, "clapometer_trigger_requests_total", `name="`+name+`"`, `code="OK"`)
}

// isAnswered waits until a pod that runs has answered for an object.
func (w *World) isAnswered(ctx context.Context, name string) error {
	return w.Eventually(ctx, func() error {
		answered, err := w.answered(ctx, name)
		if err == nil && answered == 0 {
			err = fmt.Errorf("nothing is answered for %s", name)
		}
		return err
	})
}

// isDead checks that no pod that runs has answered for a ScaledJob, whose owner learns nothing of it.
func (w *World) isDead(ctx context.Context, name string) error {
	answered, err := w.answered(ctx, name)
	if err == nil && answered != 0 {
		err = fmt.Errorf("%d answers for %s", answered, name)
	}
	if err != nil {
		return err
	}
	events, err := w.Events(ctx, tlsNamespace, name)
	if err == nil && strings.Contains(events, unknownAuthority) {
		err = fmt.Errorf("%s: an event: %s", name, events)
	}
	if err != nil {
		return err
	}
	status, reason, err := w.Condition(ctx, scaledJobs, tlsNamespace, name, "Ready")
	if err == nil && status != "True" {
		err = fmt.Errorf("%s: Ready is %s (%s)", name, status, reason)
	}
	return err
}
