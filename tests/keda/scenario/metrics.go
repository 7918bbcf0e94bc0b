package scenario

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// metric returns the sum of a metric over all pods of clapometer in a namespace, and over the series that have all these labels.
func (w *World) metric(ctx context.Context, namespace, name string, labels ...string) (int, error) {
	series, err := w.series(ctx, namespace, name, labels...)
	total := 0.0
	for _, value := range series {
		total += value
	}
	return int(total), err
}

// series returns the values of a metric's series that have all these labels, of all pods of clapometer in a namespace.
func (w *World) series(ctx context.Context, namespace, name string, labels ...string) ([]float64, error) {
	pods, err := w.clapometers(ctx, namespace)
	if err != nil {
		return nil, err
	}
	var all []float64
	for _, pod := range pods {
		page, err := get(ctx, "http://"+pod.Status.PodIP+":9091/metrics")
		if err != nil {
			return nil, fmt.Errorf("the pod %s: %w", pod.Name, err)
		}
		part, err := read(page, name+"{", labels)
		page.Close()
		if err != nil {
			return nil, fmt.Errorf("the pod %s: %w", pod.Name, err)
		}
		all = append(all, part...)
	}
	return all, nil
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

func read(page io.Reader, name string, labels []string) ([]float64, error) {
	var values []float64
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
			return nil, err
		}
		values = append(values, number)
	}
	return values, lines.Err()
}
