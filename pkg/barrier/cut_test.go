package barrier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/cdc/activity"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

const cutVolumes = 4

func cutVolume(i int) string { return fmt.Sprintf("v%d", i) }

// real is a volume with a real recorder on a real stream.
type real struct {
	name     string
	epoch    uint64
	id       journal.StreamID
	recorder *cdc.Recorder
}

// record starts a recorder and seeds its volume.
func (r *rig) record(name string) *real {
	r.t.Helper()
	ctx := r.t.Context()
	v := &real{name: name, id: journal.StreamID{Group: testGroup, Part: name, Generation: 1}}
	if err := r.site.EnsureStream(ctx, v.id, journal.StreamOptions{UID: "uid-" + name, Size: imageBytes, Replicas: 1}); err != nil {
		r.t.Fatal(err)
	}
	device, err := cdc.OpenFile(filepath.Join(r.t.TempDir(), name), imageBytes)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { device.Close() })
	w, err := r.site.OpenWriter(ctx, v.id, journal.WriterOptions{
		Writer: name,
		Open: func(uint64) *events.Epoch {
			return &events.Epoch{Writer: name, UID: "uid-" + name, Size: imageBytes, BlockSize: device.BlockSize()}
		},
		Heartbeat: func() *events.Heartbeat { return v.recorder.Heartbeat() },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	v.epoch = w.Epoch()
	regions, err := activity.Open(activity.Options{Path: filepath.Join(r.t.TempDir(), "log"), UID: "uid-" + name, Size: imageBytes, Flush: device.Flush})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { regions.Close() })
	v.recorder = cdc.NewRecorder(cdc.Options{Device: device, Activity: regions, Linger: time.Millisecond, Group: testGroup, Volume: name})
	start(r.t, w.Run)
	start(r.t, v.recorder.Run)
	start(r.t, func(ctx context.Context) error { return v.recorder.Record(ctx, w, cdc.Tenure{}) })
	return v
}

