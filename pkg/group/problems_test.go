package group

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// edit is one change of the minimal document and the problems it must give.
type edit struct {
	name string
	old  string // replaced by new; empty: new is put behind the document
	new  string
	want []string
}

const ledger = `listen: "unix:/run/ledger", size: 1Gi}`

var edits = []edit{
	{"unknown fields at every level", "", "  journl: {}\n  capture: {linger: 3ms, lingr: 1}\nextra: 1\n", []string{
		"extra: unknown field; known here: apiVersion, kind, metadata, spec",
		"spec.capture.lingr: unknown field; known here: memory, frameBytes, linger, compression, seedRate, whenBusGone, hotRegions, scrubRate",
		"spec.journl: unknown field; known here: sites, volumes, objects, journal, capture, barriers, recovery",
	}},
	{"case matters", "name: shop", "Name: shop", []string{
		"metadata.Name: unknown field; known here: name",
		"metadata.name: is missing",
	}},
	{"wrong types", "", "  journal: {replicas: two, margin: [1], maxBytes: true}\n  sites: {primary: {url: 5}, dr: x}\n  recovery:\n  - 1\n", []string{
		"spec.journal.margin: must be a string or a whole number, is a list",
		"spec.journal.maxBytes: must be a string or a whole number, is a boolean",
		"spec.journal.replicas: must be a whole number, is a string",
		"spec.recovery: must be an object, is a list",
		"spec.sites.dr: must be an object, is a string",
		"spec.sites.primary.url: must be a string, is a number",
	}},
	{"bad values keep their paths", "", "  journal: {maxBytes: 5GB, margin: 5}\n  capture: {memory: 9999999Ti}\n", []string{
		`spec.capture.memory: "9999999Ti" is more than a size can be`,
		`spec.journal.margin: "5" is no duration; write a number with a unit, such as 500ms, 10s or 24h`,
		`spec.journal.maxBytes: "5GB" is no size; write bytes as a whole number, alone or with Ki, Mi, Gi or Ti`,
	}},
	{"out of range", "", "  journal: {maxBytes: 1Mi, margin: 59s, replicas: 6}\n" +
		"  capture: {memory: 1Mi, frameBytes: 512Ki, linger: 0s, compression: zip, seedRate: 1, whenBusGone: cry, hotRegions: 1, scrubRate: 7}\n" +
		"  barriers: {interval: 100us, holdLimit: 1m, voteTimeout: 1s}\n  recovery: {retention: 1s, directory: here, journal: {maxBytes: 1, alertAt: 101, whenFull: cry}}\n", []string{
		"spec.barriers.holdLimit: must be from 10ms to 10s, is 1m0s",
		"spec.barriers.interval: must be from 1ms to 1h0m0s, is 100µs",
		"spec.barriers.voteTimeout: must be at least holdLimit (1m0s), is 1s",
		`spec.capture.compression: must be s2 or none, is "zip"`,
		"spec.capture.frameBytes: must be from 4Ki to 256Ki, is 512Ki",
		"spec.capture.hotRegions: must be from 16 to 1048576, is 1",
		"spec.capture.linger: must be from 100µs to 1s, is 0s",
		"spec.capture.memory: must be from 64Mi to 1Ti, is 1Mi",
		"spec.capture.scrubRate: must be from 64Ki to 1Ti, is 7",
		"spec.capture.seedRate: must be from 64Ki to 1Ti, is 1",
		`spec.capture.whenBusGone: must be track or stall, is "cry"`,
		"spec.journal.margin: must be from 1m0s to 720h0m0s, is 59s",
		"spec.journal.maxBytes: must be from 64Mi to 1024Ti, is 1Mi",
		"spec.journal.replicas: must be from 1 to 5, is 6",
		`spec.recovery.directory: "here" must be an absolute path`,
		"spec.recovery.journal.alertAt: must be from 1 to 100, is 101",
		"spec.recovery.journal.maxBytes: must be from 64Mi to 1024Ti, is 1",
		`spec.recovery.journal.whenFull: must be keep-replicating or keep-history, is "cry"`,
		"spec.recovery.retention: must be from 1m0s to 87600h0m0s, is 1s",
	}},
	{"missing", minimal, "{}", []string{
		"apiVersion: is missing; write farshore.dev/v1alpha1",
		"kind: is missing; write ProtectionGroup",
		"metadata.name: is missing",
		"spec.volumes: is missing; a group protects at least one volume, or objects",
	}},
	{"nothing at all", minimal, "", []string{
		"apiVersion: is missing; write farshore.dev/v1alpha1",
		"kind: is missing; write ProtectionGroup",
		"metadata.name: is missing",
		"spec.volumes: is missing; a group protects at least one volume, or objects",
	}},
	{"a volume without fields", ledger, ledger + "\n  - {}", []string{
		"spec.volumes[2].capturer: is missing",
		"spec.volumes[2].listen: is missing; write unix:/path or tcp:host:port",
		"spec.volumes[2].name: is missing",
		"spec.volumes[2].path: is missing",
		"spec.volumes[2].uid: is missing; give the volume an identity that is never used again, such as the PV's handle or a UUID",
	}},
	{"another version", "v1alpha1", "v2", []string{`apiVersion: must be farshore.dev/v1alpha1, is "farshore.dev/v2"`}},
	{"duplicates", ledger, ledger + "\n  - {name: orders, uid: u2, capturer: a, path: /v/ledger, listen: \"unix:/run/orders\"}", []string{
		`spec.volumes[2].listen: "unix:/run/orders" is already used by spec.volumes[0].listen`,
		`spec.volumes[2].name: "orders" is already used by spec.volumes[0].name`,
		`spec.volumes[2].path: "/v/ledger" is already used by spec.volumes[1].path`,
		`spec.volumes[2].uid: "u2" is already used by spec.volumes[1].uid`,
	}},
	{"tcp without TLS", `"unix:/run/ledger"`, `"tcp::10809"`, []string{
		"spec.volumes[1].tls.cert: is missing; a volume is served over TCP only with mutual TLS",
		"spec.volumes[1].tls.clientCA: is missing; a volume is served over TCP only with mutual TLS",
		"spec.volumes[1].tls.key: is missing; a volume is served over TCP only with mutual TLS",
	}},
	{"unix with TLS", "size: 1Gi", "size: 1Gi, tls: {cert: /c}", []string{
		"spec.volumes[1].tls: is for tcp; a unix socket is protected by the permissions of its directory",
	}},
	{"bad addresses", `"unix:/run/ledger"`, `"udp:1"`, []string{`spec.volumes[1].listen: "udp:1" is no address; write unix:/path or tcp:host:port`}},
	{"relative socket", `"unix:/run/ledger"`, `"unix:run"`, []string{`spec.volumes[1].listen: "run" must be an absolute path`}},
	{"long socket", `"unix:/run/ledger"`, `"unix:/` + strings.Repeat("x", 107) + `"`, []string{"spec.volumes[1].listen: a socket's path has at most 107 bytes, this one has 108"}},
	{"odd size", "size: 1Gi", "size: 1000", []string{"spec.volumes[1].size: must be a multiple of 512 bytes, is 1000"}},
	{"negative size", "size: 1Gi", "size: -512", []string{`spec.volumes[1].size: "-512" is no size; write bytes as a whole number, alone or with Ki, Mi, Gi or Ti`}},
	{"reserved name", "name: ledger", "name: control", []string{`spec.volumes[1].name: "control" is the name of one of the group's own streams`}},
	{"name with a dot", "name: ledger", "name: led.ger", []string{`spec.volumes[1].name: "led.ger" is no name; use lower-case letters, digits and inner hyphens, at most 40`}},
	{"long name", "name: shop", "name: " + strings.Repeat("s", 41), []string{
		`metadata.name: "` + strings.Repeat("s", 41) + `" is no name; use lower-case letters, digits and inner hyphens, at most 40`,
	}},
	{"sites", "", "  sites:\n    primary: {url: \"http://x\", domain: d, embedded: /e, credentials: {cert: /c, ca: rel}}\n    dr: {domain: d}\n", []string{
		`spec.sites.dr.domain: must differ from the primary's, is "d" too`,
		`spec.sites.primary.credentials.ca: "rel" must be an absolute path`,
		"spec.sites.primary.credentials.key: is missing; cert needs it",
		"spec.sites.primary.embedded: must be empty where url is given: the one means a server of this process, the other a server elsewhere",
		`spec.sites.primary.url: "http://x" is no server address; write nats://host:port or tls://host:port`,
	}},
}

func TestProblems(t *testing.T) { findProblems(t, minimal, edits) }

func findProblems(t *testing.T, base string, edits []edit) {
	for _, tt := range edits {
		t.Run(tt.name, func(t *testing.T) {
			doc := base + tt.new
			if tt.old != "" {
				doc = strings.Replace(base, tt.old, tt.new, 1)
			}
			if doc == base {
				t.Fatal("the edit changes nothing")
			}
			_, err := Parse([]byte(doc))
			var problems *ProblemsError
			if !errors.As(err, &problems) {
				t.Fatalf("got %v, want problems", err)
			}
			var got []string
			for _, p := range problems.Problems {
				got = append(got, p.String())
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(tt.want, "\n  "))
			}
		})
	}
}
