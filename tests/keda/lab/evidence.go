package lab

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	evidenceLines = 12
	evidenceWidth = 400
)

// Evidence returns what the cluster says about a failure, for whoever has no more than the output: containers that are not as they
// should be, the latest warnings since then, and the ends of the logs of KEDA's operator and of every clapometer.
func (l *Lab) Evidence(since time.Time) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var text strings.Builder
	show := func(title, lines string, err error) {
		if err != nil {
			lines = err.Error()
		}
		if lines = strings.TrimRight(lines, "\n"); lines == "" {
			return
		}
		fmt.Fprintf(&text, "  %s:\n", title)
		for line := range strings.Lines(lines) {
			line = strings.TrimRight(line, "\n")
			fmt.Fprintf(&text, "    %.*s\n", evidenceWidth, line)
		}
	}
	pods, err := l.Kubernetes.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		show("pods", "", err)
		show("kube-apiserver.log", Tail(l.apiServer.log), nil)
		return text.String()
	}
	show("containers that are not running and ready", unready(pods.Items), nil)
	warnings, err := l.warnings(ctx, since)
	show("warnings", warnings, err)
	for _, pod := range pods.Items {
		if !speaks(pod) {
			continue
		}
		log, err := l.podLog(ctx, pod, corev1.PodLogOptions{TailLines: new(int64(evidenceLines))})
		show("log of "+pod.Namespace+"/"+pod.Name, log, err)
	}
	return text.String()
}

// speaks tells whether a pod's log says what became of a trigger.
func speaks(pod corev1.Pod) bool {
	return pod.Labels["app"] == "keda-operator" || slices.ContainsFunc(pod.Spec.Containers, func(container corev1.Container) bool {
		return container.Name == "clapometer"
	})
}

func unready(pods []corev1.Pod) string {
	var text strings.Builder
	for _, pod := range pods {
		for _, container := range pod.Status.ContainerStatuses {
			state := ""
			switch {
			case container.State.Waiting != nil:
				state = "waits: " + container.State.Waiting.Reason + " " + container.State.Waiting.Message
			case container.State.Terminated != nil && container.State.Terminated.ExitCode != 0:
				state = fmt.Sprintf("ended with %d", container.State.Terminated.ExitCode)
			case container.State.Running != nil && !container.Ready:
				state = "not ready"
			case container.State.Running != nil && container.RestartCount > 0:
				state = fmt.Sprintf("restarted %d times", container.RestartCount)
			default:
				continue
			}
			fmt.Fprintf(&text, "%s/%s %s: %s\n", pod.Namespace, pod.Name, container.Name, state)
		}
	}
	return text.String()
}

func (l *Lab) warnings(ctx context.Context, since time.Time) (string, error) {
	events, err := l.Kubernetes.CoreV1().Events("").List(ctx, metav1.ListOptions{FieldSelector: "type=Warning"})
	if err != nil {
		return "", err
	}
	found := slices.DeleteFunc(events.Items, func(event corev1.Event) bool { return latest(event).Before(since) })
	slices.SortFunc(found, func(a, b corev1.Event) int { return latest(a).Compare(latest(b)) })
	var text strings.Builder
	for _, event := range found[max(0, len(found)-evidenceLines):] {
		fmt.Fprintf(&text, "%s %s/%s %s: %s\n", latest(event).UTC().Format(time.TimeOnly),
			event.InvolvedObject.Namespace, event.InvolvedObject.Name, event.Reason, strings.ReplaceAll(event.Message, "\n", " "))
	}
	return text.String(), nil
}

// latest returns when an event was last seen, by whichever of its fields says so.
func latest(event corev1.Event) time.Time {
	times := []time.Time{event.CreationTimestamp.Time, event.EventTime.Time, event.LastTimestamp.Time}
	if event.Series != nil {
		times = append(times, event.Series.LastObservedTime.Time)
	}
	return slices.MaxFunc(times, time.Time.Compare)
}

// PodLogs returns the logs, from a time on, of the pods that a selector names.
func (l *Lab) PodLogs(ctx context.Context, namespace, selector string, from time.Time) (string, error) {
	pods, err := l.Kubernetes.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return "", err
	}
	var all strings.Builder
	for _, pod := range pods.Items {
		log, err := l.podLog(ctx, pod, corev1.PodLogOptions{SinceTime: new(metav1.NewTime(from))})
		if err != nil {
			return "", err
		}
		all.WriteString(log)
	}
	return all.String(), nil
}

func (l *Lab) podLog(ctx context.Context, pod corev1.Pod, options corev1.PodLogOptions) (string, error) {
	log, err := l.Kubernetes.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &options).DoRaw(ctx)
	return string(log), err
}

// Tail returns the last lines of a file.
func Tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-evidenceLines):], "\n")
}
