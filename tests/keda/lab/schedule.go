package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// schedule binds every pod to the one node, and makes a volume for every claim.
func (l *Lab) schedule(ctx context.Context) error {
	factory := informers.NewSharedInformerFactory(l.Kubernetes, 0)
	pods := func(object any) {
		pod := object.(*corev1.Pod)
		if pod.Spec.NodeName != "" || pod.DeletionTimestamp != nil {
			return
		}
		err := l.Kubernetes.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
			Target:     corev1.ObjectReference{Kind: "Node", Name: nodeName},
		}, metav1.CreateOptions{})
		gone := apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
		if err != nil && !gone && ctx.Err() == nil {
			fmt.Fprintf(os.Stderr, "binding the pod %s/%s: %v\n", pod.Namespace, pod.Name, err)
		}
	}
	claims := func(object any) {
		claim := object.(*corev1.PersistentVolumeClaim)
		if err := l.provision(ctx, claim); err != nil && ctx.Err() == nil {
			fmt.Fprintf(os.Stderr, "making a volume for %s/%s: %v\n", claim.Namespace, claim.Name, err)
		}
	}
	_, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: pods, UpdateFunc: func(_, object any) { pods(object) },
	})
	if err != nil {
		return err
	}
	if _, err := factory.Core().V1().PersistentVolumeClaims().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: claims}); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	return nil
}

// provision makes a folder, which the volume's binder then gives to the claim.
func (l *Lab) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	name := "volume-" + string(claim.UID)
	dir := filepath.Join(scratch, "volumes", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// A folder of the machine gets no fsGroup, so everybody may write to it.
	if err := os.Chmod(dir, 0o777); err != nil {
		return err
	}
	kind := corev1.HostPathDirectory
	_, err := l.Kubernetes.CoreV1().PersistentVolumes().Create(ctx, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: claim.Spec.AccessModes,
			Capacity:    corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			ClaimRef: &corev1.ObjectReference{
				Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir, Type: &kind}},
		},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
