package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/repair"
)

// recovery is a DR site that holds a replica of the volume, as the fakes of these tests go: it answers what it is
// told to.
type recovery struct {
	mu      sync.Mutex
	err     error // that Found answers; nil: found
	found   repair.Foundation
	image   []byte            // what the replica holds at found.Base
	stored  map[uint32]uint64 // by generation
	asked   int               // times that Found was asked
	compare int               // bytes that were asked for by hash
}

func (r *recovery) Found(_ context.Context, part, uid string) (repair.Foundation, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	if part == journal.Objects && uid == "" {
		return repair.Foundation{Newest: r.found.Newest}, r.err
	}
	if part != "orders" || uid == "" {
		return repair.Foundation{}, fmt.Errorf("asked for %q of %q", part, uid)
	}
	return r.found, r.err
}

func (r *recovery) Hashes(_ context.Context, _ string, base events.Base, off, length int64) (out [][32]byte, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.found.Base == nil || base != *r.found.Base {
		return nil, repair.ErrGone
	}
	r.compare += int(length)
	for at := off; at < min(off+length, int64(len(r.image))); at += repair.HashUnit {
		out = append(out, sha256.Sum256(r.image[at:min(at+repair.HashUnit, int64(len(r.image)))]))
	}
	return out, nil
}

func (r *recovery) Stored(_ context.Context, _ string, generation uint32) (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stored[generation], nil
}

func (r *recovery) set(change func(*recovery)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r)
}

func (r *recovery) times() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

// recoverFor answers for the DR site until the test's end.
func recoverFor(t *testing.T, site *journal.Site) *recovery {
	t.Helper()
	r := &recovery{stored: make(map[uint32]uint64)}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- repair.ServeRecovery(ctx, site.Conn(), "shop", r) }()
	t.Cleanup(func() { stop(); must(t, <-done) })
	eventually(t, "the DR site answers", func() bool {
		_, err := repair.RecoveryOf(site.Conn(), "shop").Stored(deadline(t), "orders", 1)
		return err == nil
	})
	return r
}

func stream(generation uint32) journal.StreamID {
	return journal.StreamID{Group: "shop", Part: "orders", Generation: generation}
}

// messages reads a whole generation.
func messages(t *testing.T, site *journal.Site, generation uint32) (out []journal.Message) {
	t.Helper()
	name := stream(generation).Name()
	tail, err := site.Tail(deadline(t), name)
	must(t, err)
	reader, err := site.OpenReader(deadline(t), name, 1)
	must(t, err)
	defer reader.Close()
	for uint64(len(out)) < tail.Last {
		m, err := reader.Next(deadline(t))
		must(t, err)
		out = append(out, m)
	}
	return out
}

// apply puts the frames of a generation on an image, up to a sequence (0: all), and counts their content from
// a sequence on.
func apply(t *testing.T, image []byte, all []journal.Message, to, countFrom uint64) (sent int64) {
	t.Helper()
	for _, m := range all {
		f, ok := m.Event.(*events.Frame)
		if !ok || to > 0 && m.Seq > to {
			continue
		}
		content, err := f.Content(nil)
		must(t, err)
		for _, op := range f.Ops {
			area := image[op.Offset : op.Offset+op.Length]
			clear(area)
			if op.Kind == events.OpWrite {
				content = content[copy(area, content):]
			}
			if m.Seq >= countFrom {
				sent += op.Length
			}
		}
	}
	return sent
}

func (s *shore) device(t *testing.T) []byte {
	t.Helper()
	device, err := os.ReadFile(s.image())
	must(t, err)
	return device
}

// fill writes the whole volume, so that nothing of it is a hole.
func (s *shore) fill(t *testing.T) {
	t.Helper()
	c := s.dial(t)
	for off := int64(0); off < volumeSize; off += 64 << 10 {
		_, err := c.WriteAt(bytes.Repeat([]byte{byte(off>>16) + 1}, 64<<10), off)
		must(t, err)
	}
	must(t, c.Flush(deadline(t)))
	must(t, c.Disconnect())
}

func (s *shore) write(t *testing.T, value byte, off int64) {
	t.Helper()
	c := s.dial(t)
	_, err := c.WriteAt(bytes.Repeat([]byte{value}, 4096), off)
	must(t, err)
	must(t, c.Flush(deadline(t)))
	must(t, c.Disconnect())
}

