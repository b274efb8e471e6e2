package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

// install applies manifests for the realm's namespace instead of bank.
func (r *realm) install(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	text = bytes.ReplaceAll(text, []byte("namespace: bank"), []byte("namespace: "+r.namespace))
	d, err := discovery.NewDiscoveryClientForConfig(r.cluster.Config())
	must(t, err)
	groups, err := restmapper.GetAPIGroupResources(d)
	must(t, err)
	client, err := dynamic.NewForConfig(r.cluster.Config())
	must(t, err)
	for documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096); ; {
		obj := new(unstructured.Unstructured)
		err := documents.Decode(&obj.Object)
		if errors.Is(err, io.EOF) {
			return
		}
		must(t, err)
		m, err := restmapper.NewDiscoveryRESTMapper(groups).RESTMapping(obj.GroupVersionKind().GroupKind(), obj.GroupVersionKind().Version)
		must(t, err)
		_, err = client.Resource(m.Resource).Namespace(obj.GetNamespace()).Apply(deadline(t), obj.GetName(), obj, metav1.ApplyOptions{FieldManager: "test"})
		must(t, err)
	}
}

// The rights of deploy/kubernetes are enough: the capturer is elected, and every kind that it wants to see is shown.
func TestInstalledRightsAreEnough(t *testing.T) {
	r := newRealm(t)
	r.install(t, "../../deploy/kubernetes/capturer.yaml")
	kubeconfig, err := r.cluster.User("system:serviceaccount:farshore:farshore-capturer", "system:serviceaccounts", "system:serviceaccounts:farshore")
	must(t, err)
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	must(t, err)
	me, err := kubernetes.NewForConfig(config)
	must(t, err)
	eventually(t, "the rights are in force", func() bool {
		_, lease := me.CoordinationV1().Leases("farshore").Get(deadline(t), "farshore-shop", metav1.GetOptions{})
		_, secrets := me.CoreV1().Secrets(r.namespace).List(deadline(t), metav1.ListOptions{})
		_, classes := me.StorageV1().StorageClasses().List(deadline(t), metav1.ListOptions{})
		return !apierrors.IsForbidden(lease) && secrets == nil && classes == nil
	})
	r.put(t, "c1", "x")
	p := r.start(t, "--kubeconfig", kubeconfig, "--lease-namespace", "farshore")
	p.await(t, "recording objects")
	r.arrived(t, 1)
	r.put(t, "c2", "x")
	r.arrived(t, 1)
	must(t, p.end())
	for _, line := range strings.Split(p.log.String(), "\n") {
		if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
			t.Error(line)
		}
	}
}
