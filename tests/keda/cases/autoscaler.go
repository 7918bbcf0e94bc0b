package main

import (
	"math/rand/v2"
	"reflect"
	"strconv"
	"time"
	"unsafe"

	v2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/controller/podautoscaler"
	"k8s.io/kubernetes/pkg/controller/podautoscaler/metrics"
)

// tolerance is kube-controller-manager's default for both directions.
const tolerance = 0.1

// replicaSituation is one decision of the horizontal pod autoscaler about one external metric.
type replicaSituation struct {
	Kind string `json:"kind"`
	// Type is AverageValue or Value.
	Type     v2.MetricTargetType `json:"type"`
	Current  int32               `json:"current"`
	Ready    int32               `json:"ready"`
	Answer   answer              `json:"answer"`
	Replicas int32               `json:"replicas"`
}

func autoscaler(random *rand.Rand, scaler *server) (*replicaSituation, error) {
	situation := &replicaSituation{
		Kind:    "HorizontalPodAutoscaler",
		Type:    [...]v2.MetricTargetType{v2.AverageValueMetricType, v2.ValueMetricType}[random.IntN(3)/2],
		Current: 1 + random.Int32N([...]int32{2, 10, 50}[random.IntN(3)]),
		Answer:  answer{Target: draw(random, 20), Active: true},
	}
	situation.Ready = situation.Current - random.Int32N(situation.Current+1)/3
	for !isTarget(situation.Answer.Target) {
		situation.Answer.Target = draw(random, 20)
	}
	situation.Answer.Values = []number{draw(random, [...]int64{10, 100, 1000}[random.IntN(3)])}
	for situation.Answer.Values[0].Integer > 1e12 || situation.Answer.Values[0].Double > 1e12 {
		situation.Answer.Values[0] = draw(random, 100)
	}
	if random.IntN(4) == 0 {
		// About as many as there are, where the tolerance decides.
		near := float64(situation.Current) * (0.85 + 0.3*random.Float64())
		situation.Answer.Target = number{Double: 1}
		situation.Answer.Values[0] = number{Double: double(near)}
	}
	specs, values, _, err := scaler.ask(situation.Type, &situation.Answer)
	if err != nil {
		return nil, err
	}
	source := &external{}
	for _, value := range values {
		source.values = append(source.values, value.Value.MilliValue())
		situation.Answer.Sum += double(value.Value.AsApproximateFloat64())
	}
	pods := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	for index := range situation.Current {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod-" + strconv.Itoa(int(index)), Namespace: "default"}}
		pod.Status.Phase = corev1.PodRunning
		ready := corev1.ConditionTrue
		if index >= situation.Ready {
			ready = corev1.ConditionFalse
		}
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
		if err := pods.Add(pod); err != nil {
			return nil, err
		}
	}
	calculator := podautoscaler.NewReplicaCalculator(source, corelisters.NewPodLister(pods), time.Minute, time.Second)
	metric, target := specs[0].External.Metric, specs[0].External.Target
	if situation.Type == v2.AverageValueMetricType {
		situation.Answer.TargetSize = double(target.AverageValue.AsApproximateFloat64())
		situation.Replicas, _, _, err = calculator.GetExternalPerPodMetricReplicas(
			situation.Current, target.AverageValue.MilliValue(), metric.Name, tolerances(), "default", &metav1.LabelSelector{})
	} else {
		situation.Answer.TargetSize = double(target.Value.AsApproximateFloat64())
		situation.Replicas, _, _, err = calculator.GetExternalMetricReplicas(
			situation.Current, target.Value.MilliValue(), metric.Name, tolerances(), "default", &metav1.LabelSelector{}, labels.Everything())
	}
	return situation, err
}

// isTarget says whether the API server takes it: only positive targets, and here no odd ones.
func isTarget(target number) bool {
	if target.Double > 0 {
		return 0.001 <= target.Double && target.Double < 1e9
	}
	return 0 < target.Integer && target.Integer < 1e9
}

// tolerances fills the fields that only the controller itself can reach.
func tolerances() podautoscaler.Tolerances {
	filled := podautoscaler.Tolerances{}
	value := reflect.ValueOf(&filled).Elem()
	for _, name := range []string{"scaleUp", "scaleDown"} {
		*(*float64)(unsafe.Pointer(value.FieldByName(name).UnsafeAddr())) = tolerance
	}
	return filled
}

// external is a metrics server with one external metric.
type external struct {
	metrics.MetricsClient
	values []int64
}

func (e *external) GetExternalMetric(string, string, labels.Selector) ([]int64, time.Time, error) {
	return e.values, time.Now(), nil
}