// settled waits until a pass of the generation is done and everything written is in the journal.
func (s *shore) settled(t *testing.T, site *journal.Site, generation uint32, passes int) []journal.Message {
	t.Helper()
	var all []journal.Message
	eventually(t, fmt.Sprintf("pass %d of generation %d is done", passes, generation), func() bool {
		if _, err := site.Tail(deadline(t), stream(generation).Name()); err != nil {
			return false
		}
		all = messages(t, site, generation)
		done := 0
		for _, m := range all {
			if p, ok := m.Event.(*events.PassDone); ok && p.Pass != events.PassScrub {
				done++
			}
		}
		return done >= passes
	})
	return all
}

// checkEqual compares what a generation gives on top of an image with the device.
func (s *shore) checkEqual(t *testing.T, image []byte, all []journal.Message) {
	t.Helper()
	apply(t, image, all, 0, 0)
	if !bytes.Equal(image, s.device(t)) {
		t.Error("the journal doesn't give what the device holds")
	}
}

func base(t *testing.T, all []journal.Message) *events.Base {
	t.Helper()
	e, ok := all[0].Event.(*events.Epoch)
	if !ok {
		t.Fatalf("the generation begins with %T", all[0].Event)
	}
	return e.Base
}

// A restart sends what the log lists and nothing else: behind an end in order that is nothing.
func TestRestartSendsNothing(t *testing.T) {
	s := newShore(t)
	site := s.startBus(t)
	p := s.start(t)
	p.await(t, "msg=recording")
	s.fill(t)
	must(t, p.end())
	before := messages(t, site, 1)
	p = s.start(t)
	p.await(t, `msg="pass done"`)
	s.write(t, 7, 8192)
	must(t, p.end())
	all := messages(t, site, 1)
	if sent := apply(t, make([]byte, volumeSize), all, 0, uint64(len(before))+1); sent != 4096 {
		t.Errorf("%d bytes were sent again", sent-4096)
	}
	s.checkEqual(t, make([]byte, volumeSize), all)
}

// A volume that comes to another node, or back with a log that is out of date, is compared with its replica, and
// what differs is sent in a new generation.
func TestMovedVolumeIsCompared(t *testing.T) {
	s := newShore(t)
	site := s.startBus(t)
	dr := recoverFor(t, site)
	p := s.start(t)
	p.await(t, "msg=recording")
	s.fill(t)
	must(t, p.end())
	first := messages(t, site, 1)
	replica := make([]byte, volumeSize)
	apply(t, replica, first, 0, 0)
	last := first[len(first)-1].Seq
	dr.set(func(r *recovery) {
		r.found = repair.Foundation{Base: &events.Base{Generation: 1, Seq: last, Barrier: 9}, Size: volumeSize, Newest: 1, Epoch: 1}
		r.image, r.stored[1] = bytes.Clone(replica), last
	})

	p = s.start(t, "--state", filepath.Join(s.dir, "elsewhere"))
	p.await(t, `msg="pass done"`)
	s.write(t, 9, 1<<20)
	must(t, p.end())
	second := s.settled(t, site, 2, 1)
	if b := base(t, second); b == nil || *b != *dr.found.Base {
		t.Errorf("generation 2 begins on %+v", b)
	}
	if sent := apply(t, make([]byte, volumeSize), second, 0, 0); sent != 4096 || dr.compare < volumeSize {
		t.Errorf("%d bytes were sent, %d compared", sent, dr.compare)
	}
	s.checkEqual(t, bytes.Clone(replica), second)

	// The first node's log is behind now. The replica has not got the last write: it is found by comparison.
	dr.set(func(r *recovery) {
		r.found.Base, r.found.Newest = &events.Base{Generation: 2, Seq: 2, Barrier: 10}, 2
		r.compare = 0
	})
	p = s.start(t)
	p.await(t, `msg="pass done"`)
	must(t, p.end())
	third := s.settled(t, site, 3, 1)
	if sent := apply(t, make([]byte, volumeSize), third, 0, 0); sent < 4096 || sent > repair.HashUnit || dr.compare < volumeSize {
		t.Errorf("%d bytes were sent, %d compared", sent, dr.compare)
	}
	s.checkEqual(t, replica, third)
}

