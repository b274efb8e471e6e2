package objects

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/pkg/group"
)

// application is one of everything that acts once an API server with controllers has it.
func application() string {
	template := `template:
    metadata: {labels: {app: bank, part: %s}}
    spec: {containers: [{name: c, image: "localhost/nothing:1"}]%s}
`
	workload := func(kind, name, spec string) string {
		return manifest("apps/v1", kind, "bank", name, fmt.Sprintf("spec:\n  selector: {matchLabels: {part: %s}}\n  %s\n  ", name, spec)+fmt.Sprintf(template, name, ""))
	}
	return workload("Deployment", "web", "replicas: 2") +
		workload("StatefulSet", "database", `replicas: 1
  serviceName: database
  volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], storageClassName: "", resources: {requests: {storage: 1Mi}}}}]`) +
		workload("DaemonSet", "agent", "") +
		manifest("batch/v1", "Job", "bank", "migrate", "spec:\n  "+fmt.Sprintf(template, "migrate", ", restartPolicy: Never")) +
		manifest("batch/v1", "CronJob", "bank", "nightly", `spec:
  schedule: "* * * * *"
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: "localhost/nothing:1"}]}}}}
`) +
		manifest("v1", "Pod", "bank", "bare", `spec: {containers: [{name: c, image: "localhost/nothing:1"}]}`) +
		manifest("v1", "Service", "bank", "public", "spec: {type: LoadBalancer, selector: {part: web}, ports: [{port: 80}]}") +
		manifest("networking.k8s.io/v1", "Ingress", "bank", "door", `spec: {defaultBackend: {service: {name: public, port: {number: 80}}}}`) +
		manifest("v1", "PersistentVolume", "", "disk", `spec:
  capacity: {storage: 1Mi}
  accessModes: [ReadWriteOnce]
  storageClassName: ""
  hostPath: {path: /nonexistent}
  claimRef: {namespace: bank, name: archive}
`) +
		manifest("v1", "PersistentVolumeClaim", "bank", "archive", `spec: {accessModes: [ReadWriteOnce], storageClassName: "", volumeName: disk, resources: {requests: {storage: 1Mi}}}`) +
		manifest("autoscaling/v2", "HorizontalPodAutoscaler", "bank", "web", "spec: {minReplicas: 3, maxReplicas: 4, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}")
}

// number reads a number in an object's spec, -1 where there is none.
func number(obj *unstructured.Unstructured, path ...string) int64 {
	if obj == nil {
		return -1
	}
	n, ok, err := unstructured.NestedInt64(obj.Object, path...)
	if err != nil || !ok {
		return -1
	}
	return n
}

func text(obj *unstructured.Unstructured, path ...string) string {
	if obj == nil {
		return "(absent)"
	}
	v, _, _ := unstructured.NestedFieldNoCopy(obj.Object, path...)
	return fmt.Sprint(v)
}

// observed waits until a workload's controller has seen the object as it is.
func (c *cluster) observed(kind schema.GroupVersionResource, name string) {
	c.t.Helper()
	harness.Eventually(c.t, limit, fmt.Sprintf("the controller saw %s %s", kind.Resource, name), func() error {
		obj := c.get(kind, "bank", name)
		if obj == nil || number(obj, "status", "observedGeneration") < obj.GetGeneration() {
			return errors.New("it did not")
		}
		return nil
	})
}

// names lists the objects of a kind in the namespace "bank".
func (c *cluster) names(kind schema.GroupVersionResource) (out []string) {
	c.t.Helper()
	for _, obj := range c.list(kind, "bank") {
		out = append(out, obj.GetName())
	}
	return out
}

