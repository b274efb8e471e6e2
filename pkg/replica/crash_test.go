package replica_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"iter"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/repair"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

// travel advances from where the set is to the end of the history, over whatever happens, and checks
// after every stop that what the checkpoint says is what the replicas hold.
func travel(t *testing.T, m *replicatest.Machine, h *replicatest.History, src replica.Source) {
	t.Helper()
	var set *replica.Set
	last := h.Commits[len(h.Commits)-1].Token.Barrier
	before := uint64(0)
	for attempt := 0; ; attempt++ {
		if attempt > 10*len(h.Commits) {
			t.Fatalf("no end in sight\nsteps: %v", m.Last())
		}
		if m.Dead() {
			m.Reboot()
			set = nil
		}
		if set == nil {
			var err error
			if set, err = openSet(m); err != nil {
				if !m.Dead() && !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.ENOSPC) {
					t.Fatalf("open: %v\nsteps: %v", err, m.Last())
				}
				continue
			}
		}
		cp := set.Checkpoint()
		if cp.Commit.Barrier < before {
			t.Fatalf("the checkpoint went back from barrier %d to %d", before, cp.Commit.Barrier)
		}
		before = cp.Commit.Barrier
		sameObjects(t, m, h, set)
		if cp.Applying == nil {
			same(t, m, h, cp)
			if before == last {
				return
			}
		}
		next := h.Commits[max(cp.Commit.Barrier+1, cp.Floor())-1]
		if err := set.Advance(t.Context(), src, next); err != nil && !m.Dead() &&
			!errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("advance: %v\nsteps: %v", err, m.Last())
		}
	}
}

// everyStep returns the steps that something is made to fail at: all of them, or, with -short, every fourth.
func everyStep(steps int) iter.Seq[int] {
	return func(yield func(int) bool) {
		n, stride := 1, 1
		if testing.Short() {
			n, stride = 1+rand.IntN(4), 4
		}
		for ; n <= steps && yield(n); n += stride {
		}
	}
}

// [I] A crash, an error or a full disk at any step is redone: the replicas are always byte-equal at the
// checkpoint's commit, and the checkpoint never goes back.
func TestEveryStepFails(t *testing.T) {
	t.Parallel()
	seed := pickSeed(t)
	h, src := journey(t, seed)
	clean := replicatest.NewMachine(seed)
	travel(t, clean, h, src)
	steps := clean.Steps()
	t.Logf("%d steps", steps)
	if steps < 60 {
		t.Fatalf("only %d steps: the machine is not used", steps)
	}
	for name, f := range map[string]replicatest.Fault{
		"crash":     {Crash: true},
		"error":     {Err: syscall.EIO},
		"full disk": {Err: syscall.ENOSPC},
	} {
		t.Run(name, func(t *testing.T) {
			for n := range everyStep(steps) {
				m := replicatest.NewMachine(seed + uint64(n))
				m.At(n, f)
				travel(t, m, h, src)
			}
		})
	}
}

// Several accidents in a row, in the middle of redoing, too.
func TestManyAccidents(t *testing.T) {
	t.Parallel()
	seed := pickSeed(t)
	h, src := journey(t, seed)
	for round := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, round))
		m := replicatest.NewMachine(seed ^ round<<20)
		for at, i := 0, 0; i < 12; i++ {
			at += 1 + r.IntN(40)
			f := replicatest.Fault{Crash: true}
			if r.IntN(2) == 0 {
				f = replicatest.Fault{Err: syscall.EIO}
			}
			m.At(at, f)
		}
		travel(t, m, h, src)
	}
}