// cut runs the workload on real recorders under barriers of a short interval until enough commits are
// made, and returns every violation of the cut that the streams show. tap may put something
// between a volume and the barriers; meanwhile runs beside it all.
func (r *rig) cut(enough int, exact bool, tap func(i int, t Tap) Tap, meanwhile func(ctx context.Context, c *Coordinator)) (commits []*events.Commit, violations []string) {
	r.t.Helper()
	var volumesOfGroup []*real
	var recorders []*cdc.Recorder
	var listed []Volume
	for i := range cutVolumes {
		v := r.record(cutVolume(i))
		volumesOfGroup, recorders = append(volumesOfGroup, v), append(recorders, v.recorder)
		listed = append(listed, Volume{Name: v.name, UID: "uid-" + v.name})
		r.serve(v.name, v.epoch, tap(i, v.recorder))
	}
	if err := r.coordinate(Options{Volumes: listed, Interval: onDemand}).stop(); err != nil {
		r.t.Fatal(err) // the older snapshotter, whose messages may still be under way
	}
	c := r.coordinate(Options{Volumes: listed, Interval: time.Millisecond})
	r.eventually("all are members", func() error {
		if n := len(r.mark("start").Vector); n != cutVolumes {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
	before := len(r.commits())
	load := new(chainWriter)
	writer := start(r.t, func(ctx context.Context) error { load.run(ctx, r.t, recorders); return nil })
	side := start(r.t, func(ctx context.Context) error { meanwhile(ctx, c.Coordinator); return nil })
	r.awaitCommits(before + enough)
	side.stop()
	writer.stop()
	end := r.mark("end")
	if err := c.stop(); err != nil {
		r.t.Error(err)
	}
	commits = r.commits()
	newest, violations := r.checkCuts(volumesOfGroup, commits, exact)
	if last := commits[len(commits)-1]; last.Token.Compare(end.Token) < 0 {
		r.t.Errorf("the last commit is %+v", last)
	}
	for i := range newest { // the load has ended: the last cut holds all that was acknowledged
		if acked := load.acked[i].Load(); newest[i] < acked {
			violations = append(violations, fmt.Sprintf("chain %d: the last cut ends at %d, %d was acknowledged", i, newest[i], acked))
		}
		r.t.Logf("chain %d: %d counters", i, newest[i])
	}
	return commits, violations
}

// awaitCommits follows the control stream until it has so many commits.
func (r *rig) awaitCommits(n int) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Minute)
	defer cancel()
	reader, err := r.site.OpenReader(ctx, journal.StreamID{Group: testGroup, Part: journal.Control, Generation: 1}.Name(), 1)
	if err != nil {
		r.t.Fatal(err)
	}
	defer reader.Close()
	for n > 0 {
		m, err := reader.Next(ctx)
		if err != nil || r.t.Failed() { // what failed keeps commits from being made
			r.t.Fatalf("%d commits are lacking: %v", n, err)
		}
		if _, ok := m.Event.(*events.Commit); ok {
			n--
		}
	}
}

// checkCuts rolls images of all volumes forward from commit to commit, and checks each. exact: the
// marks must bear the commits' tokens, too.
func (r *rig) checkCuts(group []*real, commits []*events.Commit, exact bool) (newest [chains]uint64, violations []string) {
	r.t.Helper()
	m := newImage(len(group))
	readers := make([]*journal.Reader, len(group))
	at := make([]journal.Message, len(group))
	for i, v := range group {
		var err error
		if readers[i], err = r.site.OpenReader(r.t.Context(), v.id.Name(), 1); err != nil {
			r.t.Fatal(err)
		}
		defer readers[i].Close()
	}
	for _, c := range commits {
		if len(c.Vector) != len(group) {
			continue // from before all were members
		}
		for i := range group {
			for position := c.Vector[i].Position; at[i].Seq < position.Seq; {
				var err error
				if at[i], err = readers[i].Next(r.t.Context()); err != nil {
					r.t.Fatal(err)
				}
				if f, ok := at[i].Event.(*events.Frame); ok {
					if err := m.apply(i, f); err != nil {
						r.t.Fatal(err)
					}
				}
			}
			if mark, ok := at[i].Event.(*events.Mark); !ok || exact && mark.Token != c.Token {
				violations = append(violations, fmt.Sprintf("barrier %d: message %d of %s is not its mark", c.Token.Barrier, at[i].Seq, group[i].name))
			}
		}
		var wrong []string
		if newest, wrong = m.check(); len(wrong) > 0 {
			violations = append(violations, fmt.Sprintf("barrier %d: %v", c.Token.Barrier, wrong))
		}
	}
	return newest, violations
}

func plainTap(_ int, t Tap) Tap { return t }

// [I] The cut contains a mutation only if it contains every mutation acknowledged, on any volume,
// before that one was issued: over thousands of barriers, while messages of this and of an older
// snapshotter arrive late, twice and garbled.
func TestCutsAreConsistent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	enough := 2500
	if testing.Short() {
		enough = 300
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	began := time.Now()
	commits, violations := r.cut(enough, true, plainTap, func(ctx context.Context, c *Coordinator) {
		newSaboteur(r, seed, c).run(ctx)
	})
	for i, v := range violations {
		if i == 5 {
			t.Errorf("… and %d more", len(violations)-i)
			break
		}
		t.Error(v)
	}
	attempts := commits[len(commits)-1].Token.Barrier
	t.Logf("%d commits of %d barriers in %s", len(commits), attempts, time.Since(began).Round(time.Millisecond))
}

// lateTap is a tap that breaks the rule: it opens admission before it marks.
type lateTap struct {
	Tap
	mu     sync.Mutex
	number uint64 // of the token that the real tap was last held with
}

func (l *lateTap) token() events.Token { return events.Token{Epoch: 1, Barrier: l.number} }

func (l *lateTap) Hold(_ events.Token, limit time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.number++
	return l.Tap.Hold(l.token(), limit)
}

func (l *lateTap) Mark(ctx context.Context, _ events.Token) (cdc.Marked, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Tap.Release(l.token())
	opened := time.NewTimer(2 * time.Millisecond) // the fault itself: writes are admitted meanwhile
	<-opened.C
	l.number++
	if err := l.Tap.Hold(l.token(), time.Second); err != nil {
		return cdc.Marked{}, err
	}
	return l.Tap.Mark(ctx, l.token())
}

func (l *lateTap) Release(events.Token) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Tap.Release(l.token())
}