// With controllers at work, nothing of an application acts at the DR site before a release: no Pod, no Job, no load balancer, no claim. A release says
// beforehand what it would do, and then everything does, as at the primary.
func TestNothingActsBeforeRelease(t *testing.T) {
	s := start(t, options{controllers: true})
	// A DaemonSet acts where there are nodes.
	s.dr.apply(manifest("v1", "Node", "", "node", ""))
	s.primary.apply(application())
	s.applied("ready")
	for kind, name := range map[schema.GroupVersionResource]string{deployments: "web", statefulSets: "database", daemonSets: "agent"} {
		s.dr.observed(kind, name)
	}
	for kind, name := range map[schema.GroupVersionResource]string{jobs: "migrate", cronJobs: "nightly"} {
		if obj := s.dr.get(kind, "bank", name); text(obj, "spec", "suspend") != "true" {
			t.Errorf("%s %s is not suspended: %s", kind.Resource, name, text(obj, "spec", "suspend"))
		}
	}
	for _, kind := range []schema.GroupVersionResource{pods, claims, ingresses} {
		if names := s.dr.names(kind); len(names) > 0 {
			t.Errorf("%s at the DR site before a release: %q", kind.Resource, names)
		}
	}
	if names := s.dr.names(jobs); len(names) != 1 {
		t.Errorf("jobs at the DR site before a release: %q", names)
	}
	if list := s.dr.list(volumes, ""); len(list) > 0 {
		t.Errorf("%d volumes at the DR site before a release", len(list))
	}
	if got := text(s.dr.get(services, "bank", "public"), "spec", "type"); got != "ClusterIP" {
		t.Errorf("the load balancer is a %s", got)
	}
	if got := number(s.dr.get(deployments, "bank", "web"), "spec", "replicas"); got != 0 {
		t.Errorf("the Deployment has %d replicas", got)
	}
	s.status("what is held back is told", func(st *group.Status) error {
		if st.Objects.HeldBack < 4 { // Pod, Ingress, claim, volume
			return errors.New("it isn't")
		}
		return nil
	})
	plan, err := s.Farshore("release", "--dry-run")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"web", "database", "agent", "migrate", "nightly", "bare", "public", "door", "archive", "disk"} {
		if !strings.Contains(plan, name) {
			t.Errorf("the plan of a release doesn't name %s:\n%s", name, plan)
		}
	}
	if names := s.dr.names(pods); len(names) > 0 {
		t.Errorf("a dry run made pods: %q", names)
	}
	s.release()
	s.acts()
}

func (s *sites) release() {
	s.t.Helper()
	if out, err := s.Farshore("release", "--yes"); err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
	s.status("the objects are released", func(st *group.Status) error {
		if !st.Objects.Released {
			return errors.New("they are not")
		}
		return nil
	})
}

// acts waits until the controllers of the DR site have made of the application what those of a primary would.
func (s *sites) acts() {
	s.t.Helper()
	want := map[string]int{"web": 2, "database": 1, "agent": 1, "migrate": 1}
	harness.Eventually(s.t, limit, "the application acts", func() error {
		have := make(map[string]int)
		for _, obj := range s.dr.list(pods, "bank") {
			have[obj.GetLabels()["part"]]++
		}
		for part, n := range want {
			if have[part] < n { // the autoscaler may have made more
				return fmt.Errorf("pods: %v, want %v", have, want)
			}
		}
		if s.dr.get(pods, "bank", "bare") == nil {
			return errors.New("the bare Pod is missing")
		}
		if got := text(s.dr.get(claims, "bank", "archive"), "status", "phase"); got != "Bound" {
			return fmt.Errorf("the claim is %s", got)
		}
		if got := text(s.dr.get(services, "bank", "public"), "spec", "type"); got != "LoadBalancer" {
			return fmt.Errorf("the load balancer is a %s", got)
		}
		if got := text(s.dr.get(cronJobs, "bank", "nightly"), "spec", "suspend"); got != "false" {
			return fmt.Errorf("the CronJob's suspend is %s", got)
		}
		if s.dr.get(ingresses, "bank", "door") == nil {
			return errors.New("the Ingress is missing")
		}
		return nil
	})
}