// [I] A fault at any step of filling a set is redone, too, and a seed goes on from its checkpoint.
func TestEveryStepOfSeedAndFillFails(t *testing.T) {
	t.Parallel()
	seed := pickSeed(t)
	h, src := journey(t, seed)
	target := h.Commits[2]
	run := func(m *replicatest.Machine) error {
		set, err := openSet(m)
		if err != nil {
			return err
		}
		defer func() { _ = set.Close() }()
		if set.Checkpoint().Applying == nil && set.Checkpoint().Commit.Barrier == 0 {
			if err := set.Seed(t.Context(), src, "a", 1); err != nil {
				return err
			}
			if v := set.Checkpoint().Volumes["a"]; v.State != replica.Seeded {
				t.Fatalf("a is %s after its first pass", v.State)
			}
		}
		if err := set.Fill(t.Context(), src, target); err != nil {
			return err
		}
		sameObjects(t, m, h, set)
		same(t, m, h, set.Checkpoint())
		return nil
	}
	clean := replicatest.NewMachine(seed)
	if err := run(clean); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= clean.Steps(); n++ {
		for _, f := range []replicatest.Fault{{Crash: true}, {Err: syscall.EIO}} {
			m := replicatest.NewMachine(seed + uint64(n))
			m.At(n, f)
			for attempt := 0; ; attempt++ {
				err := run(m)
				if err == nil {
					break
				}
				if attempt > 3 {
					t.Fatalf("fault at step %d: %v\nsteps: %v", n, err, m.Last())
				}
				m.Crash() // whatever it was, the process ends
				m.Reboot()
			}
		}
	}
}