// While the DR site can't be asked, the volume is served and not recorded.
func TestWaitsForTheDRSite(t *testing.T) {
	s := newShore(t)
	site := s.startBus(t)
	p := s.start(t)
	p.await(t, "msg=recording")
	s.fill(t)
	must(t, p.end())
	p = s.start(t, "--state", filepath.Join(s.dir, "elsewhere"))
	p.await(t, "nothing is recorded until the DR site tells")
	s.write(t, 3, 0)
	before := len(messages(t, site, 1))
	dr := recoverFor(t, site)
	dr.set(func(r *recovery) { r.err = repair.ErrBusy })
	eventually(t, "the DR site is asked again", func() bool { return dr.times() > 0 })
	dr.set(func(r *recovery) { r.err, r.found = nil, repair.Foundation{Newest: 1} })
	all := s.settled(t, site, 2, 1)
	must(t, p.end())
	if n := len(messages(t, site, 1)); n != before {
		t.Errorf("%d messages went into the stream that can't be continued", n-before)
	}
	if base(t, all) != nil {
		t.Error("the generation has a base although the DR site holds nothing")
	}
	s.checkEqual(t, make([]byte, volumeSize), messages(t, site, 2))
}

// [I] A stream that lost its history is not continued. Where the log covers what is lost, only that is sent.
func TestLostHistoryWhileRunning(t *testing.T) {
	s := newShore(t)
	s.size = 16 << 20
	s.writeDocument(t, "")
	site := s.startBus(t)
	dr := recoverFor(t, site)
	p := s.start(t)
	p.await(t, `msg="pass done"`)
	s.fill(t) // the first 4 MiB
	s.write(t, 1, 5<<20)
	var kept journal.Message
	var first []journal.Message
	eventually(t, "everything is stored", func() bool {
		first = messages(t, site, 1)
		image := make([]byte, s.size)
		apply(t, image, first, 0, 0)
		kept = first[len(first)-1]
		return bytes.Equal(image, s.device(t))
	})
	s.write(t, 2, 9<<20) // this is going to be lost
	lost := bytes.Clone(s.device(t))
	replica := make([]byte, s.size)
	apply(t, replica, first, kept.Seq, 0)
	if bytes.Equal(lost, replica) {
		t.Fatal("nothing is going to be lost")
	}
	dr.set(func(r *recovery) {
		r.found = repair.Foundation{Base: &events.Base{Generation: 1, Seq: kept.Seq, Barrier: 4}, Size: s.size, Newest: 1, Epoch: 1}
		r.image = bytes.Clone(replica)
	})
	must(t, site.JetStream().DeleteStream(deadline(t), stream(1).Name()))
	second := s.settled(t, site, 2, 1)
	s.write(t, 4, 13<<20)
	must(t, p.end())
	if !strings.Contains(p.log.String(), "covered=true") {
		t.Error("the log doesn't cover what was lost")
	}
	if dr.compare > 8<<20 {
		t.Errorf("%d bytes were compared", dr.compare)
	}
	if sent := apply(t, make([]byte, s.size), second, 0, 0); sent > 2*repair.HashUnit {
		t.Errorf("%d bytes were sent", sent)
	}
	s.checkEqual(t, replica, messages(t, site, 2))
}

// [I] A stream that ends below the DR site's mirror has lost history, although nobody here knows of it. Nor does
// anybody know whose the lost history was, so everything is compared.
func TestMirrorIsAhead(t *testing.T) {
	s := newShore(t)
	site := s.startBus(t)
	dr := recoverFor(t, site)
	p := s.start(t)
	p.await(t, "msg=recording")
	s.fill(t)
	must(t, p.end())
	first := messages(t, site, 1)
	last := first[len(first)-1].Seq
	replica := bytes.Clone(s.device(t))
	copy(replica[1<<20:], "what the primary has lost")
	dr.set(func(r *recovery) {
		r.stored[1] = last + 10
		r.found = repair.Foundation{Base: &events.Base{Generation: 1, Seq: last + 10, Barrier: 4}, Size: volumeSize, Newest: 1}
		r.image = bytes.Clone(replica)
	})
	p = s.start(t)
	s.settled(t, site, 2, 1)
	must(t, p.end())
	if n := len(messages(t, site, 1)); n != len(first) {
		t.Errorf("%d messages were appended to the stream that lost history", n-len(first))
	}
	s.checkEqual(t, replica, messages(t, site, 2))
}

