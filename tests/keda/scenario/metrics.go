package scenario

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// metric returns the sum of a metric over all pods of clapometer in a namespace, and over the series that have all these labels.
func (w *World) metric(ctx context.Context, namespace, name string, labels ...string) (int, error) {
	pods, err := w.Kubernetes.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=clapometer"})
	if err != nil {
		return 0, err
	}
	total := 0
	for _, pod := range pods.Items {
		page, err := get(ctx, "http://"+pod.Status.PodIP+":9091/metrics")
		if err != nil {
			return 0, fmt.Errorf("the pod %s: %w", pod.Name, err)
		}
		part, err := sum(page, name+"{", labels)
		page.Close()
		if err != nil {
			return 0, fmt.Errorf("the pod %s: %w", pod.Name, err)
		}
		total += part
	}
	return total, nil
}

func get(ctx context.Context, url string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}

func sum(page io.Reader, name string, labels []string) (int, error) {
	total := 0.0
	lines := bufio.NewScanner(page)
next:
	for lines.Scan() {
		if !strings.HasPrefix(lines.Text(), name) {
			continue
		}
		for _, label := range labels {
			if !strings.Contains(lines.Text(), label) {
				continue next
			}
		}
		_, value, _ := strings.Cut(lines.Text(), "} ")
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, err
		}
		total += number
	}
	return int(total), lines.Err()
}
