package group

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/farshore/farshore/pkg/events"
)

const minimal = `
apiVersion: farshore.dev/v1alpha1
kind: ProtectionGroup
metadata: {name: shop}
spec:
  volumes:
  - {name: orders, uid: u1, capturer: a, path: /v/orders, listen: "unix:/run/orders"}
  - {name: ledger, uid: u2, capturer: b, path: /v/ledger, listen: "unix:/run/ledger", size: 1Gi}
`

func TestParseFillsDefaults(t *testing.T) {
	g, err := Parse([]byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.APIVersion, want.Kind, want.Metadata.Name = APIVersion, Kind, "shop"
	want.Spec.Volumes = []Volume{
		{Name: "orders", UID: "u1", Capturer: "a", Path: "/v/orders", Listen: "unix:/run/orders"},
		{Name: "ledger", UID: "u2", Capturer: "b", Path: "/v/ledger", Listen: "unix:/run/ledger", Size: 1 << 30},
	}
	if !reflect.DeepEqual(g, want) {
		t.Errorf("got  %+v\nwant %+v", g, want)
	}
	if v := g.VolumesOf("b"); len(v) != 1 || v[0].Name != "ledger" {
		t.Errorf("volumes of b: %+v", v)
	}
	if _, ok := g.Volume("nothing"); ok {
		t.Error("a volume that isn't there was found")
	}
}

func TestNoYAML(t *testing.T) {
	for _, doc := range []string{"a: [", "a: 1\na: 2\n", "- 1\n", "text"} {
		_, err := Parse([]byte(doc))
		var problems *ProblemsError
		if !errors.As(err, &problems) {
			t.Errorf("%q: got %v, want problems", doc, err)
		}
	}
}

// A field that could not be read must not be reported a second time for what it holds instead.
func TestOneProblemPerMistake(t *testing.T) {
	_, err := Parse([]byte(strings.Replace(minimal, "name: ledger, uid: u2", "name: {}, uid: 7", 1)))
	var problems *ProblemsError
	if !errors.As(err, &problems) || len(problems.Problems) != 2 {
		t.Fatalf("got %v, want two problems", err)
	}
}

func TestEnvironmentOverrides(t *testing.T) {
	env := map[string]string{
		"FARSHORE_PRIMARY_URL": "tls://p:1", "FARSHORE_PRIMARY_NKEY_SEED": "/p/seed", "FARSHORE_PRIMARY_CA": "/p/ca",
		"FARSHORE_PRIMARY_CERT": "/p/cert", "FARSHORE_PRIMARY_KEY": "/p/key",
		"FARSHORE_DR_URL": "tls://d:1", "FARSHORE_DR_NKEY_SEED": "/d/seed", "FARSHORE_DR_CA": "/d/ca",
		"FARSHORE_DR_CERT": "/d/cert", "FARSHORE_DR_KEY": "/d/key",
	}
	for name, value := range env {
		t.Setenv(name, value)
	}
	file := filepath.Join(t.TempDir(), "group.yaml")
	if err := os.WriteFile(file, []byte(minimal), 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	want := Sites{
		Primary: Site{URL: "tls://p:1", Domain: "primary", Credentials: Credentials{NKeySeed: "/p/seed", CA: "/p/ca", Cert: "/p/cert", Key: "/p/key"}},
		DR:      Site{URL: "tls://d:1", Domain: "dr", Credentials: Credentials{NKeySeed: "/d/seed", CA: "/d/ca", Cert: "/d/cert", Key: "/d/key"}},
	}
	if g.Spec.Sites != want {
		t.Errorf("got %+v, want %+v", g.Spec.Sites, want)
	}
	if len(EnvironVariables()) != len(env) {
		t.Errorf("variables: %v", EnvironVariables())
	}
	t.Setenv("FARSHORE_DR_URL", "nonsense")
	var problems *ProblemsError
	if _, err := Load(file); !errors.As(err, &problems) {
		t.Errorf("a bad override was taken: %v", err)
	}
	if _, err := Load(file + ".none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file gave %v", err)
	}
}

func TestByteSize(t *testing.T) {
	for text, want := range map[string]ByteSize{
		"0": 0, "1": 1, "4096": 4096, "4Ki": 4096, "256Ki": 256 << 10, "3Mi": 3 << 20, "8Gi": 8 << 30, "1Ti": 1 << 40, "8388607Ti": 8388607 << 40,
	} {
		got, err := ParseByteSize(text)
		if err != nil || got != want {
			t.Errorf("%s: got %d, %v; want %d", text, got, err, want)
		}
		if back, err := ParseByteSize(got.String()); err != nil || back != want {
			t.Errorf("%s: written %s, read back %d, %v", text, got, back, err)
		}
	}
	for _, text := range []string{"", "Ki", "1K", "1.5Gi", "-1", "1 Ki", "0x10", "8388608Ti", "99999999999999999999", "1_000"} {
		if got, err := ParseByteSize(text); err == nil {
			t.Errorf("%q was read as %d", text, got)
		}
	}
}

// A group that was read can be written and read again.
func TestRoundTrip(t *testing.T) {
	g, err := Parse([]byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(g)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(text)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if !reflect.DeepEqual(g, again) {
		t.Errorf("got  %+v\nwant %+v", again, g)
	}
}

func TestFrameBytesFitEvents(t *testing.T) {
	if maxFrameBytes != events.MaxContent || maxUID != events.MaxName {
		t.Errorf("bounds %d, %d differ from the events' %d, %d", maxFrameBytes, maxUID, events.MaxContent, events.MaxName)
	}
}

// Values that are not known are null, never 0, and keys are in camel case.
func TestStatusJSON(t *testing.T) {
	lag := 1.5
	s := Status{Group: "shop", Time: time.Unix(1, 0).UTC(), Lags: Lags{TransitLagSeconds: &lag}, Volumes: []VolumeStatus{{Name: "orders"}}}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"transitLagSeconds":1.5`, `"recoverableRPOSeconds":null`, `"recoveryPoint":null`, `"pass":null`, `"replayDebt":null`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	var back Status
	if err := json.Unmarshal(text, &back); err != nil || !reflect.DeepEqual(back, s) {
		t.Errorf("read back %+v, %v", back, err)
	}
}