// [I] Nothing is written before all volumes are prepared.
func TestNothingWrittenBeforeAllArePrepared(t *testing.T) {
	t.Parallel()
	seed := pickSeed(t)
	h, src := journey(t, seed)
	m := replicatest.NewMachine(seed)
	set, err := openSet(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := set.Advance(t.Context(), src, h.Commits[0]); err != nil {
		t.Fatal(err)
	}
	seq, id := h.Commits[1].Vector[1].Position.Seq, journal.StreamID{Group: "g", Part: "b", Generation: 1}
	for name, change := range map[string]func([]byte) []byte{
		"missing": func([]byte) []byte { return nil },
		"damaged": func(b []byte) []byte { b[len(b)/2] ^= 4; return b },
		"short":   func(b []byte) []byte { return b[:len(b)-3] },
	} {
		undo := src.Alter(id, seq-1, change)
		err := set.Advance(t.Context(), src, h.Commits[1])
		stream, at, damaged := replica.Damage(err)
		if !damaged || stream != src.Name(id) || at != seq-1 {
			t.Errorf("%s: Damage says %s, %d, %v of %v", name, stream, at, damaged, err)
		}
		if cp := set.Checkpoint(); cp.Commit.Barrier != 1 || cp.Applying != nil {
			t.Errorf("%s: the checkpoint is at %d, applying %v", name, cp.Commit.Barrier, cp.Applying)
		}
		same(t, m, h, set.Checkpoint())
		undo()
	}
	if err := set.Advance(t.Context(), src, h.Commits[1]); err != nil {
		t.Fatalf("after the damage healed: %v", err)
	}
	same(t, m, h, set.Checkpoint())
}

// [I] A replica is never rewound, and an interval that isn't here is waited for.
func TestNeverRewound(t *testing.T) {
	t.Parallel()
	seed := pickSeed(t)
	h, src := journey(t, seed)
	m := replicatest.NewMachine(seed)
	set, err := openSet(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := set.Advance(t.Context(), src, h.Commits[2]); err != nil {
		t.Fatal(err)
	}
	if err := set.Advance(t.Context(), src, h.Commits[1]); !errors.Is(err, replica.ErrRewind) {
		t.Errorf("advanced to an older commit: %v", err)
	}
	odd := *h.Commits[3]
	odd.Vector = []events.VectorEntry{{Volume: "b", Position: events.Position{Generation: 1, Seq: 1}}}
	if err := set.Advance(t.Context(), src, &odd); !errors.Is(err, replica.ErrRewind) {
		t.Errorf("advanced to a vector behind the replica: %v", err)
	}
	late := *h.Commits[3]
	late.Vector = []events.VectorEntry{{Volume: "b", Position: events.Position{Generation: 1, Seq: 10_000}}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- set.Advance(ctx, src, &late) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("a commit that isn't here gave %v", err)
	}
	same(t, m, h, set.Checkpoint())
}

// A crash soon after a fault: what a failed write of the checkpoint left on the disk must stay true.
func TestCrashAfterFault(t *testing.T) {
	t.Parallel()
	seed := pickSeed(t)
	h, src := replicatest.MemoryHistory("g", seed)
	for _, v := range []string{"a", "b"} {
		if err := errors.Join(h.Add(v, 4<<10, false), h.Frame(v, 2)); err != nil {
			t.Fatal(err)
		}
		h.Join(v)
	}
	for range 2 {
		if _, err := h.Commit(""); err != nil {
			t.Fatal(err)
		}
		if err := h.Frame("a", 2); err != nil {
			t.Fatal(err)
		}
	}
	clean := replicatest.NewMachine(seed)
	travel(t, clean, h, src)
	for n := 1; n <= clean.Steps(); n++ {
		for k := 1; k <= 20; k++ {
			for round := range uint64(3) {
				m := replicatest.NewMachine(seed + uint64(n*1000+k)*3 + round)
				m.At(n, replicatest.Fault{Err: syscall.EIO})
				m.At(n+k, replicatest.Fault{Crash: true})
				travel(t, m, h, src)
			}
		}
	}
}

// skipping is a Source whose readers leave a message out and don't notice.
type skipping struct {
	*replicatest.Memory
	seq uint64
}

type skippingReader struct {
	replica.Reader
	seq uint64
}

func (s skipping) Open(ctx context.Context, id journal.StreamID, from uint64) (replica.Reader, error) {
	r, err := s.Memory.Open(ctx, id, from)
	return skippingReader{r, s.seq}, err
}

func (r skippingReader) Next(ctx context.Context) (journal.Message, error) {
	m, err := r.Reader.Next(ctx)
	if err == nil && m.Seq == r.seq {
		return r.Reader.Next(ctx)
	}
	return m, err
}

// [I] The set proves contiguity itself, whoever reads for it.
func TestSkippedMessageIsNoticed(t *testing.T) {
	t.Parallel()
	h, src := journey(t, 4)
	set, err := openSet(replicatest.NewMachine(1))
	if err != nil {
		t.Fatal(err)
	}
	err = set.Advance(t.Context(), skipping{src, 3}, h.Commits[0])
	var gap *journal.GapError
	if !errors.As(err, &gap) || gap.Want != 3 || gap.Got != 4 {
		t.Errorf("got %v, want a gap at 3", err)
	}
}

// [I] A replica that begins anew is given up durably before it is overwritten: whatever step fails, a member is byte-equal
// at its commit or named as missing from it, and in the end all are whole.
func TestEveryStepOfBeginningAnewFails(t *testing.T) {
	t.Parallel()
	seed := pickSeed(t)
	h, src := replicatest.MemoryHistory("g", seed)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range []string{"a", "b"} {
		must(errors.Join(h.Add(v, 16<<10, false), h.Frame(v, 4)))
		h.Join(v)
	}
	for range 2 {
		_, err := h.Commit("")
		must(errors.Join(err, h.Frame("a", 4)))
	}
	must(errors.Join(h.Frame("b", 4), h.Renew("b", nil), h.Frame("b", 4)))
	_, err := h.Commit("")
	must(err)

	whole := func(m *replicatest.Machine, set *replica.Set) {
		cp := set.Checkpoint()
		if cp.Applying != nil || cp.Commit.Barrier == 0 {
			return
		}
		for volume, want := range h.State(cp.Commit.Barrier) {
			if got := m.Content(replica.VolumePath(setDir, volume)); !slices.Contains(cp.Without, volume) && !bytes.Equal(got, want) {
				t.Fatalf("volume %s differs at barrier %d, without %v\nsteps: %v", volume, cp.Commit.Barrier, cp.Without, m.Last())
			}
		}
		if cp.Whole() != (len(cp.Without) == 0) {
			t.Fatalf("whole is %v without %v", cp.Whole(), cp.Without)
		}
	}
	run := func(m *replicatest.Machine) error {
		set, err := openSet(m)
		if err != nil {
			return err
		}
		defer func() { _ = set.Close() }()
		whole(m, set)
		if cp := set.Checkpoint(); cp.Floor() < 2 {
			if err := set.Advance(t.Context(), src, h.Commits[1]); err != nil {
				return err
			}
		}
		whole(m, set)
		if cp := set.Checkpoint(); cp.Applying == nil && cp.Commit.Barrier == 2 {
			if err := set.Seed(t.Context(), src, "b", 2); err != nil {
				return err
			}
			if cp := set.Checkpoint(); cp.Volumes["b"].State != replica.Seeded || len(cp.Without) != 1 || cp.Whole() {
				t.Fatalf("the checkpoint is %+v", cp)
			}
			whole(m, set)
		}
		if err := set.Advance(t.Context(), src, h.Commits[2]); err != nil {
			return err
		}
		same(t, m, h, set.Checkpoint())
		if cp := set.Checkpoint(); !cp.Whole() || cp.Volumes["b"].Generation != 2 {
			t.Fatalf("the checkpoint is %+v", cp)
		}
		return nil
	}
	everyStepFails(t, seed, run)
}

// everyStepFails runs a set's work with a fault at each of its steps in turn, and a crash soon after; run succeeds
// in the end.
func everyStepFails(t *testing.T, seed uint64, run func(*replicatest.Machine) error) {
	t.Helper()
	clean := replicatest.NewMachine(seed)
	if err := run(clean); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= clean.Steps(); n++ {
		for _, f := range []replicatest.Fault{{Crash: true}, {Err: syscall.EIO}, {Err: syscall.ENOSPC}} {
			for again := range 3 {
				m := replicatest.NewMachine(seed + uint64(3*n+again))
				m.At(n, f)
				m.At(n+1+3*again, replicatest.Fault{Crash: true})
				for attempt := 0; run(m) != nil; attempt++ {
					if attempt > 6 {
						t.Fatalf("fault at step %d\nsteps: %v", n, m.Last())
					}
					m.Crash() // whatever it was, the process ends
					m.Reboot()
				}
			}
		}
	}
}

// [I] Hashes are of what is durable and whole at the base, and of nothing else.
func TestHashesOnlyAtTheBase(t *testing.T) {
	t.Parallel()
	seed := pickSeed(t)
	h, src := journey(t, seed)
	m := replicatest.NewMachine(seed)
	set, err := openSet(m)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(c *events.Commit) error {
		base := *replicatest.BaseAt("b", c)
		got, err := set.Hashes(t.Context(), "b", base, 0, 96<<10)
		if err == nil && (len(got) != 1 || got[0] != sha256.Sum256(h.State(c.Token.Barrier)["b"])) {
			t.Errorf("barrier %d: the hash is of something else", c.Token.Barrier)
		}
		return err
	}
	if err := ask(h.Commits[0]); !errors.Is(err, repair.ErrGone) {
		t.Errorf("before there is anything: %v", err)
	}
	for i := range 3 {
		if err := set.Advance(t.Context(), src, h.Commits[i]); err != nil {
			t.Fatal(err)
		}
		if err := ask(h.Commits[i]); err != nil {
			t.Error(err)
		}
		if err := ask(h.Commits[i+1]); !errors.Is(err, repair.ErrGone) {
			t.Errorf("at a base ahead: %v", err)
		}
	}
	if err := ask(h.Commits[1]); !errors.Is(err, repair.ErrGone) {
		t.Errorf("at a base that was left: %v", err)
	}
	other := *replicatest.BaseAt("b", h.Commits[2])
	other.Barrier++
	if _, err := set.Hashes(t.Context(), "b", other, 0, 4096); !errors.Is(err, repair.ErrGone) {
		t.Errorf("of another barrier: %v", err)
	}
	for _, r := range [][2]int64{{512, 512}, {0, 97 << 10}, {-repair.HashUnit, 512}, {0, 0}, {repair.HashUnit, 512}} {
		if _, err := set.Hashes(t.Context(), "b", *replicatest.BaseAt("b", h.Commits[2]), r[0], r[1]); !errors.Is(err, repair.ErrRefused) {
			t.Errorf("of %d bytes at %d: %v", r[1], r[0], err)
		}
	}
	// A commit that is half applied: the replica may hold what lies behind the base.
	for n := 1; ; n++ {
		if n > 100 {
			t.Fatal("no step fails behind the promise")
		}
		m.At(n, replicatest.Fault{Err: syscall.EIO})
		if err := set.Advance(t.Context(), src, h.Commits[3]); err == nil {
			t.Fatal("the set has moved on")
		}
		if set.Checkpoint().Applying != nil {
			break
		}
	}
	if err := ask(h.Commits[2]); !errors.Is(err, repair.ErrBusy) {
		t.Errorf("of a replica that is in between: %v", err)
	}
}
