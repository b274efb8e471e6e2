package group

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

const archived = minimal + "  recovery: {archive: {}}\n"

func TestArchiveDefaults(t *testing.T) {
	g, err := Parse([]byte(archived))
	if err != nil {
		t.Fatal(err)
	}
	want := &Archive{
		Every: Duration(time.Hour), Labeled: true, Prune: Duration(24 * time.Hour),
		Keep: Keep{Hourly: 24, Daily: 7, Weekly: 5, Monthly: 12, Labels: []string{"*"}},
	}
	if got := g.Spec.Recovery.Archive; !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := g.ArchiveDirectory(); got != "/var/lib/farshore/archive" {
		t.Errorf("the archive is in %q", got)
	}
	for doc, want := range map[string]string{
		minimal: "",
		strings.Replace(archived, "archive: {}", "archive: {directory: /mnt/archive}", 1):                      "/mnt/archive",
		strings.Replace(archived, "archive: {}", "archive: {s3: {endpoint: \"minio:9000\", bucket: dr-1}}", 1): "",
	} {
		g, err := Parse([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		if got := g.ArchiveDirectory(); got != want {
			t.Errorf("the archive is in %q, want %q", got, want)
		}
	}
	some, err := Parse([]byte(strings.Replace(archived, "archive: {}", "archive: {labeled: false, keep: {hourly: 2, labels: []}}", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if k := some.Spec.Recovery.Archive.Keep; k.Hourly != 2 || k.Daily != 7 || len(k.Labels) != 0 || some.Spec.Recovery.Archive.Labeled {
		t.Errorf("what the document doesn't say is not the default: %+v", k)
	}
}

var archiveEdits = []edit{
	{"an archive for nothing", "archive: {}", "archive: {every: 0, labeled: false}", []string{
		"spec.recovery.archive.every: is 0 and labeled is false: nothing would ever be archived; remove archive to have none",
	}},
	{"archive out of range", "archive: {}", "archive: {every: 1ms, prune: 1s, keep: {last: -1, hourly: 2000000, within: -1s, labels: [\"[\", \"\", a, a]}}", []string{
		"spec.recovery.archive.every: must be from 1s to 8784h0m0s, is 1ms",
		"spec.recovery.archive.keep.hourly: must be from 0 to 1000000, is 2000000",
		`spec.recovery.archive.keep.labels[0]: "[" is no pattern of labels; * stands for any text, ? for a character, [a-z] for one of those`,
		`spec.recovery.archive.keep.labels[1]: is missing; write a label, or a pattern such as release-*; "*" is every label`,
		`spec.recovery.archive.keep.labels[3]: "a" is already given by spec.recovery.archive.keep.labels[2]`,
		"spec.recovery.archive.keep.last: must be from 0 to 1000000, is -1",
		"spec.recovery.archive.keep.within: must be from 0s to 878400h0m0s, is -1s",
		"spec.recovery.archive.prune: must be from 1m0s to 8784h0m0s, is 1s",
	}},
	{"two places", "archive: {}", "archive: {directory: here, s3: {endpoint: \"https://s3.example\", bucket: A, prefix: /x, caFile: ca, insecure: true, credentials: keys}}", []string{
		"spec.recovery.archive.directory: must be empty where s3 is given: an archive is in the one or in the other",
		"spec.recovery.archive.s3.bucket: \"A\" is no bucket; its name has 3 to 63 lower-case letters, digits, dots and inner hyphens",
		"spec.recovery.archive.s3.caFile: \"ca\" must be an absolute path",
		"spec.recovery.archive.s3.caFile: must be empty where insecure is true: plain HTTP has no certificates",
		"spec.recovery.archive.s3.credentials: \"keys\" must be an absolute path",
		"spec.recovery.archive.s3.endpoint: \"https://s3.example\" is no server; write host or host:port, without https:// (insecure says which of both it is)",
		"spec.recovery.archive.s3.prefix: \"/x\" is no prefix; write names separated by single slashes, as in dr/archive",
	}},
	{"an empty bucket", "archive: {}", "archive: {s3: {}}", []string{
		"spec.recovery.archive.s3.bucket: is missing",
		"spec.recovery.archive.s3.endpoint: is missing; write the server as host or host:port",
	}},
	{"a relative directory", "archive: {}", "archive: {directory: here}", []string{`spec.recovery.archive.directory: "here" must be an absolute path`}},
	{"among the replicas", "archive: {}", "archive: {directory: /var/lib/farshore}", []string{
		`spec.recovery.archive.directory: "/var/lib/farshore" would mix the archive with the replicas in /var/lib/farshore/shop; give it a directory of its own, best on other disks`,
	}},
	{"inside of the replicas", "archive: {}", "archive: {directory: /var/lib/farshore/shop/x}", []string{
		`spec.recovery.archive.directory: "/var/lib/farshore/shop/x" would mix the archive with the replicas in /var/lib/farshore/shop; give it a directory of its own, best on other disks`,
	}},
	{"keys alone", "archive: {}", "archive: {recipients: [age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p]}", []string{
		"spec.recovery.archive.identities: is missing; recipients needs it",
	}},
	{"an identity alone", "archive: {}", "archive: {identities: keys}", []string{
		`spec.recovery.archive.identities: "keys" must be an absolute path`,
		"spec.recovery.archive.recipients: is missing; identities needs it",
	}},
}

func TestArchiveProblems(t *testing.T) { findProblems(t, archived, archiveEdits) }
