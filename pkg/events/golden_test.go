package events

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files anew; only for a format version that no release has written")

type sample struct {
	name   string
	header Header
	event  Event
}

func mustHex(s string) []byte {
	p, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return p
}

// samples are the events whose bytes are kept: each kind with all fields set, and the forms that differ.
func samples() []sample {
	h := Header{
		Epoch: 3,
		Time:  time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC),
		Trace: mustHex("0af7651916cd43dd8448eb211c80319cb7ad6b716920333101"),
	}
	plain := Header{Epoch: 1, Time: time.Unix(0, 0).UTC()}
	token := Token{Epoch: 5, Barrier: 70000}
	hash := [32]byte(mustHex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"))
	commit := &Commit{
		Token: token, Type: Labeled, Label: "before-upgrade", Time: h.Time.Add(time.Microsecond), Roster: 9,
		Vector:   []VectorEntry{{"accounts", Position{1, 41}}, {"ledger", Position{2, 1 << 33}}},
		Hooks:    []HookResult{{"freeze", "", 5 * time.Millisecond}, {"thaw", "exit status 1", time.Second}},
		Revision: "81734", Objects: &Position{1, 12}, Hold: 1500 * time.Microsecond,
	}
	return []sample{
		{"epoch", h, &Epoch{Writer: "capturer-a/1c9f", UID: "csi-7f3a", Size: 1 << 30, BlockSize: 4096, Base: &Base{2, 512, 88}}},
		{"epoch-control", plain, &Epoch{Writer: "snapshotter/77"}},
		{"frame", h, &Frame{
			Ops:    []Op{{OpWrite, 4096, 5}, {OpZero, 1 << 20, 1 << 32}, {OpWrite, 0, 3}, {OpTrim, 1 << 41, 4096}},
			Length: 8, CRC: 0xc62c717e, Payload: []byte("helloabc"),
		}},
		{"frame-s2", h, &Frame{
			Ops: []Op{{OpWrite, 8192, 64}}, Length: 64, CRC: 0xdbc7ef63, Compression: S2, Payload: mustHex("400078fa0100"),
		}},
		{"frame-no-content", plain, &Frame{Ops: []Op{{OpTrim, 0, 1 << 40}}}},
		{"mark", h, &Mark{Token: token, Hold: 1234567, Revision: "81734"}},
		{"region-hash", h, &RegionHash{Offset: 1 << 30, Length: MaxContent, Hash: hash}},
		{"pass-done", h, &PassDone{Pass: PassSeed, Regions: 4096, Bytes: 1 << 29}},
		{"resize", h, &Resize{Old: 1 << 30, New: 1 << 31}},
		{"heartbeat", h, &Heartbeat{DebtBytes: 65536, DebtAge: 250 * time.Millisecond, Progress: Progress{PassResync, 1 << 20, 1 << 30}}},
		{"heartbeat-control", plain, &Heartbeat{Missing: []string{"accounts", "ledger"}}},
		{"object", h, &Object{
			Verb: Upsert, Key: ObjectKey{"apps", "v1", "deployments", "shop", "web"}, UID: "0b5e", Revision: "81733",
			Part: 1, Parts: 2, Raw: []byte(`"spec":{}}`),
		}},
		{"object-delete", plain, &Object{Verb: Delete, Key: ObjectKey{"", "v1", "namespaces", "", "shop"}, UID: "77", Revision: "9", Parts: 1}},
		{"listed", h, &Listed{
			Group: "apps", Version: "v1", Resource: "deployments", Revision: "81734", Parts: 1,
			Objects: []ListedObject{{"shop", "web", "0b5e"}, {"shop", "worker", "0b5f"}},
		}},
		{"member", h, &Member{Volume: "ledger", UID: "csi-7f3b", State: Joining, Roster: 8, Stream: Position{2, 0}, Comment: "added by the document"}},
		{"commit", h, commit},
		{"commit-crash", plain, &Commit{
			Token: Token{1, 1}, Type: Crash, Time: plain.Time, Roster: 1, Vector: []VectorEntry{{"ledger", Position{1, 2}}},
		}},
		{"hooks-open", h, &HooksOpen{Token: token, Hooks: []string{"freeze", "thaw"}}},
		{"hooks-end", h, &HooksOpen{Token: token, End: true}},
	}
}

func mustAppend(t testing.TB, h Header, e Event) []byte {
	t.Helper()
	msg, err := Append(nil, h, e)
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func goldenPath(name string) string { return filepath.Join("testdata", "v1", name+".hex") }

func readGolden(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(goldenPath(name))
	if err != nil {
		t.Fatalf("%v (run with -update)", err)
	}
	msg, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func writeGolden(t *testing.T, name string, msg []byte) {
	t.Helper()
	var text bytes.Buffer
	for len(msg) > 0 {
		n := min(32, len(msg))
		text.WriteString(hex.EncodeToString(msg[:n]) + "\n")
		msg = msg[n:]
	}
	if err := os.MkdirAll(filepath.Dir(goldenPath(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(goldenPath(name), text.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestGolden holds version 1 still: what is written today is what was written by the first release, and what
// that one wrote is read as it was meant.
func TestGolden(t *testing.T) {
	kinds := map[Kind]bool{}
	for _, s := range samples() {
		kinds[s.event.Kind()] = true
		t.Run(s.name, func(t *testing.T) {
			msg := mustAppend(t, s.header, s.event)
			if *update {
				writeGolden(t, s.name, msg)
			}
			want := readGolden(t, s.name)
			if !bytes.Equal(msg, want) {
				t.Errorf("encoded\n%x\nwant\n%x", msg, want)
			}
			h, e, err := Decode("FS_shop_ledger_g1", 1, want)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(h, s.header) || !reflect.DeepEqual(e, s.event) {
				t.Errorf("decoded\n%+v %+v\nwant\n%+v %+v", h, e, s.header, s.event)
			}
			h, k, err := DecodeHeader("FS_shop_ledger_g1", 1, want)
			if err != nil || k != s.event.Kind() || !reflect.DeepEqual(h, s.header) {
				t.Errorf("header %+v, kind %s, error %v", h, k, err)
			}
			if f, ok := e.(*Frame); ok {
				if _, err := f.Content(nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for k := KindEpoch; k <= KindHooksOpen; k++ {
		if !kinds[k] {
			t.Errorf("no sample of %s", k)
		}
	}
}

// TestGoldenFilesBelongToSamples finds files whose sample was renamed or removed.
func TestGoldenFilesBelongToSamples(t *testing.T) {
	want := map[string]bool{}
	for _, s := range samples() {
		want[goldenPath(s.name)] = true
	}
	files, err := filepath.Glob(goldenPath("*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !want[f] {
			t.Errorf("%s has no sample", f)
		}
	}
}
