package objects_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/objects"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

var seedFlag = flag.Uint64("objects.seed", 0, "seed of random tests; 0 picks one")

func pickSeed(t testing.TB) uint64 {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed: -objects.seed=%d", seed)
	return seed
}

// commit is a piece of a history of objects: the events of some changes, and what there is behind them.
type commit struct {
	events []events.Event
	fresh  bool // what was before counts for nothing
	want   replicatest.Objects
}

// history makes up commits.
func history(t testing.TB, seed uint64, commits, changes int) (out []commit) {
	t.Helper()
	var sent []events.Event
	h := replicatest.NewHistory("g", seed, func(_ string, e events.Event) (uint64, error) {
		sent = append(sent, e)
		return uint64(len(sent)), nil
	})
	h.Join("objects")
	for i := range commits {
		sent = nil
		var err error
		fresh := i%7 == 6
		if fresh {
			err = h.RenewObjects(nil)
		}
		err = errors.Join(err, h.Change(changes))
		c, commitErr := h.Commit("")
		if err := errors.Join(err, commitErr); err != nil {
			t.Fatal(err)
		}
		out = append(out, commit{sent, fresh, h.ObjectsAt(c.Token.Barrier)})
	}
	return out
}

var header = events.Header{Epoch: 1, Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}

func add(b *objects.Batch, list []events.Event) error {
	for _, e := range list {
		if err := b.Add(header, e); err != nil {
			return err
		}
	}
	return nil
}

func point(n int) group.Point { return group.Point{Barrier: uint64(n)} }

func open(t testing.TB, fsys objects.FS, dir string, at objects.Place, n int) *objects.Store {
	t.Helper()
	s, err := objects.Open(fsys, dir, at, point(n), fmt.Sprint(n), objects.Options{Slack: 1024})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// [I] After every commit of a random history the store holds what a plain map would, also when it is opened again; what was
// there at each commit stays readable, over compactions, too. The log stays in proportion to what it holds.
func TestLikeAMap(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "objects")
	s := open(t, replica.OS{}, dir, objects.Place{}, 0)
	var views []*objects.View
	commits := history(t, pickSeed(t), 60, 20)
	files := make(map[string]bool)
	for i, c := range commits {
		b := s.Begin(c.fresh)
		if err := errors.Join(add(b, c.events), b.Finish()); err != nil {
			t.Fatal(err)
		}
		if v := s.View(); v.Barrier() != uint64(i) {
			t.Fatalf("the store is at %d before the batch is taken", v.Barrier())
		}
		v := s.Take(b, point(i+1), b.Revision())
		files[s.Place().File] = true
		replicatest.SameObjects(t, v, c.want)
		views = append(views, v)
		live := int64(0)
		for _, o := range c.want {
			live += int64(len(o.Raw)) + 200
		}
		if n := s.Place().Length; n > 2*live+1024+64<<10 {
			t.Errorf("the log has %d bytes for %d", n, live)
		}
		if i%5 == 0 {
			s = open(t, replica.OS{}, dir, s.Place(), i+1)
			replicatest.SameObjects(t, s.View(), c.want)
			if v := s.View(); v.Point() != point(i+1) || v.Revision() != fmt.Sprint(i+1) {
				t.Errorf("the opened store is of %+v, %s", v.Point(), v.Revision())
			}
		}
	}
	for i, v := range views {
		replicatest.SameObjects(t, v, commits[i].want)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("files %v are left, %v", left, err)
	}
	if len(files) < 10 {
		t.Errorf("only %d files were ever written: nothing is compacted", len(files))
	}
}

// A batch that is discarded leaves nothing, and gives its room back.
func TestDiscard(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "objects")
	s := open(t, replica.OS{}, dir, objects.Place{}, 0)
	commits := history(t, pickSeed(t), 2, 30)
	b := s.Begin(false)
	if err := errors.Join(add(b, commits[0].events), b.Finish()); err != nil {
		t.Fatal(err)
	}
	s.Take(b, point(1), "1")
	for _, fresh := range []bool{false, true} {
		b = s.Begin(fresh)
		if err := errors.Join(add(b, commits[1].events), b.Finish()); err != nil {
			t.Fatal(err)
		}
		b.Discard()
		replicatest.SameObjects(t, s.View(), commits[0].want)
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 {
			t.Fatalf("%v, %v", entries, err)
		}
		if info, err := entries[0].Info(); err != nil || info.Size() != s.Place().Length {
			t.Errorf("the file has %d bytes, %d count", info.Size(), s.Place().Length)
		}
	}
}

func object(name string, part, parts uint32) *events.Object {
	return &events.Object{
		Verb: events.Upsert, Key: events.ObjectKey{Version: "v1", Resource: "configmaps", Namespace: "bank", Name: name},
		UID: "uid-" + name, Revision: "7", Part: part, Parts: parts, Raw: fmt.Appendf(nil, "%s/%d;", name, part),
	}
}

