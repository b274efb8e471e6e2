package resourcewatch_test

import (
	"context"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// deploy makes a Deployment of app bank that mounts a ConfigMap.
func deploy(t testing.TB, s *site, name, config string) {
	t.Helper()
	labels := map[string]string{"app": "bank"}
	_, err := s.client.AppsV1().Deployments(s.namespace).Create(context.Background(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					Containers: []corev1.Container{{Name: "c", Image: "bank:1"}},
					Volumes: []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{
						ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: config}},
					}}},
				},
			},
		},
	}, metav1.CreateOptions{})
	must(t, err)
}

var crdResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// install makes a CRD for a namespaced kind and returns the kind's resource.
func install(t testing.TB, s *site, group, plural, kind string) schema.GroupVersionResource {
	t.Helper()
	crd := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": plural + "." + group},
		"spec": map[string]any{
			"group": group, "scope": "Namespaced",
			"names": map[string]any{"plural": plural, "singular": plural[:len(plural)-1], "kind": kind, "listKind": kind + "List"},
			"versions": []any{map[string]any{
				"name": "v1", "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
			}},
		},
	}}
	_, err := s.dynamic.Resource(crdResource).Create(context.Background(), crd, metav1.CreateOptions{})
	must(t, err)
	return schema.GroupVersionResource{Group: group, Version: "v1", Resource: plural}
}

// custom makes a custom resource, once the API server serves its kind.
func custom(t testing.TB, s *site, r schema.GroupVersionResource, kind, name string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": r.GroupVersion().String(), "kind": kind, "metadata": map[string]any{"name": name}, "spec": map[string]any{"n": int64(1)},
	}}
	var made *unstructured.Unstructured
	eventually(t, "the API server serves the custom kind", func() (ok bool) {
		var err error
		made, err = s.dynamic.Resource(r).Namespace(s.namespace).Create(context.Background(), u, metav1.CreateOptions{})
		return err == nil
	})
	return made
}

var (
	deleteNow = metav1.DeleteOptions{}
	listAll   = metav1.ListOptions{}
)

// kinds are those whose every object in a namespace belongs to the group.
var kinds = []schema.GroupVersionResource{configMaps, {Version: "v1", Resource: "services"}, {Group: "apps", Version: "v1", Resource: "deployments"}}
