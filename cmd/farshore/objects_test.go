package main

import (
	"bytes"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/internal/kube/kubetest"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/rebuild"
	"github.com/farshore/farshore/pkg/replay"
)

func TestMain(m *testing.M) { os.Exit(kubetest.Main(m)) }

// objectsDocument writes the document of a group with objects in the namespace bank.
func objectsDocument(t *testing.T, primary, dr string, more ...string) string {
	t.Helper()
	text, err := os.ReadFile(document(t, primary, dr))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "group.yaml")
	with := strings.Replace(string(text), "  recovery:", "  objects: {namespaces: [bank"+strings.Join(append([]string{""}, more...), ", ")+"]}\n  recovery:", 1)
	if err := os.WriteFile(path, []byte(with), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// state is a rebuild.State of JSON objects.
type state map[events.ObjectKey]string

func (s state) All() iter.Seq[rebuild.Entry] {
	return func(yield func(rebuild.Entry) bool) {
		for _, key := range slices.SortedFunc(maps.Keys(s), func(a, b events.ObjectKey) int {
			return strings.Compare(a.Resource+"/"+a.Name, b.Resource+"/"+b.Name)
		}) {
			if !yield(rebuild.Entry{Key: key, UID: "u-" + key.Name, Revision: "7"}) {
				return
			}
		}
	}
}

func (s state) Raw(key events.ObjectKey) ([]byte, error) { return []byte(s[key]), nil }
func (s state) Revision() string                         { return "4711" }
func (s state) Point() group.Point                       { return releasePoint() }

func key(apiGroup, resource, namespace, name string) events.ObjectKey {
	return events.ObjectKey{Group: apiGroup, Version: "v1", Resource: resource, Namespace: namespace, Name: name}
}

func sealedFor(t *testing.T, to age.Recipient, text string) string {
	t.Helper()
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to)
	if err == nil {
		if _, err = w.Write([]byte(text)); err == nil {
			err = w.Close()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// bank is an application with an encrypted Secret, and who opens it.
func bank(t *testing.T) (state, *age.X25519Identity) {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return state{
		key("", "namespaces", "", "bank"):           `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"bank"}}`,
		key("", "namespaces", "", "other"):          `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"other"}}`,
		key("", "configmaps", "bank", "limits"):     `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"limits","namespace":"bank","uid":"u-limits","resourceVersion":"7"},"data":{"allowed":"12"}}`,
		key("", "configmaps", "other", "elsewhere"): `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"elsewhere","namespace":"other"},"data":{}}`,
		key("", "secrets", "bank", "keys"): sealedFor(t, identity.Recipient(),
			`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"keys","namespace":"bank"},"data":{"pin":"MTIzNA=="}}`),
		key("apps", "deployments", "bank", "teller"): `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"teller","namespace":"bank"},` +
			`"spec":{"replicas":3,"selector":{"matchLabels":{"app":"teller"}},"template":{"metadata":{"labels":{"app":"teller"}},` +
			`"spec":{"containers":[{"name":"c","image":"registry.example/teller:1"}]}}}}`,
		key("rbac.authorization.k8s.io", "clusterroles", "", "bank:teller"): `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"bank:teller"},"rules":[]}`,
	}, identity
}

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			name, _ := filepath.Rel(dir, path)
			names = append(names, name)
			info, _ := e.Info()
			if info.Mode().Perm() != 0o600 {
				t.Errorf("%s can be read by others: %s", name, info.Mode())
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestManifests(t *testing.T) {
	objects, identity := bank(t)
	for _, c := range []struct {
		name    string
		do      objectReplay
		secret  bool
		content map[string]string
	}{
		{"raw", objectReplay{raw: true}, false, map[string]string{"bank/configmap-limits.yaml": "resourceVersion: \"7\""}},
		{"raw, opened", objectReplay{raw: true, identities: []age.Identity{identity}}, true, map[string]string{"bank/secret-keys.yaml": "pin: MTIzNA=="}},
		{"mapped", objectReplay{}, false, map[string]string{"bank/deployment-teller.yaml": "replicas: 3"}},
		{"mapped, opened", objectReplay{rules: rebuild.Rules{Identities: []age.Identity{identity}}}, true, map[string]string{"bank/secret-keys.yaml": "pin: MTIzNA=="}},
	} {
		dir := t.TempDir()
		var out replayed
		if err := c.do.run(t.Context(), dir, objects, &out); err != nil {
			t.Fatal(err)
		}
		want := []string{"_cluster/clusterrole-bank:teller.yaml", "_cluster/namespace-bank.yaml", "_cluster/namespace-other.yaml",
			"bank/configmap-limits.yaml", "bank/deployment-teller.yaml", "bank/secret-keys.yaml", "other/configmap-elsewhere.yaml"}
		without := out.Manifests.LeftOut
		if !c.secret {
			want = slices.Delete(want, 5, 6)
			if len(without) != 1 || without[0].Object.Name != "keys" || without[0].Reason != errNoIdentity.Error() {
				t.Errorf("%s: left out %+v", c.name, without)
			}
		} else if len(without) > 0 {
			t.Errorf("%s: left out %+v", c.name, without)
		}
		made := filepath.Join(dir, manifestsDir)
		if got := files(t, made); !slices.Equal(got, want) || out.Manifests.Count != len(want) || out.Manifests.Path != made {
			t.Errorf("%s: %+v, files %q", c.name, out.Manifests, got)
		}
		for name, text := range c.content {
			if content, err := os.ReadFile(filepath.Join(made, name)); err != nil || !strings.Contains(string(content), text) {
				t.Errorf("%s: %s: %v\n%s", c.name, name, err, content)
			}
		}
	}
}

// No name in the journal leads out of the directory, and none is lost to another.
func TestManifestNames(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "in", manifestsDir)
	long := strings.Repeat("x", 253)
	var all []rebuild.Manifest
	for _, r := range []rebuild.Ref{
		ref("a", "ConfigMap", "..", "../../../escaped"), ref("a", "ConfigMap", "ns", long+"1"), ref("a", "ConfigMap", "ns", long+"2"),
		{Group: "one.example", Kind: "Policy", Namespace: "ns", Name: "p"}, {Group: "two.example", Kind: "Policy", Namespace: "ns", Name: "p"},
	} {
		all = append(all, rebuild.Manifest{Object: r, Content: []byte("x")})
	}
	if err := writeManifests(dir, all); err != nil {
		t.Fatal(err)
	}
	got := files(t, filepath.Dir(filepath.Dir(dir)))
	for i, name := range got {
		got[i] = strings.TrimPrefix(name, filepath.Join("in", manifestsDir)+"/")
		if len(filepath.Base(name)) > 255 {
			t.Errorf("%s is too long", name)
		}
	}
	if len(got) != 5 || !slices.Contains(got, "_../configmap-.._.._.._escaped.yaml") || !slices.Contains(got, "ns/policy-p.yaml") ||
		!slices.Contains(got, "ns/policy.two.example-p.yaml") {
		t.Errorf("files %q", got)
	}
}

func TestReplayFormWithObjects(t *testing.T) {
	var text, js bytes.Buffer
	r := &replayed{
		Result: &replay.Result{Point: points()[1], Volumes: []replay.Volume{}, Objects: &replay.Replayed{Count: 14, Revision: "4711"}},
		Manifests: &manifestResult{
			Path: "/srv/r/manifests", Count: 13, LeftOut: []leftOut{{ref("secrets", "Secret", "bank", "keys"), errNoIdentity.Error()}},
		},
		Applied: &appliedResult{Namespaces: map[string]string{"bank": "bank-try"}, Refused: steps()[1:2]},
	}
	if err := r.print(&text); err != nil {
		t.Fatal(err)
	}
	golden(t, "replay_objects.txt", text.String())
	if err := printJSON(&js, r); err != nil {
		t.Fatal(err)
	}
	golden(t, "replay_objects.json", js.String())
}

func TestDiffForm(t *testing.T) {
	c := compared{Point: points()[1], Objects: 14, Differences: []rebuild.Difference{
		{Object: ref("configmaps", "ConfigMap", "bank", "limits"), Kind: rebuild.DiffChanged, Fields: []rebuild.FieldDiff{{Path: "data.allowed", Want: `"12"`, Have: `"11"`}}},
		{Object: ref("secrets", "Secret", "bank", "keys"), Kind: rebuild.DiffChanged, Fields: []rebuild.FieldDiff{{Path: "data.pin", Want: "(secret)", Have: "(secret)"}}},
		{Object: ref("configmaps", "ConfigMap", "bank", "rates"), Kind: rebuild.DiffMissing},
		{Object: ref("services", "Service", "bank", "teller"), Kind: rebuild.DiffForeign, Reason: "was not made by Farshore"},
		{Object: ref("configmaps", "ConfigMap", "bank", "old"), Kind: rebuild.DiffExtra},
		{Object: ref("secrets", "Secret", "bank", "shut"), Kind: rebuild.DiffBroken, Reason: "is encrypted"},
		{Object: ref("pods", "Pod", "bank", "one"), Kind: rebuild.DiffBack},
	}}
	c.count()
	if c.Equal || c.HeldBack != 1 {
		t.Errorf("got %+v", c)
	}
	var text, js bytes.Buffer
	if err := c.print(&text); err != nil {
		t.Fatal(err)
	}
	golden(t, "diff.txt", text.String())
	if err := printJSON(&js, c); err != nil {
		t.Fatal(err)
	}
	golden(t, "diff.json", js.String())

	earlier := slices.Clone(c.Differences[:3])
	earlier[0].Fields = []rebuild.FieldDiff{{Path: "data.allowed", Want: `"11"`, Have: `"10"`}} // is followed
	earlier[1].Fields = nil
	c.keep(earlier) // missing is the only one that the look before found just so
	if len(c.Differences) != 2 || c.Differences[0].Kind != rebuild.DiffMissing || c.Differences[1].Kind != rebuild.DiffBack || c.Equal {
		t.Errorf("kept %+v", c.Differences)
	}
	c.keep(nil)
	if !c.Equal || c.HeldBack != 1 {
		t.Errorf("only what is held back is left, got %+v", c)
	}
}

func TestListForm(t *testing.T) {
	var text bytes.Buffer
	l := objectList{Point: points()[1], Objects: []listedObject{
		{Version: "v1", Resource: "configmaps", Namespace: "bank", Name: "limits", Revision: "812"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles", Name: "bank:teller"},
	}}
	if err := l.print(&text); err != nil {
		t.Fatal(err)
	}
	golden(t, "list.txt", text.String())
}

func TestObjectMistakes(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	plain, g, two := document(t, nowhere, nowhere), objectsDocument(t, nowhere, nowhere), objectsDocument(t, nowhere, nowhere, "shop")
	replay := func(g string, args ...string) []string {
		return append([]string{"replay", "--group", g, "--to", "latest", "--into", "/x"}, args...)
	}
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"objects":                 {[]string{"objects", "what"}, `unknown command "what"`},
		"list of none":            {[]string{"objects", "list", "--group", plain}, "has no spec.objects"},
		"diff of none":            {[]string{"objects", "diff", "--group", plain}, "has no spec.objects"},
		"diff without a server":   {[]string{"objects", "diff", "--group", g}, "--kubeconfig"},
		"diff, no such file":      {[]string{"objects", "diff", "--group", g, "--kubeconfig", "/nonexistent"}, "/nonexistent"},
		"replay objects of none":  {replay(plain, "--objects-only"), "has no spec.objects"},
		"into of none":            {replay(plain, "--into-namespace", "a"), "has no spec.objects"},
		"live alone":              {replay(g, "--live"), "--into-namespace"},
		"raw and into":            {replay(g, "--raw", "--into-namespace", "a"), "one of the two"},
		"into without a server":   {replay(g, "--into-namespace", "a"), "--kubeconfig"},
		"into, which":             {replay(two, "--into-namespace", "a"), "FROM=TO"},
		"into, unknown":           {replay(two, "--into-namespace", "x=a"), `no namespace "x"`},
		"into, no name":           {replay(g, "--into-namespace", "A_"), `"A_" is no name`},
		"identity, no such file":  {replay(g, "--identity", "/nonexistent"), "/nonexistent"},
		"identity, not one":       {replay(g, "--identity", g), "it holds none"},
		"release of none":         {[]string{"release", "--group", plain, "--yes"}, "has no spec.objects"},
		"release, no such output": {[]string{"release", "--group", g, "-o", "xml"}, "one of text and json"},
	} {
		_, errs, code := invoke(t, c.args...)
		if code != daemon.ExitUsage || !strings.Contains(errs, c.says) {
			t.Errorf("%s: exit code %d: %s", name, code, errs)
		}
	}
}

func TestCopyName(t *testing.T) {
	if got := copyName("bank", map[string]string{"b": "y", "a": "x"}); got != "bank.x.y" {
		t.Errorf("got %q", got)
	}
	long := strings.Repeat("n", 63)
	a, b := copyName("bank", map[string]string{"a": long}), copyName("bank", map[string]string{"a": long[1:] + "m"})
	if len(a) > 63 || a == b {
		t.Errorf("got %q and %q", a, b)
	}
}

// A replay into another namespace of a real API server stands beside what is there, and does nothing unless it is asked to.
func TestReplayIntoANamespace(t *testing.T) {
	server := kubetest.Shared(t)
	objects, identity := bank(t)
	client := kubetest.Client(t, server)
	beside := kubetest.Namespace(t, server, "bank")
	g, err := group.Load(objectsDocument(t, nowhere, nowhere, "other"))
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "age.key")
	if err := os.WriteFile(key, []byte(identity.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, live := range []bool{false, true} {
		o := objectOptions{live: live, identities: []string{key}, namespaces: []string{"bank=" + beside}}
		o.cluster.Kubeconfig = server.Kubeconfig
		do, err := o.objects(g)
		if err != nil {
			t.Fatal(err)
		}
		var out replayed
		if err := do.run(t.Context(), t.TempDir(), objects, &out); err != nil {
			t.Fatal(err)
		}
		if out.Applied.Live != live || len(out.Applied.Refused) > 0 || !slices.Contains(files(t, out.Manifests.Path), beside+"/secret-keys.yaml") {
			t.Errorf("live %v: %+v", live, out.Applied)
		}
		deployment, err := client.AppsV1().Deployments(beside).Get(t.Context(), "teller", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want := int32(0)
		if live {
			want = 3
		}
		if *deployment.Spec.Replicas != want || deployment.Labels[rebuild.LabelGroup] != "shop."+beside {
			t.Errorf("live %v: %d replicas, labels %v", live, *deployment.Spec.Replicas, deployment.Labels)
		}
		secret, err := client.CoreV1().Secrets(beside).Get(t.Context(), "keys", metav1.GetOptions{})
		if err != nil || string(secret.Data["pin"]) != "1234" {
			t.Errorf("live %v: %v", live, err)
		}
	}
	o := objectOptions{namespaces: []string{"bank=" + beside}} // without the key
	o.cluster.Kubeconfig = server.Kubeconfig
	do, err := o.objects(g)
	if err != nil {
		t.Fatal(err)
	}
	var out replayed
	if err := do.run(t.Context(), t.TempDir(), objects, &out); err != nil || len(out.Applied.Refused) > 0 || len(out.Manifests.LeftOut) != 1 {
		t.Errorf("without the key: %v, %+v, %+v", err, out.Applied, out.Manifests)
	}
	for _, name := range []string{"other", "bank"} {
		if _, err := client.CoreV1().Namespaces().Get(t.Context(), name, metav1.GetOptions{}); err == nil {
			t.Errorf("namespace %s was made", name)
		}
	}
	if _, err := client.RbacV1().ClusterRoles().Get(t.Context(), "bank:teller", metav1.GetOptions{}); err == nil {
		t.Error("an object without a namespace was made")
	}
}
