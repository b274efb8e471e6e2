package barrier

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/journal/journaltest"
)

const testGroup = "shop"

// TestMain runs more tests beside each other than there are processors: they wait more than they compute.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		if err := f.Value.Set(strconv.Itoa(2 * runtime.GOMAXPROCS(0))); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// rig is a group on a real server. At the test's end the control stream is checked against every rule
// that holds for it, whatever the test did.
type rig struct {
	t    testing.TB
	site *journal.Site
}

func newRig(t testing.TB) *rig {
	r := &rig{t: t, site: journaltest.One(t)}
	t.Cleanup(func() {
		streams, err := r.site.Streams(context.Background(), testGroup)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range streams {
			if s.ID.Part == journal.Control && s.Last > 0 {
				checkControl(t, s.ID.Generation, r.read(s.Name))
			}
		}
	})
	return r
}

// process is something that runs in the background.
type process struct {
	t      testing.TB
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

func start(t testing.TB, run func(context.Context) error) *process {
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{t: t, cancel: cancel, done: make(chan struct{})}
	go func() { defer close(p.done); p.err = run(ctx) }()
	t.Cleanup(func() { _ = p.stop() })
	return p
}

// stop ends the process and returns how it ended.
func (p *process) stop() error { p.cancel(); return p.wait() }

func (p *process) wait() error {
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		p.t.Error("a process doesn't end")
	}
	return p.err
}

// serve runs a tap's side.
func (r *rig) serve(volume string, epoch uint64, tap Tap) *process {
	return start(r.t, func(ctx context.Context) error {
		return Serve(ctx, r.site.Conn(), testGroup, volume, info(volume, epoch), tap)
	})
}

func info(volume string, epoch uint64) Info {
	return Info{UID: "uid-" + volume, Generation: 1, Epoch: epoch, Size: 1 << 20}
}

// volumes is a document that lists them.
func volumes(names ...string) []Volume {
	var out []Volume
	for _, n := range names {
		out = append(out, Volume{Name: n, UID: "uid-" + n})
	}
	return out
}

// coordinator is a running Coordinator.
type coordinator struct {
	*Coordinator
	*process
	log *logBuffer
}

// coordinate runs a coordinator and waits until it is ready.
func (r *rig) coordinate(o Options) *coordinator {
	r.t.Helper()
	o.Site, o.Group = r.site, testGroup
	log := new(logBuffer)
	o.Log = slog.New(slog.NewTextHandler(log, nil))
	c, err := NewCoordinator(o)
	if err != nil {
		r.t.Fatal(err)
	}
	c.indulgence, c.foundRetry = 100*time.Millisecond, 50*time.Millisecond
	p := start(r.t, c.Run)
	select {
	case <-c.Ready():
	case <-p.done:
		r.t.Fatalf("the coordinator ended: %v", p.err)
	case <-time.After(20 * time.Second):
		r.t.Fatal("the coordinator doesn't get ready")
	}
	return &coordinator{c, p, log}
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// mark makes a labelled barrier, as often as it takes.
func (r *rig) mark(label string) *events.Commit {
	r.t.Helper()
	var commit *events.Commit
	r.eventually("mark "+label, func() (err error) {
		commit, err = RequestMark(r.t.Context(), r.site.Conn(), testGroup, label, 20*time.Second)
		return err
	})
	return commit
}

// missing asks for a labelled barrier that must fail, and returns who is missing.
func (r *rig) missing() *MissingError {
	r.t.Helper()
	commit, err := RequestMark(r.t.Context(), r.site.Conn(), testGroup, "never", 20*time.Second)
	var missing *MissingError
	if !errors.As(err, &missing) {
		r.t.Fatalf("got %+v, %v, want a missing member", commit, err)
	}
	return missing
}

func (r *rig) eventually(what string, check func() error) {
	r.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: %v", what, err)
		}
		<-tick.C
	}
}

// control reads the whole current generation of the control stream.
func (r *rig) control() []journal.Message {
	r.t.Helper()
	generation, err := r.site.Generation(context.Background(), testGroup, journal.Control)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.read(controlStream(generation))
}