// The check can fail: with one tap that opens before it marks it does.
func TestCheckFindsATapThatOpensBeforeItMarks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	_, violations := r.cut(100, false, func(i int, tap Tap) Tap {
		if i == 1 {
			return &lateTap{Tap: tap}
		}
		return tap
	}, func(context.Context, *Coordinator) {})
	if len(violations) == 0 {
		t.Error("no violation was found: the check proves nothing")
	} else {
		t.Logf("%d violations, such as %s", len(violations), violations[0])
	}
}

// saboteur keeps what it hears on the barriers' subjects and says it again later, as it was or with
// the token of an older snapshotter, and makes some up.
type saboteur struct {
	r     *rig
	rnd   *rand.Rand
	inbox string
	epoch uint64
	heard chan *nats.Msg
	kept  []*nats.Msg
}

func newSaboteur(r *rig, seed uint64, c *Coordinator) *saboteur {
	return &saboteur{r: r, rnd: rand.New(rand.NewPCG(seed, 1)), inbox: c.inbox, epoch: c.writer.Epoch(), heard: make(chan *nats.Msg, 1024)}
}

func (s *saboteur) run(ctx context.Context) {
	conn := s.r.site.Conn()
	for _, subject := range []string{tapSubject(testGroup, "*"), s.inbox} {
		sub, err := conn.ChanSubscribe(subject, s.heard)
		if err != nil {
			s.r.t.Error(err)
			return
		}
		defer func() { _ = sub.Unsubscribe() }()
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-s.heard:
			if s.kept = append(s.kept, m); len(s.kept) > 200 {
				s.kept = s.kept[1:]
			}
		case <-tick.C:
			if len(s.kept) == 0 {
				continue
			}
			m := s.kept[s.rnd.IntN(len(s.kept))]
			out := &nats.Msg{Subject: m.Subject, Reply: m.Reply, Data: m.Data}
			if s.rnd.IntN(2) == 0 {
				out.Data = s.older(m)
			}
			if err := conn.PublishMsg(out); err != nil {
				s.r.t.Error(err)
			}
		}
	}
}

// older is a request as an older snapshotter would have sent it.
func (s *saboteur) older(m *nats.Msg) []byte {
	var q request
	if m.Subject == s.inbox || json.Unmarshal(m.Data, &q) != nil {
		return m.Data
	}
	q.Token = events.Token{Epoch: s.epoch - 1, Barrier: q.Token.Barrier + uint64(s.rnd.IntN(1000))}
	q.Limit = time.Minute
	body, err := json.Marshal(q)
	if err != nil {
		s.r.t.Error(err)
	}
	return body
}

// [I] A tap that isn't told to mark within its hold limit opens by itself and refuses the token.
func TestRealTapOpensAtItsLimit(t *testing.T) {
	t.Parallel()
	r := tapRig(t)
	v := r.record("a")
	sub, err := r.site.Conn().SubscribeSync(announceSubject(testGroup))
	if err != nil {
		t.Fatal(err)
	}
	r.serve("a", v.epoch, v.recorder)
	r.eventually("the tap is ready", func() error {
		m, err := sub.NextMsg(10 * time.Second)
		var a announcement
		if err == nil {
			err = json.Unmarshal(m.Data, &a)
		}
		if err == nil && !a.Ready {
			err = errors.New(notReady("a", a.Progress))
		}
		return err
	})
	const limit = 50 * time.Millisecond
	q := request{identity: identity{1, v.epoch}, Verb: verbHold, Token: events.Token{Epoch: 1, Barrier: 1}, Limit: limit}
	asked := time.Now()
	if a := r.answered(r.ask("a", q)); a.Outcome != held {
		t.Fatalf("got %+v", a)
	}
	if err := v.recorder.Write(t.Context(), make([]byte, slotBytes), 0, false); err != nil {
		t.Fatal(err)
	}
	if waited := time.Since(asked); waited < limit {
		t.Errorf("a write passed a closed gate after %s", waited)
	}
	q.Verb, q.Limit = verbMark, time.Second
	if a := r.answered(r.ask("a", q)); a.Outcome != refused {
		t.Errorf("the mark of an opened tap got %+v", a)
	}
	q.Verb = verbHold
	r.ask("a", q) // said twice: must not close it again
	q.Token.Barrier++
	q.Verb, q.Limit = verbRelease, 0
	r.ask("a", q)
	if err := v.recorder.Write(t.Context(), make([]byte, slotBytes), 0, false); err != nil {
		t.Fatal(err)
	}
}
