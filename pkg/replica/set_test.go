package replica_test

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

func sameFiles(t *testing.T, set *replica.Set, want map[string][]byte) {
	t.Helper()
	for volume, content := range want {
		got, err := os.ReadFile(set.Path(volume))
		if err != nil {
			t.Fatal(err)
		}
		if len(got) > len(content) {
			got = got[:len(content)]
		}
		if !bytes.Equal(got, content) {
			t.Fatalf("volume %s differs at barrier %d", volume, set.Checkpoint().Commit.Barrier)
		}
	}
}

// Every commit, one after the other or passing over some, in files, with content kept and read again.
func TestAdvanceFiles(t *testing.T) {
	h, src := journey(t, pickSeed(t))
	for name, memory := range map[string]int64{"kept": 64 << 20, "read again": 1} {
		for _, stride := range []int{1, 2, 5} {
			set, err := replica.Open(t.TempDir(), replica.Options{Group: "g", Memory: memory})
			if err != nil {
				t.Fatal(err)
			}
			for i := stride - 1; i < len(h.Commits); i += stride {
				if err := set.Advance(t.Context(), src, h.Commits[i]); err != nil {
					t.Fatalf("%s, by %d: %v", name, stride, err)
				}
				sameFiles(t, set, h.States[i])
			}
			last := h.Commits[len(h.Commits)-1]
			if err := set.Advance(t.Context(), src, last); err != nil {
				t.Fatal(err)
			}
			for volume, content := range h.State(last.Token.Barrier) {
				// Another volume took the place of b, which was larger: nothing of that is left.
				if info, err := os.Stat(set.Path(volume)); err != nil || info.Size() != int64(len(content)) {
					t.Errorf("volume %s: %v, %v, want %d bytes", volume, info.Size(), err, len(content))
				}
			}
			if err := set.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What is kept between prepare and apply is not read twice.
func TestKeptContentIsReadOnce(t *testing.T) {
	h, src := journey(t, pickSeed(t))
	m := replicatest.NewMachine(1)
	set, err := replica.Open(setDir, replica.Options{Group: "g", FS: m, OpenTarget: m.OpenTarget})
	if err != nil {
		t.Fatal(err)
	}
	last := h.Commits[4]
	if err := set.Advance(t.Context(), src, last); err != nil {
		t.Fatal(err)
	}
	want := 0
	for _, e := range last.Vector {
		want += int(e.Position.Seq)
	}
	if src.Reads() != want {
		t.Errorf("%d messages were read for %d", src.Reads(), want)
	}
}

// [I] What doesn't continue the volume's history is refused, by stream and sequence, and nothing is written.
func TestForeignEventsAreRefused(t *testing.T) {
	next := events.Token{Epoch: 1, Barrier: 2}
	for name, tt := range map[string]struct {
		epoch uint64
		event events.Event
	}{
		"another writer's event":      {9, &events.Heartbeat{}},
		"an epoch that doesn't rise":  {1, &events.Epoch{Writer: "w", UID: "uid-v", Size: 64 << 10, BlockSize: 512}},
		"another volume":              {2, &events.Epoch{Writer: "w", UID: "uid-other", Size: 64 << 10, BlockSize: 512}},
		"a volume that shrank":        {2, &events.Epoch{Writer: "w", UID: "uid-v", Size: 32 << 10, BlockSize: 512}},
		"a resize of another size":    {1, &events.Resize{Old: 1 << 20, New: 2 << 20}},
		"a frame beyond the end":      {1, frameAt(t, 64<<10)},
		"a frame at the end of int64": {1, frameAt(t, math.MaxInt64-512)},
		"a hash beyond the end":       {1, &events.RegionHash{Offset: 64 << 10, Length: 512}},
		"a control event":             {1, &events.HooksOpen{Token: next}},
	} {
		t.Run(name, func(t *testing.T) {
			h, src := replicatest.MemoryHistory("g", 1)
			if err := h.Add("v", 64<<10, false); err != nil {
				t.Fatal(err)
			}
			h.Join("v")
			first, err := h.Commit("")
			if err != nil {
				t.Fatal(err)
			}
			m := replicatest.NewMachine(1)
			set, err := openSet(m)
			if err != nil {
				t.Fatal(err)
			}
			if err := set.Advance(t.Context(), src, first); err != nil {
				t.Fatal(err)
			}
			bad, err := src.Append(h.ID("v"), events.Header{Epoch: tt.epoch, Time: first.Time}, tt.event)
			if err != nil {
				t.Fatal(err)
			}
			second, err := h.Commit("")
			if err != nil {
				t.Fatal(err)
			}
			err = set.Advance(t.Context(), src, second)
			if stream, seq, ok := replica.Damage(err); !ok || stream != src.Name(h.ID("v")) || seq != bad {
				t.Fatalf("got %v, want damage at %d of %s", err, bad, src.Name(h.ID("v")))
			}
			if cp := set.Checkpoint(); cp.Commit.Barrier != 1 || cp.Applying != nil {
				t.Errorf("the checkpoint is %+v", cp)
			}
		})
	}
}

func frameAt(t *testing.T, off int64) events.Event {
	t.Helper()
	f, err := events.NewFrame([]events.Op{{Kind: events.OpWrite, Offset: off, Length: 512}}, make([]byte, 512), events.Uncompressed)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// A commit whose vector names anything but this barrier's mark is refused.
func TestVectorMustNameItsMark(t *testing.T) {
	h, src := journey(t, 1)
	m := replicatest.NewMachine(1)
	set, err := openSet(m)
	if err != nil {
		t.Fatal(err)
	}
	c := *h.Commits[0]
	c.Vector = append([]events.VectorEntry(nil), c.Vector...)
	c.Vector[0].Position.Seq--
	if err := set.Advance(t.Context(), src, &c); err == nil || !strings.Contains(err.Error(), "mark") {
		t.Errorf("advanced to an event that is no mark: %v", err)
	}
	c = *h.Commits[0]
	c.Token.Barrier = 77
	if err := set.Advance(t.Context(), src, &c); err == nil || !strings.Contains(err.Error(), "mark") {
		t.Errorf("advanced to another barrier's mark: %v", err)
	}
	c = *h.Commits[0]
	c.Vector = append(c.Vector, c.Vector[0])
	if err := set.Advance(t.Context(), src, &c); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("advanced to a volume that is named twice: %v", err)
	}
}

// A stream that continues a base which isn't here, or another volume, never becomes a replica.
func TestFirstEpochIsChecked(t *testing.T) {
	for name, e := range map[string]*events.Epoch{
		"base":        {Writer: "w", UID: "uid-v", Size: 4096, BlockSize: 512, Base: &events.Base{Generation: 1, Seq: 5, Barrier: 2}},
		"another UID": {Writer: "w", UID: "uid-x", Size: 4096, BlockSize: 512},
	} {
		src := replicatest.NewMemory()
		id := journal.StreamID{Group: "g", Part: "v", Generation: 1}
		for _, event := range []events.Event{e, &events.PassDone{Pass: events.PassSeed}} {
			if _, err := src.Append(id, events.Header{Epoch: 1, Time: time.Unix(1, 0)}, event); err != nil {
				t.Fatal(err)
			}
		}
		m := replicatest.NewMachine(1)
		set, err := replica.Open(setDir, replica.Options{Group: "g", FS: m, OpenTarget: m.OpenTarget, UIDs: map[string]string{"v": "uid-v"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := set.Seed(t.Context(), src, "v", 1); err == nil {
			t.Errorf("%s: seeded", name)
		}
	}
}

// [I] A generation is followed only from exactly the place that it names: generation, sequence and barrier.
func TestForeignBaseIsRefused(t *testing.T) {
	for name, change := range map[string]func(*events.Base){
		"another barrier":          func(b *events.Base) { b.Barrier++ },
		"an earlier sequence":      func(b *events.Base) { b.Seq-- },
		"a later sequence":         func(b *events.Base) { b.Seq++ },
		"its own generation":       func(b *events.Base) { b.Generation = 2 },
		"nothing wrong, otherwise": func(*events.Base) {},
	} {
		t.Run(name, func(t *testing.T) {
			h, src := replicatest.MemoryHistory("g", 1)
			if err := errors.Join(h.Add("v", 64<<10, false), h.Frame("v", 4)); err != nil {
				t.Fatal(err)
			}
			h.Join("v")
			first, _ := h.Commit("")
			if err := h.Frame("v", 4); err != nil {
				t.Fatal(err)
			}
			h.Renewed("v")
			epoch := h.Epoch("v")
			epoch.Base = replicatest.BaseAt("v", first)
			change(epoch.Base)
			if _, err := h.Sink("v", epoch); err != nil {
				t.Fatal(err)
			}
			if err := h.Resend("v", first); err != nil {
				t.Fatal(err)
			}
			second, _ := h.Commit("")
			m := replicatest.NewMachine(1)
			set, err := openSet(m)
			if err != nil {
				t.Fatal(err)
			}
			if err := set.Advance(t.Context(), src, first); err != nil {
				t.Fatal(err)
			}
			err = set.Advance(t.Context(), src, second)
			if name == "nothing wrong, otherwise" {
				if err != nil {
					t.Fatal(err)
				}
				same(t, m, h, set.Checkpoint())
				return
			}
			if err == nil {
				t.Fatal("the set went on")
			}
			if cp := set.Checkpoint(); cp.Commit.Barrier != 1 || cp.Applying != nil {
				t.Errorf("the checkpoint is %+v", cp)
			}
			same(t, m, h, set.Checkpoint())
		})
	}
}

// Regions are compared at their position in the stream, except where a redo finds later content.
func TestRegionHashes(t *testing.T) {
	h, src := replicatest.MemoryHistory("g", 3)
	if err := errors.Join(h.Add("v", 64<<10, false), h.Write("v", 0, []byte("one")), h.Hash("v", 0, 4096)); err != nil {
		t.Fatal(err)
	}
	h.Join("v")
	first, _ := h.Commit("")
	if err := errors.Join(h.Write("v", 0, []byte("two")), h.Hash("v", 0, 4096), h.Write("v", 0, []byte("six"))); err != nil {
		t.Fatal(err)
	}
	second, _ := h.Commit("")
	if err := h.Write("v", 4096, []byte("x")); err != nil {
		t.Fatal(err)
	}
	h.Content("v")[5000] = 1 // the source holds what the journal never told
	if err := h.Hash("v", 4096, 4096); err != nil {
		t.Fatal(err)
	}
	h.Content("v")[5000] = 0
	third, _ := h.Commit("")
	mismatches := 0
	m := replicatest.NewMachine(1)
	o := replica.Options{Group: "g", FS: m, OpenTarget: m.OpenTarget, Hooks: replica.Hooks{
		Mismatch: func(volume string, at events.Position, region replica.Extent) {
			if at.Generation != 1 || at.Seq == 0 {
				t.Errorf("the hash is at %+v", at)
			}
			if volume != "v" || region.Offset != 4096 {
				t.Errorf("volume %s differs at %+v", volume, region)
			}
			mismatches++
		},
	}}
	set, err := replica.Open(setDir, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := set.Advance(t.Context(), src, first); err != nil {
		t.Fatal(err)
	}
	steps := m.Steps()
	m.At(10, replicatest.Fault{Err: syscall.EIO}) // the sync behind the writes: all of them are there
	if err := set.Advance(t.Context(), src, second); err == nil {
		t.Fatalf("the fault did not happen, %d steps before: %v", steps, m.Last())
	}
	if err := set.Advance(t.Context(), src, second); err != nil {
		t.Fatal(err)
	}
	if mismatches != 0 {
		t.Errorf("%d regions differ before the one that does", mismatches)
	}
	if err := set.Advance(t.Context(), src, third); err != nil {
		t.Fatal(err)
	}
	if mismatches != 1 {
		t.Errorf("%d mismatches, want 1", mismatches)
	}
}

// [I] One process works on a set; a checkpoint, its replicas and its group belong together.
func TestSetsAreNotMixedUp(t *testing.T) {
	h, src := journey(t, 5)
	dir := t.TempDir()
	set, err := replica.Open(dir, replica.Options{Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	if err := set.Advance(t.Context(), src, h.Commits[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := replica.Open(dir, replica.Options{Group: "g"}); !errors.Is(err, replica.ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	if err := set.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := replica.Open(dir, replica.Options{Group: "other"}); !errors.Is(err, replica.ErrForeign) {
		t.Errorf("opened for another group: %v", err)
	}
	if _, err := replica.Open(dir, replica.Options{Group: "g", Devices: map[string]string{"a": "/dev/x"}}); !errors.Is(err, replica.ErrForeign) {
		t.Errorf("opened with a replica elsewhere: %v", err)
	}
	advance := func(dir string) error {
		set, err := replica.Open(dir, replica.Options{Group: "g"})
		if err != nil {
			return err
		}
		return errors.Join(set.Advance(t.Context(), src, h.Commits[1]), set.Close())
	}
	// A checkpoint that was lost: the replicas are not taken for blank ones.
	saved, err := os.ReadFile(filepath.Join(dir, replica.CheckpointFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, replica.CheckpointFile)); err != nil {
		t.Fatal(err)
	}
	if err := advance(dir); !errors.Is(err, replica.ErrForeign) {
		t.Errorf("advanced replicas whose checkpoint was lost: %v", err)
	}
	// A checkpoint that was damaged.
	if err := os.WriteFile(filepath.Join(dir, replica.CheckpointFile), bytes.Replace(saved, []byte(`"barrier":1`), []byte(`"barrier":2`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := advance(dir); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("read a damaged checkpoint: %v", err)
	}
	// A checkpoint without its replicas.
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, replica.CheckpointFile), saved, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := advance(other); !errors.Is(err, replica.ErrForeign) {
		t.Errorf("advanced a checkpoint without replicas: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, replica.CheckpointFile), saved, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := advance(dir); err != nil {
		t.Errorf("with everything in place: %v", err)
	}
}

// A copy of a set goes on as the set itself would.
func TestClone(t *testing.T) {
	h, src := journey(t, 6)
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	set, err := replica.Open(from, replica.Options{Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	if err := set.Advance(t.Context(), src, h.Commits[1]); err != nil {
		t.Fatal(err)
	}
	if _, err := replica.Hold(from); !errors.Is(err, replica.ErrLocked) {
		t.Errorf("held while it is open: %v", err)
	}
	uuid := set.Checkpoint().Replica
	if err := set.Close(); err != nil {
		t.Fatal(err)
	}
	if err := replica.Clone(t.Context(), from, to, replica.CloneOptions{}); err != nil {
		t.Fatal(err)
	}
	if set, err = replica.Open(to, replica.Options{Group: "g"}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = set.Close() }()
	if set.Checkpoint().Replica == uuid {
		t.Error("the copy has the identity of the original")
	}
	sameFiles(t, set, h.States[1])
	if err := set.Fill(t.Context(), src, h.Commits[4]); err != nil {
		t.Fatal(err)
	}
	sameFiles(t, set, h.States[4])
	if v := set.Checkpoint().Volumes["a"]; v.State != replica.Left {
		t.Errorf("a is %s, it left", v.State)
	}
}

// A set is cloned onto block devices, which hold nothing of before then; nothing is written where one of them can't be used.
func TestCloneOntoDevices(t *testing.T) {
	h, src := journey(t, 6)
	from, source := t.TempDir(), loopDevice(t, 1<<20)
	set, err := replica.Open(from, replica.Options{Group: "g", Devices: map[string]string{"a": source}})
	if err != nil {
		t.Fatal(err)
	}
	if err := set.Advance(t.Context(), src, h.Commits[2]); err != nil {
		t.Fatal(err)
	}
	if err := set.Close(); err != nil {
		t.Fatal(err)
	}
	small, large, busy := loopDevice(t, 32<<10), loopDevice(t, 1<<20), loopDevice(t, 1<<20)
	old := bytes.Repeat([]byte("old content "), 10000)
	if err := os.WriteFile(large, old, 0); err != nil {
		t.Fatal(err)
	}
	held, err := replica.OpenDevice(busy, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Close() }()
	for name, devices := range map[string]map[string]string{
		"smaller":        {"b": small, "a": large},
		"in use":         {"b": large, "a": busy},
		"twice":          {"b": large, "a": large},
		"its own":        {"b": source, "c": large},
		"of no volume":   {"b": large, "other": source},
		"of the objects": {"b": large, journal.Objects: source},
		"no device":      {"b": large, "a": filepath.Join(from, replica.CheckpointFile)},
		"not there":      {"b": large, "a": filepath.Join(from, "none")},
	} {
		to := filepath.Join(t.TempDir(), "copy")
		if err := replica.Clone(t.Context(), from, to, replica.CloneOptions{Devices: devices}); err == nil {
			t.Errorf("%s: cloned", name)
		} else if name == "in use" && !errors.Is(err, syscall.EBUSY) || name == "smaller" && !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(to); !os.IsNotExist(err) {
			t.Errorf("%s: something was made: %v", name, err)
		}
		if got, err := os.ReadFile(large); err != nil || !bytes.HasPrefix(got, old) {
			t.Fatalf("%s: a device was written: %v", name, err)
		}
	}
	to, copied := filepath.Join(t.TempDir(), "copy"), int64(0)
	err = replica.Clone(t.Context(), from, to, replica.CloneOptions{Devices: map[string]string{"b": large}, Copied: func(n int64) { copied += n }})
	if err != nil {
		t.Fatal(err)
	}
	if copied == 0 {
		t.Error("nothing was told of as copied")
	}
	for i := 2; i < 5; i++ {
		if set, err = replica.Open(to, replica.Options{Group: "g"}); err != nil {
			t.Fatal(err)
		}
		if err := set.Fill(t.Context(), src, h.Commits[i]); err != nil {
			t.Fatal(err)
		}
		if cp := set.Checkpoint(); cp.Volumes["b"].Device != large || cp.Volumes["a"].Device != "" {
			t.Errorf("the volumes are %+v", cp.Volumes)
		}
		if err := set.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(large)
		if want := h.States[i]["b"]; err != nil || !bytes.Equal(got[:len(want)], want) {
			t.Fatalf("the device differs at commit %d: %v", i+1, err)
		}
	}
}

// The replica of a volume on a block device.
func TestAdvanceDevice(t *testing.T) {
	h, src := journey(t, 7)
	device := loopDevice(t, 1<<20)
	if err := os.WriteFile(device, bytes.Repeat([]byte("old content "), 5000), 0); err != nil {
		t.Fatal(err)
	}
	set, err := replica.Open(t.TempDir(), replica.Options{Group: "g", Devices: map[string]string{"b": device}})
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range h.Commits {
		if err := set.Advance(t.Context(), src, c); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(device)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(h.States[i]["b"]))
		if _, err := f.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, h.States[i]["b"]) {
			t.Fatalf("the device differs at commit %d", i+1)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := set.Close(); err != nil {
		t.Fatal(err)
	}
}

// A full disk is found before anything is written, and room lets the set go on.
func TestFullDisk(t *testing.T) {
	dir := smallDisk(t, "4m")
	h, src := replicatest.MemoryHistory("g", 8)
	if err := errors.Join(h.Add("a", 8<<20, false), h.Add("b", 8<<20, false), h.Frame("a", 4), h.Frame("b", 4)); err != nil {
		t.Fatal(err)
	}
	h.Join("a")
	h.Join("b")
	first, _ := h.Commit("")
	for off := int64(0); off < 2<<20; off += 256 << 10 {
		if err := h.Write("b", off, bytes.Repeat([]byte{7}, 256<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Write("a", 0, bytes.Repeat([]byte{9}, 4096)); err != nil {
		t.Fatal(err)
	}
	second, _ := h.Commit("")
	set, err := replica.Open(filepath.Join(dir, "g"), replica.Options{Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = set.Close() }()
	if err := set.Advance(t.Context(), src, first); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := set.Advance(t.Context(), src, second); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("advanced on a full disk: %v", err)
	}
	if cp := set.Checkpoint(); cp.Commit.Barrier != 1 || cp.Applying != nil {
		t.Errorf("the set is at %d, applying %v", cp.Commit.Barrier, cp.Applying)
	}
	sameFiles(t, set, h.States[0])
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := set.Advance(t.Context(), src, second); err != nil {
		t.Fatal(err)
	}
	sameFiles(t, set, h.States[1])
}
