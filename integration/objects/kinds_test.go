package objects

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/internal/kube"
	"github.com/farshore/farshore/internal/kube/kubetest"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/transform"
)

// ofTheSite are the kinds that are about a cluster and not about an application: they are left out, or never applied.
var ofTheSite = []string{
	"nodes", "events", "events.events.k8s.io", "leases.coordination.k8s.io", "controllerrevisions.apps",
	"csinodes.storage.k8s.io", "csistoragecapacities.storage.k8s.io", "volumeattachments.storage.k8s.io", "resourceslices.resource.k8s.io",
	"ipaddresses.networking.k8s.io", "servicecidrs.networking.k8s.io", "certificatesigningrequests.certificates.k8s.io",
	"podcertificaterequests.certificates.k8s.io", "storageversionmigrations.storagemigration.k8s.io",
}

// unmade are those of them that are not made: they act at once, or only a node may make them.
var unmade = []string{"podcertificaterequests.certificates.k8s.io", "storageversionmigrations.storagemigration.k8s.io"}

// everyKind is one object of every kind that the API server has, in an order in which they can be made, with what servers and controllers
// fill in left to them. What is cluster-scoped and needed by nothing is called "kept".
func everyKind(t *testing.T) string {
	request, bundle := certificates(t)
	pod := `spec: {serviceAccountName: web, nodeName: node, priorityClassName: kept, containers: [{name: c, image: "localhost/nothing:1"}]}`
	template := `template: {metadata: {labels: {part: %s}}, spec: {containers: [{name: c, image: "localhost/nothing:1"}]%s}}`
	workload := func(version, kind, name, more string) string {
		return manifest(version, kind, "bank", name, fmt.Sprintf("spec:\n  selector: {matchLabels: {part: %s}}\n  %s\n  ", name, more)+fmt.Sprintf(template, name, ""))
	}
	selector := `spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: bank}}}]}]}`
	return strings.Join([]string{
		manifest("v1", "Node", "", "node", ""),
		manifest("scheduling.k8s.io/v1", "PriorityClass", "", "kept", "value: 1000"),
		manifest("storage.k8s.io/v1", "StorageClass", "", "gold", "provisioner: bank.example/none"),
		manifest("node.k8s.io/v1", "RuntimeClass", "", "kept", "handler: runc"),
		manifest("networking.k8s.io/v1", "IngressClass", "", "outer", "spec: {controller: bank.example/none, parameters: {scope: Namespace, namespace: bank, kind: ConfigMap, name: settings}}"),
		manifest("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", "widgets.bank.example", definitionSpec),
		manifest("v1", "ServiceAccount", "bank", "web", "secrets: [{name: mine}]"),
		manifest("v1", "ConfigMap", "bank", "settings", "data: {value: x}"),
		manifest("v1", "Secret", "bank", "key", "stringData: {value: x}"),
		custom("Widget", "widget", 1),
		manifest("v1", "LimitRange", "bank", "limits", "spec: {limits: [{type: PersistentVolumeClaim, max: {storage: 1Ti}}]}"),
		manifest("v1", "ResourceQuota", "bank", "quota", "spec: {hard: {gold.storageclass.storage.k8s.io/requests.storage: 1Ti}}"),
		manifest("v1", "PersistentVolume", "", "disk", `spec: {capacity: {storage: 1Mi}, accessModes: [ReadWriteOnce], storageClassName: "", hostPath: {path: /nonexistent}, claimRef: {namespace: bank, name: archive}}`),
		manifest("v1", "PersistentVolumeClaim", "bank", "archive", `spec: {accessModes: [ReadWriteOnce], storageClassName: "", volumeName: disk, resources: {requests: {storage: 1Mi}}}`),
		manifest("v1", "Service", "bank", "web", "spec: {type: LoadBalancer, externalTrafficPolicy: Local, selector: {part: web}, ports: [{port: 443}]}"),
		manifest("v1", "Service", "bank", "database", "spec: {clusterIP: None, selector: {part: database}, ports: [{port: 5432}]}"),
		manifest("v1", "Endpoints", "bank", "outside", "subsets: [{addresses: [{ip: 192.0.2.1}], ports: [{port: 80}]}]"),
		manifest("discovery.k8s.io/v1", "EndpointSlice", "bank", "outside-own", "addressType: IPv4\nendpoints: [{addresses: [192.0.2.1]}]\nports: [{port: 80}]"),
		manifest("v1", "Pod", "bank", "bare", pod),
		manifest("v1", "PodTemplate", "bank", "pods", fmt.Sprintf(template, "pods", "")),
		manifest("v1", "ReplicationController", "bank", "old", "spec:\n  replicas: 1\n  selector: {part: old}\n  "+fmt.Sprintf(template, "old", "")),
		workload("apps/v1", "Deployment", "web", "replicas: 1"),
		workload("apps/v1", "ReplicaSet", "alone", "replicas: 1"),
		workload("apps/v1", "DaemonSet", "agent", ""),
		workload("apps/v1", "StatefulSet", "database", `serviceName: database
  volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], storageClassName: gold, resources: {requests: {storage: 1Mi}}}}]`),
		manifest("apps/v1", "ControllerRevision", "bank", "revision", "revision: 1\ndata: {}"),
		manifest("batch/v1", "Job", "bank", "migrate", "spec: "+braces(fmt.Sprintf(template, "migrate", ", restartPolicy: Never"))),
		manifest("batch/v1", "CronJob", "bank", "nightly", `spec: {schedule: "0 3 * * *", jobTemplate: {spec: `+braces(fmt.Sprintf(template, "nightly", ", restartPolicy: Never"))+`}}`),
		manifest("autoscaling/v2", "HorizontalPodAutoscaler", "bank", "web", "spec: {maxReplicas: 4, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}"),
		manifest("policy/v1", "PodDisruptionBudget", "bank", "web", "spec: {minAvailable: 1, selector: {matchLabels: {part: web}}}"),
		manifest("networking.k8s.io/v1", "NetworkPolicy", "bank", "inner", selector),
		manifest("networking.k8s.io/v1", "Ingress", "bank", "door", "spec: {ingressClassName: outer, rules: [{host: www.bank.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 443}}}}]}}]}"),
		manifest("networking.k8s.io/v1", "IPAddress", "", "10.96.77.77", "spec: {parentRef: {resource: services, namespace: bank, name: web}}"),
		manifest("networking.k8s.io/v1", "ServiceCIDR", "", "kept", "spec: {cidrs: [10.97.0.0/24]}"),
		manifest("rbac.authorization.k8s.io/v1", "Role", "bank", "web", `rules: [{apiGroups: [""], resources: [configmaps], verbs: [get]}]`),
		manifest("rbac.authorization.k8s.io/v1", "RoleBinding", "bank", "web", `roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: web}
subjects: [{kind: ServiceAccount, name: web, namespace: bank}]`),
		manifest("rbac.authorization.k8s.io/v1", "ClusterRole", "", "bank-web", `aggregationRule: {clusterRoleSelectors: [{matchLabels: {part: none}}]}
rules: []`),
		manifest("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "", "bank-web", `roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: bank-web}
subjects: [{kind: ServiceAccount, name: web, namespace: bank}]`),
		everyAdmission(),
		manifest("apiregistration.k8s.io/v1", "APIService", "", "v1.late.example", "spec: {group: late.example, version: v1, groupPriorityMinimum: 100, versionPriority: 10, insecureSkipTLSVerify: true, service: {name: web, namespace: bank}}"),
		manifest("flowcontrol.apiserver.k8s.io/v1", "PriorityLevelConfiguration", "", "kept", "spec: {type: Limited, limited: {nominalConcurrencyShares: 5, limitResponse: {type: Reject}}}"),
		manifest("flowcontrol.apiserver.k8s.io/v1", "FlowSchema", "", "kept", `spec: {priorityLevelConfiguration: {name: kept}, matchingPrecedence: 9000, rules: [{subjects: [{kind: ServiceAccount, serviceAccount: {name: web, namespace: bank}}], resourceRules: [{verbs: ["*"], apiGroups: ["*"], resources: ["*"], namespaces: [bank]}]}]}`),
		manifest("storage.k8s.io/v1", "CSIDriver", "", "kept", "spec: {}"),
		manifest("storage.k8s.io/v1", "CSINode", "", "node", "spec: {drivers: []}"),
		manifest("storage.k8s.io/v1", "CSIStorageCapacity", "bank", "room", "storageClassName: gold\ncapacity: 1Gi"),
		manifest("storage.k8s.io/v1", "VolumeAttachment", "", "kept", "spec: {attacher: bank.example, nodeName: node, source: {persistentVolumeName: disk}}"),
		manifest("storage.k8s.io/v1", "VolumeAttributesClass", "", "kept", "driverName: bank.example\nparameters: {a: b}"),
		manifest("resource.k8s.io/v1", "DeviceClass", "", "kept", "spec: {}"),
		manifest("resource.k8s.io/v1", "ResourceClaim", "bank", "device", "spec: {devices: {requests: [{name: a, exactly: {deviceClassName: kept}}]}}"),
		manifest("resource.k8s.io/v1", "ResourceClaimTemplate", "bank", "devices", "spec: {spec: {devices: {requests: [{name: a, exactly: {deviceClassName: kept}}]}}}"),
		manifest("resource.k8s.io/v1", "ResourceSlice", "", "kept", "spec: {driver: bank.example, nodeName: node, pool: {name: p, generation: 1, resourceSliceCount: 1}, devices: [{name: d}]}"),
		manifest("coordination.k8s.io/v1", "Lease", "bank", "leader", "spec: {holderIdentity: a, leaseDurationSeconds: 10}"),
		manifest("v1", "Event", "bank", "happened", "involvedObject: {kind: Pod, namespace: bank, name: bare}\nreason: Because"),
		manifest("certificates.k8s.io/v1", "CertificateSigningRequest", "", "kept", "spec: {signerName: kubernetes.io/kube-apiserver-client, usages: [client auth], request: "+base64.StdEncoding.EncodeToString([]byte(request))+"}"),
		manifest("certificates.k8s.io/v1", "ClusterTrustBundle", "", "kept", fmt.Sprintf("spec: {trustBundle: %q}", bundle)),
		manifest("resource.k8s.io/v1", "DeviceTaintRule", "", "kept", "spec: {deviceSelector: {driver: none.example}, taint: {key: bank.example/away, effect: NoSchedule}}"),
	}, "")
}

// everyAdmission is one object of every kind that is about what an API server lets in.
func everyAdmission() string {
	rules := `rules: [{apiGroups: [bank.example], apiVersions: [v1], operations: [CREATE], resources: [nothing], scope: Namespaced}]`
	hook := `webhooks: [{name: a.bank.example, admissionReviewVersions: [v1], sideEffects: None, failurePolicy: Ignore, clientConfig: {service: {name: web, namespace: bank, path: /x}}, ` + rules +
		`, namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: bank}}}]`
	match := `matchConstraints: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: bank}}, resource` + strings.ToUpper(rules[:1]) + rules[1:] + `}`
	bound := `spec: {policyName: kept, paramRef: {name: settings, namespace: bank, parameterNotFoundAction: Allow}%s}`
	return strings.Join([]string{
		manifest("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "", "bank", hook),
		manifest("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "", "bank", hook),
		manifest("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", "", "kept", `spec: {failurePolicy: Ignore, paramKind: {apiVersion: v1, kind: ConfigMap}, `+match+`, validations: [{expression: "true"}]}`),
		manifest("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding", "", "kept", fmt.Sprintf(bound, ", validationActions: [Audit]")),
		manifest("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicy", "", "kept", `spec: {failurePolicy: Ignore, reinvocationPolicy: Never, paramKind: {apiVersion: v1, kind: ConfigMap}, `+match+
			`, mutations: [{patchType: JSONPatch, jsonPatch: {expression: "[JSONPatch{op: \"remove\", path: \"/metadata/labels\"}]"}}]}`),
		manifest("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicyBinding", "", "kept", fmt.Sprintf(bound, "")),
	}, "")
}

const definitionSpec = `spec:
  group: bank.example
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, listKind: WidgetList}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}}}}}}}]
`

// certificates returns a request for a certificate and the certificate of an authority, both in PEM.
func certificates(t *testing.T) (request, authority string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	subject := pkix.Name{CommonName: "bank"}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject}, key)
	if err != nil {
		t.Fatal(err)
	}
	request = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	root := &x509.Certificate{Subject: subject, SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	if der, err = x509.CreateCertificate(rand.Reader, root, root, key.Public(), key); err != nil {
		t.Fatal(err)
	}
	return request, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// everyResource lists what an API server lets one make and keep, as "plural" or "plural.group".
func (c *cluster) everyResource() (out []string) {
	c.t.Helper()
	client, err := discovery.NewDiscoveryClientForConfig(c.Config())
	if err != nil {
		c.t.Fatal(err)
	}
	lists, err := client.ServerPreferredResources()
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) { // the API service of the test answers nothing
		c.t.Fatal(err)
	}
	for _, list := range lists {
		for _, r := range list.APIResources {
			if slices.Contains(r.Verbs, "create") && slices.Contains(r.Verbs, "list") && !strings.Contains(r.Name, "/") {
				group, _, ok := strings.Cut(list.GroupVersion, "/")
				if !ok {
					group = ""
				}
				out = append(out, strings.TrimSuffix(r.Name+"."+group, "."))
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (c *cluster) resourceName(obj *unstructured.Unstructured) string {
	c.t.Helper()
	kind := obj.GroupVersionKind()
	mapping, err := c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.TrimSuffix(mapping.Resource.Resource+"."+mapping.Resource.Group, ".")
}

// makeEveryKind makes one of every kind at the primary, waits until controllers have written into them what they write, and returns them as they are
// then. A kind of the API server that the test doesn't know fails it.
func makeEveryKind(t *testing.T, primary *cluster) []*unstructured.Unstructured {
	t.Helper()
	made := primary.apply(everyKind(t))
	have := map[string]bool{"namespaces": true, "events.events.k8s.io": true} // the former are there; the latter are Events once more
	for _, obj := range made {
		have[primary.resourceName(obj)] = true
	}
	for _, name := range primary.everyResource() {
		if !have[name] && !slices.Contains(unmade, name) {
			t.Errorf("no object of the kind %s is made", name)
		}
	}
	if primary.Controllers() {
		primary.observed(deployments, "web")
		harness.Eventually(t, limit, "the claim is bound", func() error {
			if got := text(primary.get(claims, "bank", "archive"), "status", "phase"); got != "Bound" {
				return errors.New(got)
			}
			return nil
		})
	}
	for i, obj := range made {
		client, err := primary.resource(obj)
		if err == nil {
			made[i], err = client.Get(t.Context(), obj.GetName(), metav1.GetOptions{})
		}
		if err != nil {
			t.Fatalf("read %s %s: %v", obj.GetKind(), obj.GetName(), err)
		}
	}
	return made
}

// What an API server with its controllers has of every kind that there is, another API server takes once it was transformed, and keeps as it
// is when it is given the same again.
func TestEveryKindIsTaken(t *testing.T) {
	clusters := kubetest.New(t, kube.Options{Name: "primary", ControllerManager: true}, kube.Options{Name: "dr"})
	primary, dr := newCluster(t, clusters[0]), newCluster(t, clusters[1])
	primary.apply(manifest("v1", "Namespace", "", "bank", ""))
	harness.Eventually(t, limit, "the namespace has its account", func() error {
		if primary.get(accounts, "bank", "default") == nil {
			return errors.New("it hasn't")
		}
		return nil
	})
	rules, problems := transform.Compile(transform.Rules{Namespaces: map[string]string{"bank": "bank-dr"}, StorageClasses: map[string]string{"gold": "silver"}})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	dr.apply(manifest("v1", "Namespace", "", "bank-dr", ""))
	kubetest.DefaultAccount(t, dr.Cluster, "bank-dr")
	for _, obj := range makeEveryKind(t, primary) {
		name := fmt.Sprintf("%s %s", obj.GetKind(), obj.GetName())
		if err := rules.Apply(obj); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var first, second *unstructured.Unstructured
		harness.Eventually(t, limit, name+" is taken", func() error {
			client, err := dr.resource(obj)
			if err == nil {
				first, err = client.Apply(t.Context(), obj.GetName(), obj, metav1.ApplyOptions{FieldManager: "test"})
			}
			if apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err) {
				t.Errorf("%s is refused: %v", name, err)
				return nil
			}
			if err == nil {
				second, err = client.Apply(t.Context(), obj.GetName(), obj, metav1.ApplyOptions{FieldManager: "test"})
			}
			return err
		})
		if first != nil && second != nil && first.GetGeneration() != second.GetGeneration() {
			t.Errorf("%s is changed by the same again", name)
		}
		walk(obj.Object, func(value string) {
			if value == "bank" && obj.GetKind() != "ValidatingWebhookConfiguration" && obj.GetKind() != "MutatingWebhookConfiguration" {
				t.Errorf("%s still names the namespace", name)
			}
		})
	}
}

// walk calls f with every string of an object but its name and labels.
func walk(node any, f func(string)) {
	switch n := node.(type) {
	case map[string]any:
		for key, value := range n {
			if key != "labels" {
				walk(value, f)
			}
		}
	case []any:
		for _, value := range n {
			walk(value, f)
		}
	case string:
		f(n)
	}
}

// One of every kind goes all the way: the DR site's API server takes each, now or as a rehearsal of what is held back until a takeover, and
// has them all once they are released.
func TestEveryKindArrives(t *testing.T) {
	s := start(t, options{
		spec: `namespaces: [bank], keep: [{group: "*", resource: "*", name: kept}, {group: storage.k8s.io, resource: csidrivers, name: kept},
    {group: flowcontrol.apiserver.k8s.io, resource: "flowschemas", name: kept}, {group: flowcontrol.apiserver.k8s.io, resource: prioritylevelconfigurations, name: kept},
    {group: resource.k8s.io, resource: devicetaintrules, name: kept}]`,
		recovery: "namespaces: {bank: bank-dr}, storageClasses: {gold: silver}",
	})
	made := makeEveryKind(t, s.primary)
	s.applied("every kind")
	kubetest.DefaultAccount(t, s.dr.Cluster, "bank-dr")
	s.status("nothing is refused", func(st *group.Status) error {
		if len(st.Objects.Refused) > 0 {
			return fmt.Errorf("refused: %+v", st.Objects.Refused)
		}
		return nil
	})
	s.release()
	rules, problems := transform.Compile(transform.Rules{Namespaces: map[string]string{"bank": "bank-dr"}})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	for _, obj := range made {
		name := s.primary.resourceName(obj)
		if slices.Contains(ofTheSite, name) {
			continue
		}
		if err := rules.Apply(obj); err != nil {
			t.Fatal(err)
		}
		client, err := s.dr.resource(obj)
		if err == nil {
			_, err = client.Get(t.Context(), obj.GetName(), metav1.GetOptions{})
		}
		if err != nil {
			t.Errorf("%s %s: %v", name, obj.GetName(), err)
		}
	}
}
