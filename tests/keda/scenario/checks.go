package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Checks makes what Helm makes for `helm test` and before an upgrade. Helm itself is not here: its hooks are objects like others.
var Checks = Scenario{
	Name: "checks",
	Claim: "the pod of `helm test` succeeds beside the demo; the Job before an upgrade completes, and fails for a configuration with a misspelt key, " +
		"which the output names; the namespace enforces the Pod Security level `restricted`",
	Run: func(ctx context.Context, w *World) (string, error) {
		hooks, err := w.hooks()
		if err != nil {
			return "", err
		}
		defer func() {
			_, _ = w.Kubectl(context.WithoutCancel(ctx), hooks, "delete", "--ignore-not-found", "--filename=-")
		}()
		if err := w.Apply(ctx, hooks); err != nil {
			return "", err
		}
		if err := w.Eventually(ctx, func() error { return w.testPodSucceeds(ctx, hooks) }); err != nil {
			return "", err
		}
		if err := w.Eventually(ctx, func() error { return w.upgradeJobIs(ctx, batchv1.JobComplete) }); err != nil {
			return "", err
		}
		said, err := w.Kubectl(ctx, "", "--namespace="+ownNamespace, "logs", "pod/"+testPod)
		if err != nil {
			return "", err
		}
		misspelt := strings.Replace(hooks, "dbname: postgres", "dbnam: postgres", 1)
		if misspelt == hooks {
			return "", errors.New("the Job before an upgrade brings no configuration with a dbname")
		}
		if _, err := w.Kubectl(ctx, hooks, "delete", "--filename=-"); err != nil {
			return "", err
		}
		if err := w.Apply(ctx, misspelt); err != nil {
			return "", err
		}
		if err := w.Eventually(ctx, func() error { return w.upgradeJobIs(ctx, batchv1.JobFailed) }); err != nil {
			return "", err
		}
		refused, err := w.Kubectl(ctx, "", "--namespace="+ownNamespace, "logs", "job/"+upgradeJob)
		if err != nil {
			return "", err
		}
		if !strings.Contains(refused, "dbnam") {
			return "", fmt.Errorf("the Job before an upgrade failed, and did not say why:\n%s", refused)
		}
		lines := strings.Split(strings.TrimSpace(said), "\n")
		return "helm test: " + lines[len(lines)-1] + "; before an upgrade: complete, and failed for the misspelt key", nil
	},
}

const (
	testPod    = "clapometer-check"
	upgradeJob = "clapometer-preupgrade"
)

// hooks returns those objects of the rendered chart that Helm makes at other times than the rest.
func (w *World) hooks() (string, error) {
	chart, err := os.ReadFile(w.WithChecks)
	if err != nil {
		return "", err
	}
	var hooks []string
	for _, object := range strings.Split(string(chart), "\n---\n") {
		if strings.Contains(object, "\n    helm.sh/hook: ") {
			hooks = append(hooks, object)
		}
	}
	if len(hooks) != 3 {
		return "", fmt.Errorf("the chart has %d hooks, and this scenario knows a pod, a Job and its ConfigMap", len(hooks))
	}
	return strings.Join(hooks, "\n---\n"), nil
}

// testPodSucceeds fails while the pod runs. One that has failed is made again: a statement may be late on a busy machine.
func (w *World) testPodSucceeds(ctx context.Context, hooks string) error {
	pod, err := w.Kubernetes.CoreV1().Pods(ownNamespace).Get(ctx, testPod, metav1.GetOptions{})
	if err != nil {
		return err
	}
	switch pod.Status.Phase {
	case corev1.PodSucceeded:
		return nil
	case corev1.PodFailed:
		said, err := w.Kubectl(ctx, "", "--namespace="+ownNamespace, "logs", "pod/"+testPod)
		if err == nil {
			_, err = w.Kubectl(ctx, "", "--namespace="+ownNamespace, "delete", "pod/"+testPod)
		}
		if err == nil {
			err = w.Apply(ctx, hooks)
		}
		return errors.Join(fmt.Errorf("the pod of helm test failed: %s", said), err)
	default:
		return fmt.Errorf("the pod of helm test is %s", pod.Status.Phase)
	}
}

// upgradeJobIs fails while the Job before an upgrade has no such condition.
func (w *World) upgradeJobIs(ctx context.Context, condition batchv1.JobConditionType) error {
	job, err := w.Kubernetes.BatchV1().Jobs(ownNamespace).Get(ctx, upgradeJob, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, found := range job.Status.Conditions {
		if found.Type == condition && found.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("the Job before an upgrade is not %s: %v", condition, job.Status)
}