func (r *rig) read(stream string) []journal.Message {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	tail, err := r.site.Tail(ctx, stream)
	if err != nil {
		r.t.Fatal(err)
	}
	reader, err := r.site.OpenReader(ctx, stream, 1)
	if err != nil {
		r.t.Fatal(err)
	}
	defer reader.Close()
	var out []journal.Message
	for uint64(len(out)) < tail.Last {
		m, err := reader.Next(ctx)
		if err != nil {
			r.t.Fatal(err)
		}
		out = append(out, m)
	}
	return out
}

func (r *rig) commits() []*events.Commit {
	return of[*events.Commit](r.control())
}

// of returns the events of one type.
func of[E events.Event](messages []journal.Message) []E {
	var out []E
	for _, m := range messages {
		if e, ok := m.Event.(E); ok {
			out = append(out, e)
		}
	}
	return out
}

// checkControl proves what readers of a control stream rely on: tokens and times rise, the roster's
// versions have no gap, and the vector of a commit names exactly the members.
func checkControl(t testing.TB, generation uint32, messages []journal.Message) {
	t.Helper()
	var last events.Commit
	members := map[string]events.MemberState{}
	var version uint64
	for _, m := range messages {
		switch e := m.Event.(type) {
		case *events.Member:
			if e.Roster != version+1 && (version > 0 || generation == 1) {
				t.Errorf("message %d: roster goes from version %d to %d", m.Seq, version, e.Roster)
			}
			version, members[e.Volume] = e.Roster, e.State
		case *events.Commit:
			if e.Token.Epoch != m.Header.Epoch {
				t.Errorf("message %d: token of epoch %d from the writer of epoch %d", m.Seq, e.Token.Epoch, m.Header.Epoch)
			}
			if e.Token.Barrier <= last.Token.Barrier || e.Token.Compare(last.Token) <= 0 {
				t.Errorf("message %d: token %+v behind %+v", m.Seq, e.Token, last.Token)
			}
			if !last.Time.IsZero() && e.Time.Sub(last.Time) < time.Microsecond {
				t.Errorf("message %d: time %s behind %s", m.Seq, e.Time, last.Time)
			}
			var want, got []string
			for name, state := range members {
				if state == events.Joined {
					want = append(want, name)
				}
			}
			for _, v := range e.Vector {
				got = append(got, v.Volume)
			}
			if e.Objects != nil {
				got = append(got, journal.Objects)
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(want, got) || e.Roster != version {
				t.Errorf("message %d: cut of %v at roster %d, the roster has %v at %d", m.Seq, got, e.Roster, want, version)
			}
			last = *e
		}
	}
}

// fakeTap is a tap without a volume: its stream is a number.
type fakeTap struct {
	mu       sync.Mutex
	newest   events.Token
	held     bool
	seq      uint64
	unready  bool
	progress events.Progress
	onHold   func(events.Token) error // before a hold
	onMark   func(events.Token) error // before a mark
	onStored func(ctx context.Context, seq uint64) error
	log      []string
}

func (f *fakeTap) note(format string, args ...any) {
	f.log = append(f.log, fmt.Sprintf(format, args...))
}

func (f *fakeTap) Hold(t events.Token, _ time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("hold %d", t.Barrier)
	if f.onHold != nil {
		if err := f.onHold(t); err != nil {
			return err
		}
	}
	if t.Compare(f.newest) <= 0 {
		return cdc.ErrStaleToken
	}
	f.newest, f.held = t, true
	return nil
}

func (f *fakeTap) Mark(_ context.Context, t events.Token) (cdc.Marked, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("mark %d", t.Barrier)
	if f.onMark != nil {
		if err := f.onMark(t); err != nil {
			return cdc.Marked{}, err
		}
	}
	if !f.held || f.newest != t {
		return cdc.Marked{}, cdc.ErrNotHeld
	}
	f.held = false
	f.seq++
	seq, onStored := f.seq, f.onStored
	return cdc.Marked{Hold: time.Millisecond, Stored: func(ctx context.Context) (uint64, error) {
		if onStored != nil {
			if err := onStored(ctx, seq); err != nil {
				return 0, err
			}
		}
		return seq, nil
	}}, nil
}

func (f *fakeTap) Release(t events.Token) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("release %d", t.Barrier)
	if f.newest == t {
		f.held = false
	}
}

func (f *fakeTap) Ready() (bool, events.Progress) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.unready, f.progress
}

// set changes the tap under its lock.
func (f *fakeTap) set(change func(*fakeTap)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fakeTap) isHeld() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held
}

func (f *fakeTap) did() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.log, ", ")
}