// A name that was given to another volume: nothing of the old one's history is used.
func TestAnotherVolume(t *testing.T) {
	s := newShore(t)
	site := s.startBus(t)
	dr := recoverFor(t, site)
	p := s.start(t)
	p.await(t, "msg=recording")
	s.fill(t)
	must(t, p.end())
	dr.set(func(r *recovery) { r.found = repair.Foundation{Newest: 1} })
	s.uid = "u9"
	s.writeDocument(t, "")
	p = s.start(t)
	all := s.settled(t, site, 2, 1)
	must(t, p.end())
	if e := all[0].Event.(*events.Epoch); e.Base != nil || e.UID != "u9" {
		t.Errorf("the generation begins with %+v", e)
	}
	s.checkEqual(t, make([]byte, volumeSize), messages(t, site, 2))
}

// Without a bus the volume is served: reads and writes go on, and what was written is sent when there is one.
func TestServesWithoutABus(t *testing.T) {
	s := newShore(t)
	p := s.start(t)
	p.await(t, "msg=ready")
	s.fill(t)
	c := s.dial(t)
	got := make([]byte, 4096)
	_, err := c.ReadAt(got, 1<<20)
	must(t, err)
	if got[0] != 17 {
		t.Errorf("read %d", got[0])
	}
	must(t, c.Disconnect())
	must(t, p.end())
	p = s.start(t)
	p.await(t, "msg=ready")
	s.write(t, 200, 0)
	site := s.startBus(t)
	s.settled(t, site, 1, 1)
	must(t, p.end())
	s.checkEqual(t, make([]byte, volumeSize), messages(t, site, 1))
}

// The DR site's requests: a new generation, a range again, a scrub.
func TestMending(t *testing.T) {
	s := newShore(t)
	site := s.startBus(t)
	dr := recoverFor(t, site)
	dr.set(func(r *recovery) { r.found = repair.Foundation{Newest: 1} })
	p := s.start(t)
	p.await(t, "msg=recording")
	s.fill(t)
	s.settled(t, site, 1, 1)
	capture := repair.CaptureOf(site.Conn(), "shop", "orders")
	if err := capture.Heal(deadline(t), []repair.Range{{Offset: 0, Length: volumeSize + 1}}); !errors.Is(err, repair.ErrRefused) {
		t.Errorf("heal outside of the volume: %v", err)
	}
	before := len(messages(t, site, 1))
	must(t, capture.Heal(deadline(t), []repair.Range{{Offset: 0, Length: 4096}}))
	eventually(t, "the range is sent again", func() bool {
		return apply(t, make([]byte, volumeSize), messages(t, site, 1), 0, uint64(before)+1) > 0
	})
	scrub, err := capture.Scrub(deadline(t))
	must(t, err)
	eventually(t, "the scrub is done", func() bool {
		scrub, err = capture.Scrubbed(deadline(t), scrub.Number)
		must(t, err)
		return scrub.Seq > 0
	})
	if m := messages(t, site, 1)[scrub.Seq-1]; scrub.Generation != 1 || scrub.Done != volumeSize {
		t.Errorf("%+v, and there is %+v", scrub, m.Event)
	} else if e, ok := m.Event.(*events.PassDone); !ok || e.Pass != events.PassScrub {
		t.Errorf("the scrub ends with %+v", m.Event)
	}
	if _, err := capture.Scrubbed(deadline(t), 99); !errors.Is(err, repair.ErrGone) {
		t.Errorf("another scrub: %v", err)
	}
	must(t, capture.Incarnate(deadline(t), 1, 2, 3))
	must(t, capture.Pause(deadline(t), 1, time.Now().Add(time.Hour)))
	must(t, capture.Pause(deadline(t), 1, time.Time{}))
	for range 2 {
		eventually(t, "renew", func() bool { return capture.Renew(deadline(t), 1, "the mirror is damaged") == nil })
		s.settled(t, site, 2, 1)
	}
	must(t, p.end())
	s.checkEqual(t, make([]byte, volumeSize), messages(t, site, 2))
	if n, err := site.Generation(deadline(t), "shop", "orders"); err != nil || n != 2 {
		t.Errorf("generation %d, %v", n, err)
	}
}
