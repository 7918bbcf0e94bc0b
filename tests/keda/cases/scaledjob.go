package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	kedav1alpha1 "github.com/kedacore/keda/v2/apis/keda/v1alpha1"
	"github.com/kedacore/keda/v2/pkg/scaling/executor"
	"github.com/kedacore/keda/v2/pkg/scaling/scaledjob"
)

// jobSituation is one poll of a ScaledJob.
type jobSituation struct {
	Kind        string   `json:"kind"`
	Min         *int32   `json:"min,omitempty"`
	Max         *int32   `json:"max,omitempty"`
	Strategy    string   `json:"strategy,omitempty"`
	Deduction   *int32   `json:"deduction,omitempty"`
	Percentage  string   `json:"percentage,omitempty"`
	Calculation string   `json:"calculation,omitempty"`
	Unfinished  int      `json:"unfinished"`
	Pending     int      `json:"pending"`
	Answers     []answer `json:"answers"`
	Created     int      `json:"created"`
}

func scaledJob(random *rand.Rand, scaler *server) (*jobSituation, error) {
	most := [...]int64{3, 12, 60, 1000}[random.IntN(4)]
	situation := &jobSituation{
		Kind:        "ScaledJob",
		Strategy:    [...]string{"", "default", "default", "custom", "accurate", "eager"}[random.IntN(6)],
		Calculation: [...]string{"", "max", "min", "avg", "sum"}[random.IntN(5)],
	}
	if random.IntN(3) == 0 {
		situation.Min = pointer(random.Int32N(5))
	}
	if random.IntN(8) > 0 {
		situation.Max = pointer(random.Int32N(21))
	}
	if situation.Strategy == "custom" {
		if random.IntN(4) > 0 {
			situation.Deduction = pointer(random.Int32N(9) - 2)
		}
		situation.Percentage = [...]string{"", "0", "0.25", "0.5", "0.75", "1", "1.5", "half"}[random.IntN(8)]
	}
	jobs := &memory{}
	situation.Unfinished, situation.Pending = jobs.fill(random)

	job := &kedav1alpha1.ScaledJob{
		ObjectMeta: metav1.ObjectMeta{Name: "cases", Namespace: "default"},
		Spec: kedav1alpha1.ScaledJobSpec{
			JobTargetRef:    &batchv1.JobSpec{},
			MinReplicaCount: situation.Min,
			MaxReplicaCount: situation.Max,
			ScalingStrategy: kedav1alpha1.ScalingStrategy{
				Strategy:                          situation.Strategy,
				CustomScalingQueueLengthDeduction: situation.Deduction,
				CustomScalingRunningJobPercentage: situation.Percentage,
				MultipleScalersCalculation:        situation.Calculation,
			},
		},
	}
	var metrics []scaledjob.ScalerMetrics
	for range [...]int{1, 1, 1, 2, 3}[random.IntN(5)] {
		given := answer{Target: draw(random, 10), Active: random.IntN(4) > 0}
		for range 1 + random.IntN(8)/7 {
			given.Values = append(given.Values, draw(random, most))
		}
		specs, values, active, err := scaler.ask("", &given)
		if err != nil {
			return nil, err
		}
		// As getScaledJobMetrics of pkg/scaling/scale_handler.go does.
		length, maxValue, target := scaledjob.CalculateQueueLengthAndMaxValue(values, specs, job.MaxReplicaCount())
		metrics = append(metrics, scaledjob.ScalerMetrics{QueueLength: length, MaxValue: maxValue, IsActive: active})
		given.TargetSize, given.Sum = double(target), double(length)
		situation.Answers = append(situation.Answers, given)
	}
	active, scaleTo, maxScale, _ := scaledjob.IsScaledJobActive(metrics, situation.Calculation, job.MinReplicaCount(), job.MaxReplicaCount())
	scheme := runtime.NewScheme()
	if err := kedav1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	scaleExecutor := executor.NewScaleExecutor(jobs, nil, scheme, time.Second, &events.FakeRecorder{})
	result := scaleExecutor.RequestJobScale(context.Background(), job, active, false, scaleTo, maxScale, executor.ScaleExecutorOptions{})
	situation.Created = jobs.created
	return situation, result.Error
}

// memory is a client that has Jobs and pods, and counts the Jobs that are created.
type memory struct {
	client.Client
	jobs    []batchv1.Job
	pods    map[string]corev1.PodPhase
	created int
}

// fill makes Jobs of every kind, and returns how many are unfinished and how many of them are pending.
func (m *memory) fill(random *rand.Rand) (unfinished, pending int) {
	m.pods = map[string]corev1.PodPhase{}
	for index := range [...]int{0, 0, 2, 8, 20}[random.IntN(5)] {
		job := batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "job-" + strconv.Itoa(index), Namespace: "default"}}
		switch random.IntN(6) {
		case 0:
			job.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
			m.pods[job.Name] = corev1.PodSucceeded
		case 1:
			job.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue}}
			m.pods[job.Name] = corev1.PodFailed
		case 2:
			// Without a pod, or with one that has failed: the Job is new, or in back-off.
			if random.IntN(2) == 0 {
				m.pods[job.Name] = corev1.PodFailed
			}
			unfinished, pending = unfinished+1, pending+1
		case 3:
			m.pods[job.Name] = corev1.PodPending
			unfinished, pending = unfinished+1, pending+1
		case 4:
			m.pods[job.Name] = corev1.PodSucceeded
			unfinished++
		default:
			m.pods[job.Name] = corev1.PodRunning
			unfinished++
		}
		m.jobs = append(m.jobs, job)
	}
	return unfinished, pending
}

func (m *memory) List(_ context.Context, list client.ObjectList, options ...client.ListOption) error {
	given := client.ListOptions{}
	given.ApplyOptions(options)
	switch list := list.(type) {
	case *batchv1.JobList:
		list.Items = m.jobs
	case *corev1.PodList:
		for name, phase := range m.pods {
			if given.LabelSelector.String() == "job-name="+name {
				list.Items = append(list.Items, corev1.Pod{Status: corev1.PodStatus{Phase: phase}})
			}
		}
	default:
		return fmt.Errorf("no %T here", list)
	}
	return nil
}

func (m *memory) Create(context.Context, client.Object, ...client.CreateOption) error {
	m.created++
	return nil
}

func (m *memory) Delete(context.Context, client.Object, ...client.DeleteOption) error {
	return nil
}

func pointer[T any](value T) *T {
	return &value
}