func listed(part, parts uint32, names ...string) *events.Listed {
	l := &events.Listed{Version: "v1", Resource: "configmaps", Revision: "9", Part: part, Parts: parts}
	for _, n := range names {
		l.Objects = append(l.Objects, events.ListedObject{Namespace: "bank", Name: n, UID: "uid-" + n})
	}
	return l
}

// [I] The parts of a split event stand behind each other, or are refused. A writer that took over begins it again.
func TestSplitEvents(t *testing.T) {
	other, changed := object("a", 1, 3), object("a", 1, 3)
	other.UID, changed.Revision = "uid-of-another", "8"
	for name, list := range map[string][]events.Event{
		"a part without the first":        {object("a", 1, 3)},
		"a part is missing":               {object("a", 0, 3), object("a", 2, 3)},
		"a part comes twice":              {object("a", 0, 3), object("a", 0, 3)},
		"a part of another object":        {object("a", 0, 3), object("b", 1, 3)},
		"a part of another identity":      {object("a", 0, 3), other},
		"a part of another revision":      {object("a", 0, 3), changed},
		"another number of parts":         {object("a", 0, 3), object("a", 1, 2)},
		"an object between":               {object("a", 0, 3), object("b", 0, 1)},
		"a list between":                  {object("a", 0, 3), listed(0, 1)},
		"a mark between":                  {object("a", 0, 3), &events.Mark{Token: events.Token{Epoch: 1, Barrier: 1}}},
		"a list's part without the first": {listed(1, 2)},
		"a list's part is missing":        {listed(0, 3), listed(2, 3)},
		"an object within a list":         {listed(0, 2), object("a", 0, 1)},
		"a mark within a list":            {listed(0, 2), &events.Mark{Token: events.Token{Epoch: 1, Barrier: 1}}},
		"an event of volumes":             {&events.PassDone{Pass: events.PassSeed}},
	} {
		s := open(t, replica.OS{}, filepath.Join(t.TempDir(), "objects"), objects.Place{}, 0)
		b := s.Begin(false)
		if err := add(b, list); err == nil || !objects.Refused(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := filepath.Join(t.TempDir(), "objects")
	s := open(t, replica.OS{}, dir, objects.Place{}, 0)
	b := s.Begin(false)
	err := add(b, []events.Event{
		object("a", 0, 2), &events.Heartbeat{}, object("a", 1, 2), object("b", 0, 1), object("c", 0, 1),
		object("d", 0, 3), object("d", 1, 3), &events.Epoch{Writer: "next"}, object("d", 0, 2), object("d", 1, 2),
		listed(0, 2, "a"), &events.Epoch{Writer: "third"}, listed(0, 2, "a"), &events.Heartbeat{}, listed(1, 2, "d", "b"),
	})
	if err := errors.Join(err, b.Finish()); err != nil {
		t.Fatal(err)
	}
	s.Take(b, point(1), "1")
	for _, v := range []*objects.View{s.View(), open(t, replica.OS{}, dir, s.Place(), 1).View()} {
		for name, want := range map[string]string{"a": "a/0;a/1;", "b": "b/0;", "d": "d/0;d/1;"} {
			if raw, err := v.Raw(object(name, 0, 1).Key); err != nil || string(raw) != want {
				t.Errorf("%s holds %q, %v", name, raw, err)
			}
		}
		if _, err := v.Raw(object("c", 0, 1).Key); !errors.Is(err, objects.ErrNotFound) {
			t.Errorf("an object that wasn't listed: %v", err)
		}
	}
}

// A large object is written as its parts come; what a writer that was taken over from left of it is not kept.
func TestLargeSplitObject(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "objects")
	s := open(t, replica.OS{}, dir, objects.Place{}, 0)
	const parts = 8
	part := func(i uint32) *events.Object {
		o := object("large", i, parts)
		o.Raw = bytes.Repeat([]byte{'a' + byte(i)}, events.MaxRaw)
		return o
	}
	b := s.Begin(false)
	var want []byte
	for _, last := range []uint32{parts - 1, parts} {
		if err := b.Add(header, &events.Epoch{Writer: "next"}); err != nil {
			t.Fatal(err)
		}
		want = nil
		for i := range last {
			want = append(want, part(i).Raw...)
			if err := b.Add(header, part(i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := b.Finish(); err != nil {
		t.Fatal(err)
	}
	s.Take(b, point(1), "")
	if n := s.Place().Length; n > parts*(events.MaxRaw+1024) {
		t.Errorf("the log has %d bytes", n)
	}
	if raw, err := open(t, replica.OS{}, dir, s.Place(), 1).View().Raw(object("large", 0, 1).Key); err != nil || !bytes.Equal(raw, want) {
		t.Errorf("%d bytes are read, %v", len(raw), err)
	}
}

// [I] A log that was changed, cut or exchanged is noticed when it is opened, and when an object is read.
func TestDamagedLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "objects")
	s := open(t, replica.OS{}, dir, objects.Place{}, 0)
	b := s.Begin(false)
	if err := errors.Join(add(b, []events.Event{object("a", 0, 1), object("b", 0, 2), object("b", 1, 2)}), b.Finish()); err != nil {
		t.Fatal(err)
	}
	v := s.Take(b, point(1), "1")
	at := s.Place()
	path := filepath.Join(dir, at.File)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x40
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := objects.Open(replica.OS{}, dir, at, point(1), "", objects.Options{})
		if !errors.Is(err, objects.ErrDamaged) || !strings.Contains(err.Error(), at.File) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
		if i < 8 {
			continue
		}
		_, errA := v.Raw(object("a", 0, 1).Key)
		_, errB := v.Raw(object("b", 0, 1).Key)
		if !errors.Is(errors.Join(errA, errB), objects.ErrDamaged) {
			t.Fatalf("byte %d changed: reading gives %v and %v", i, errA, errB)
		}
	}
	for n := range at.Length {
		if err := os.WriteFile(path, good[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := objects.Open(replica.OS{}, dir, at, point(1), "", objects.Options{}); !errors.Is(err, objects.ErrDamaged) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	if err := os.WriteFile(path, append(good, "what a crash left"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if v := open(t, replica.OS{}, dir, at, 1).View(); v.Len() != 2 {
		t.Errorf("%d objects", v.Len())
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := objects.Open(replica.OS{}, dir, at, point(1), "", objects.Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is gone: %v", err)
	}
}

// [I] A compaction that fails is put off: the batch goes into the log as it is.
func TestCompactionFails(t *testing.T) {
	seed := pickSeed(t)
	commits := history(t, seed, 6, 60)
	run := func(m *replicatest.Machine) (files map[string]bool) {
		files = make(map[string]bool)
		s := open(t, m, "/dr/objects", objects.Place{}, 0)
		for i, c := range commits {
			b := s.Begin(c.fresh)
			err := errors.Join(add(b, c.events), b.Finish())
			if err != nil { // not of the compaction: nothing is lost by trying again
				if !errors.Is(err, syscall.ENOSPC) {
					t.Fatal(err)
				}
				b.Discard()
				b = s.Begin(c.fresh)
				if err := errors.Join(add(b, c.events), b.Finish()); err != nil {
					t.Fatal(err)
				}
			}
			replicatest.SameObjects(t, s.Take(b, point(i+1), ""), c.want)
			files[s.Place().File] = true
		}
		return files
	}
	clean := replicatest.NewMachine(seed)
	if files := run(clean); len(files) < 2 {
		t.Fatalf("nothing is compacted: %v", files)
	}
	for n := 4; n <= clean.Steps(); n++ { // the first steps make the directory
		m := replicatest.NewMachine(seed)
		m.At(n, replicatest.Fault{Err: syscall.ENOSPC})
		run(m)
	}
}

// Views of before stay readable while the log is written anew under them, by others at the same time.
func TestReadersAndCompaction(t *testing.T) {
	s := open(t, replica.OS{}, filepath.Join(t.TempDir(), "objects"), objects.Place{}, 0)
	commits := history(t, pickSeed(t), 40, 20)
	done := make(chan error, len(commits))
	for i, c := range commits {
		b := s.Begin(c.fresh)
		if err := errors.Join(add(b, c.events), b.Finish()); err != nil {
			t.Fatal(err)
		}
		v := s.Take(b, point(i+1), "")
		go func() {
			var errs []error
			for e := range v.All() {
				raw, err := v.Raw(e.Key)
				key := e.Key
				key.Version = ""
				if err == nil && !bytes.Equal(raw, c.want[key].Raw) {
					err = fmt.Errorf("%s differs", objects.Name(e.Key))
				}
				errs = append(errs, err)
			}
			done <- errors.Join(errs...)
		}()
	}
	for range commits {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// What is held in memory is where the objects are, not what they hold.
func TestMemory(t *testing.T) {
	const count, size = 2000, 16 << 10
	s := open(t, replica.OS{}, filepath.Join(t.TempDir(), "objects"), objects.Place{}, 0)
	used := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := used()
	b := s.Begin(false)
	raw := make([]byte, size)
	for i := range count {
		o := object(fmt.Sprintf("o-%d", i), 0, 1)
		o.Raw = raw
		if err := b.Add(header, o); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Finish(); err != nil {
		t.Fatal(err)
	}
	s.Take(b, point(1), "")
	if n := used() - before; n > count*size/10 {
		t.Errorf("%d objects of %d bytes keep %d bytes of memory", count, size, n)
	} else {
		t.Logf("%d bytes of memory for each object", n/count)
	}
	runtime.KeepAlive(s)
}
