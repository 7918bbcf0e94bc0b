package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	kedav1alpha1 "github.com/kedacore/keda/v2/apis/keda/v1alpha1"
	"github.com/kedacore/keda/v2/pkg/scaling/executor"
)

// objectSituation is one poll of a ScaledObject.
type objectSituation struct {
	Kind     string `json:"kind"`
	Min      *int32 `json:"min,omitempty"`
	Idle     *int32 `json:"idle,omitempty"`
	Current  int32  `json:"current"`
	Active   bool   `json:"active"`
	Failed   bool   `json:"failed"`
	Fallback *int32 `json:"fallback,omitempty"`
	// CooledDown says that no trigger has been active for longer than cooldownPeriod.
	CooledDown bool  `json:"cooled_down"`
	Replicas   int32 `json:"replicas"`
}

func scaledObject(random *rand.Rand) (*objectSituation, error) {
	situation := &objectSituation{
		Kind:       "ScaledObject",
		Current:    [...]int32{0, 0, 1, random.Int32N(8)}[random.IntN(4)],
		Active:     random.IntN(2) == 0,
		Failed:     random.IntN(4) == 0,
		CooledDown: random.IntN(2) == 0,
	}
	if random.IntN(2) == 0 {
		situation.Min = pointer(random.Int32N(5))
	}
	// The webhook demands that idleReplicaCount is below minReplicaCount.
	if situation.Min != nil && *situation.Min > 0 && random.IntN(2) == 0 {
		situation.Idle = pointer(random.Int32N(*situation.Min))
	}
	if random.IntN(3) == 0 {
		situation.Fallback = pointer(random.Int32N(4))
	}
	lastActive := time.Now()
	if situation.CooledDown {
		lastActive = lastActive.Add(-time.Hour)
	}
	object := &kedav1alpha1.ScaledObject{
		ObjectMeta: metav1.ObjectMeta{Name: "cases", Namespace: "default"},
		Spec: kedav1alpha1.ScaledObjectSpec{
			ScaleTargetRef:   &kedav1alpha1.ScaleTarget{Name: "target"},
			MinReplicaCount:  situation.Min,
			IdleReplicaCount: situation.Idle,
		},
		Status: kedav1alpha1.ScaledObjectStatus{
			LastActiveTime:  &metav1.Time{Time: lastActive},
			ScaleTargetGVKR: &kedav1alpha1.GroupVersionKindResource{Group: "cases", Version: "v1", Kind: "Target", Resource: "targets"},
		},
	}
	if situation.Fallback != nil {
		object.Spec.Fallback = &kedav1alpha1.Fallback{FailureThreshold: 3, Replicas: *situation.Fallback}
	}
	target := &target{replicas: situation.Current}
	scaleExecutor := executor.NewScaleExecutor(absent{}, target, nil, time.Second, &events.FakeRecorder{})
	result := scaleExecutor.RequestScale(context.Background(), object, situation.Active, situation.Failed, executor.ScaleExecutorOptions{})
	situation.Replicas = target.replicas
	return situation, result.Error
}

// target is what is scaled, and the client to its scale.
type target struct {
	scale.ScaleInterface
	replicas int32
}

func (t *target) Scales(string) scale.ScaleInterface {
	return t
}

func (t *target) Get(context.Context, schema.GroupResource, string, metav1.GetOptions) (*autoscalingv1.Scale, error) {
	return &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: t.replicas}}, nil
}

func (t *target) Update(_ context.Context, _ schema.GroupResource, scale *autoscalingv1.Scale, _ metav1.UpdateOptions) (*autoscalingv1.Scale, error) {
	t.replicas = scale.Spec.Replicas
	return scale, nil
}

// absent is a client that finds nothing, so that KEDA asks for the scale of the target.
type absent struct{ client.Client }

func (absent) Get(_ context.Context, key client.ObjectKey, _ client.Object, _ ...client.GetOption) error {
	return fmt.Errorf("%s is not here", key)
}
