package events

import (
	"errors"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// unchecked encodes as Append does, but without looking at the limits.
func unchecked(h Header, e Event) []byte {
	w := writers.Get().(*writer)
	defer writers.Put(w)
	w.buf = nil
	w.array(messageElems)
	w.uint(Version)
	w.uint(uint64(e.Kind()))
	w.uint(h.Epoch)
	w.time(h.Time)
	w.bin(h.Trace)
	e.(body).encode(w)
	return seal(w.buf)
}

// sampleOf returns the sample's event as a fresh copy.
func sampleOf[T Event](t *testing.T, name string) T {
	t.Helper()
	for _, s := range samples() {
		if e, ok := s.event.(T); ok && s.name == name {
			return e
		}
	}
	t.Fatalf("no sample %s", name)
	panic("unreachable")
}

func change[T Event](t *testing.T, name string, f func(e T)) Event {
	t.Helper()
	e := sampleOf[T](t, name)
	f(e)
	return e
}

var (
	longName  = strings.Repeat("n", MaxName+1)
	longText  = strings.Repeat("n", MaxText+1)
	broken    = "not \xff text"
	manyNames = slices.Repeat([]string{"n"}, MaxMembers+1)
)

// invalid are events that break one limit each.
func invalid(t *testing.T) map[string]Event {
	t.Helper()
	all := map[string]Event{}
	for _, part := range []map[string]Event{
		invalidFrames(t), invalidVolumeEvents(t), invalidObjects(t), invalidControlEvents(t),
	} {
		for what, e := range part {
			if all[what] != nil {
				t.Fatalf("two cases %q", what)
			}
			all[what] = e
		}
	}
	return all
}

func invalidFrames(t *testing.T) map[string]Event {
	frame := func(f func(*Frame)) Event { return change(t, "frame", f) }
	packed := func(f func(*Frame)) Event { return change(t, "frame-s2", f) }
	return map[string]Event{
		"frame without operations": &Frame{},
		"frame with too many operations": frame(func(f *Frame) {
			f.Ops = append(f.Ops, slices.Repeat([]Op{{OpZero, 0, 1}}, MaxOps)...)
		}),
		"operation of kind 0":            frame(func(f *Frame) { f.Ops[1].Kind = 0 }),
		"operation of an unknown kind":   frame(func(f *Frame) { f.Ops[1].Kind = OpTrim + 1 }),
		"operation at a negative offset": frame(func(f *Frame) { f.Ops[0].Offset = -1 }),
		"operation without length":       frame(func(f *Frame) { f.Ops[1].Length = 0 }),
		"operation of negative length":   frame(func(f *Frame) { f.Ops[1].Length = -1 }),
		"operation that overflows":       frame(func(f *Frame) { f.Ops[1] = Op{OpTrim, math.MaxInt64, 1} }),
		"writes of more than the content": frame(func(f *Frame) {
			f.Ops[0].Length++
		}),
		"writes of less than the content": frame(func(f *Frame) { f.Ops[0].Length-- }),
		"writes whose sum overflows": frame(func(f *Frame) {
			f.Ops = []Op{{OpWrite, 0, math.MaxInt64}, {OpWrite, 0, math.MaxInt64}, {OpWrite, 0, 10}}
		}),
		"content of negative length": frame(func(f *Frame) { f.Ops, f.Length, f.Payload = f.Ops[1:2], -1, nil }),
		"too much content": &Frame{
			Ops: []Op{{OpWrite, 0, MaxContent + 1}}, Length: MaxContent + 1, Payload: make([]byte, MaxContent+1),
		},
		"payload shorter than the content":     frame(func(f *Frame) { f.Payload = f.Payload[:7] }),
		"payload longer than the content":      frame(func(f *Frame) { f.Payload = append(f.Payload, 0) }),
		"unknown compression":                  packed(func(f *Frame) { f.Compression = S2 + 1 }),
		"compression that makes it no shorter": packed(func(f *Frame) { f.Payload = append(f.Payload, make([]byte, 58)...) }),
		"compressed payload of another length": packed(func(f *Frame) { f.Payload[0]++ }),
		"compressed payload without a length":  packed(func(f *Frame) { f.Payload = []byte{0xff} }),
		"compressed nothing":                   packed(func(f *Frame) { f.Payload = nil }),
	}
}

func invalidVolumeEvents(t *testing.T) map[string]Event {
	epoch := func(f func(*Epoch)) Event { return change(t, "epoch", f) }
	mark := func(f func(*Mark)) Event { return change(t, "mark", f) }
	beat := func(f func(*Heartbeat)) Event { return change(t, "heartbeat", f) }
	return map[string]Event{
		"epoch without a writer":          epoch(func(e *Epoch) { e.Writer = "" }),
		"epoch with a long writer":        epoch(func(e *Epoch) { e.Writer = longName }),
		"epoch with a broken uid":         epoch(func(e *Epoch) { e.UID = broken }),
		"epoch with a negative size":      epoch(func(e *Epoch) { e.Size = -1 }),
		"epoch with a negative block":     epoch(func(e *Epoch) { e.BlockSize = -1 }),
		"base without a generation":       epoch(func(e *Epoch) { e.Base.Generation = 0 }),
		"base without a sequence":         epoch(func(e *Epoch) { e.Base.Seq = 0 }),
		"mark without a token's epoch":    mark(func(m *Mark) { m.Token.Epoch = 0 }),
		"mark without a token's barrier":  mark(func(m *Mark) { m.Token.Barrier = 0 }),
		"mark with a negative hold":       mark(func(m *Mark) { m.Hold = -1 }),
		"mark with a long revision":       mark(func(m *Mark) { m.Revision = longName }),
		"region without length":           &RegionHash{},
		"region at a negative offset":     &RegionHash{Offset: -1, Length: 1},
		"region that overflows":           &RegionHash{Offset: math.MaxInt64, Length: 1},
		"region larger than a frame":      &RegionHash{Length: MaxContent + 1},
		"pass of kind 0":                  &PassDone{},
		"pass of an unknown kind":         &PassDone{Pass: PassScrub + 1},
		"resize that shrinks":             &Resize{Old: 2, New: 1},
		"resize that keeps":               &Resize{Old: 2, New: 2},
		"resize from a negative size":     &Resize{Old: -1, New: 1},
		"heartbeat with a negative debt":  beat(func(h *Heartbeat) { h.DebtBytes = -1 }),
		"heartbeat with a negative age":   beat(func(h *Heartbeat) { h.DebtAge = -1 }),
		"heartbeat of an unknown pass":    beat(func(h *Heartbeat) { h.Progress.Pass = PassScrub + 1 }),
		"progress below nothing":          beat(func(h *Heartbeat) { h.Progress.Done = -1 }),
		"progress beyond everything":      beat(func(h *Heartbeat) { h.Progress.Done = h.Progress.Total + 1 }),
		"heartbeat with too many missing": beat(func(h *Heartbeat) { h.Missing = manyNames }),
		"heartbeat with a nameless one":   beat(func(h *Heartbeat) { h.Missing = []string{""} }),
	}
}

func invalidObjects(t *testing.T) map[string]Event {
	object := func(f func(*Object)) Event { return change(t, "object", f) }
	listed := func(f func(*Listed)) Event { return change(t, "listed", f) }
	return map[string]Event{
		"object of verb 0":              object(func(o *Object) { o.Verb = 0 }),
		"object of an unknown verb":     object(func(o *Object) { o.Verb = Delete + 1 }),
		"object with a long group":      object(func(o *Object) { o.Key.Group = longName }),
		"object without a version":      object(func(o *Object) { o.Key.Version = "" }),
		"object without a resource":     object(func(o *Object) { o.Key.Resource = "" }),
		"object in a broken namespace":  object(func(o *Object) { o.Key.Namespace = broken }),
		"object without a name":         object(func(o *Object) { o.Key.Name = "" }),
		"object with a long uid":        object(func(o *Object) { o.UID = longName }),
		"object with a long revision":   object(func(o *Object) { o.Revision = longName }),
		"object without parts":          object(func(o *Object) { o.Part, o.Parts = 0, 0 }),
		"object's part behind the last": object(func(o *Object) { o.Part = o.Parts }),
		"object without content":        object(func(o *Object) { o.Raw = nil }),
		"object too large":              object(func(o *Object) { o.Raw = make([]byte, MaxRaw+1) }),
		"deletion with content":         object(func(o *Object) { o.Verb = Delete }),
		"list of a long group":          listed(func(l *Listed) { l.Group = longName }),
		"list without a version":        listed(func(l *Listed) { l.Version = "" }),
		"list without a resource":       listed(func(l *Listed) { l.Resource = "" }),
		"list of a long revision":       listed(func(l *Listed) { l.Revision = longName }),
		"list without parts":            listed(func(l *Listed) { l.Parts = 0 }),
		"list's part behind the last":   listed(func(l *Listed) { l.Part = 1 }),
		"list with a nameless object":   listed(func(l *Listed) { l.Objects[1].Name = "" }),
		"list with a broken namespace":  listed(func(l *Listed) { l.Objects[1].Namespace = broken }),
		"list with a long uid":          listed(func(l *Listed) { l.Objects[1].UID = longName }),
		"list of too many": listed(func(l *Listed) {
			l.Objects = slices.Repeat(l.Objects, MaxListed/2+1)
		}),
	}
}

func invalidControlEvents(t *testing.T) map[string]Event {
	member := func(f func(*Member)) Event { return change(t, "member", f) }
	commit := func(f func(*Commit)) Event { return change(t, "commit", f) }
	hooks := func(f func(*HooksOpen)) Event { return change(t, "hooks-open", f) }
	return map[string]Event{
		"member without a volume":          member(func(m *Member) { m.Volume = "" }),
		"member with a long uid":           member(func(m *Member) { m.UID = longName }),
		"member in state 0":                member(func(m *Member) { m.State = 0 }),
		"member in an unknown state":       member(func(m *Member) { m.State = Left + 1 }),
		"member without a roster":          member(func(m *Member) { m.Roster = 0 }),
		"member with a long comment":       member(func(m *Member) { m.Comment = longText }),
		"commit without a barrier":         commit(func(c *Commit) { c.Token.Barrier = 0 }),
		"commit of type 0":                 commit(func(c *Commit) { c.Type = 0 }),
		"commit of an unknown type":        commit(func(c *Commit) { c.Type = Labeled + 1 }),
		"labelled commit without a label":  commit(func(c *Commit) { c.Label = "" }),
		"commit with a long label":         commit(func(c *Commit) { c.Label = longName }),
		"commit without a roster":          commit(func(c *Commit) { c.Roster = 0 }),
		"commit of nothing":                commit(func(c *Commit) { c.Vector, c.Objects = nil, nil }),
		"commit of too many":               commit(func(c *Commit) { c.Vector = slices.Repeat(c.Vector[:1], MaxMembers+1) }),
		"commit of one volume twice":       commit(func(c *Commit) { c.Vector = append(c.Vector, c.Vector[0]) }),
		"commit of a nameless volume":      commit(func(c *Commit) { c.Vector[0].Volume = "" }),
		"commit without a generation":      commit(func(c *Commit) { c.Vector[0].Position.Generation = 0 }),
		"commit without a sequence":        commit(func(c *Commit) { c.Vector[1].Position.Seq = 0 }),
		"commit with a nameless hook":      commit(func(c *Commit) { c.Hooks[0].Name = "" }),
		"commit with a long error":         commit(func(c *Commit) { c.Hooks[1].Error = longText }),
		"commit with a negative duration":  commit(func(c *Commit) { c.Hooks[1].Duration = -1 }),
		"commit with too many hooks":       commit(func(c *Commit) { c.Hooks = slices.Repeat(c.Hooks[:1], MaxMembers+1) }),
		"commit with a long revision":      commit(func(c *Commit) { c.Revision = longName }),
		"commit without objects' position": commit(func(c *Commit) { c.Objects.Seq = 0 }),
		"commit with a negative hold":      commit(func(c *Commit) { c.Hold = -1 }),
		"hooks without a token":            hooks(func(h *HooksOpen) { h.Token = Token{} }),
		"hooks with a broken name":         hooks(func(h *HooksOpen) { h.Hooks[0] = broken }),
		"too many hooks":                   hooks(func(h *HooksOpen) { h.Hooks = manyNames }),
	}
}

// TestLimitsHoldInBothDirections: Append refuses the event, and Decode the message that a writer
// without limits would have made of it.
func TestLimitsHoldInBothDirections(t *testing.T) {
	h := samples()[0].header
	for what, e := range invalid(t) {
		dst, err := Append([]byte("kept"), h, e)
		if !errors.Is(err, ErrMalformed) || string(dst) != "kept" {
			t.Errorf("%s: appended, error %v", what, err)
		}
		refused(t, what, unchecked(h, e), ErrMalformed)
	}
}

func TestHeaderLimits(t *testing.T) {
	good := samples()[0].header
	for what, f := range map[string]func(*Header){
		"epoch 0":     func(h *Header) { h.Epoch = 0 },
		"short trace": func(h *Header) { h.Trace = h.Trace[:24] },
		"long trace":  func(h *Header) { h.Trace = make([]byte, 26) },
		"time of old": func(h *Header) { h.Time = time.Unix(-1, 0) },
	} {
		h := good
		f(&h)
		if _, err := Append(nil, h, &PassDone{Pass: PassSeed}); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: appended, error %v", what, err)
		}
		refused(t, what, unchecked(h, &PassDone{Pass: PassSeed}), ErrMalformed)
	}
	for what, at := range map[string]time.Time{
		"no time": {}, "time of old": time.Unix(-1, 999999999), "time to come": time.Unix(0, math.MaxInt64).Add(1),
	} {
		h := good
		h.Time = at
		if _, err := Append(nil, h, &PassDone{Pass: PassSeed}); !errors.Is(err, ErrMalformed) {
			t.Errorf("header with %s: appended, error %v", what, err)
		}
		c := sampleOf[*Commit](t, "commit")
		c.Time = at
		if _, err := Append(nil, good, c); !errors.Is(err, ErrMalformed) {
			t.Errorf("commit with %s: appended, error %v", what, err)
		}
	}
}

type foreign struct{}

func (foreign) Kind() Kind { return KindMark }

func TestAppendRefusesWhatIsNoEvent(t *testing.T) {
	for _, e := range []Event{nil, (*Frame)(nil), (*Commit)(nil), foreign{}} {
		if _, err := Append(nil, samples()[0].header, e); !errors.Is(err, ErrMalformed) {
			t.Errorf("%T: error %v", e, err)
		}
	}
}

// TestLargestEventsFit: what the limits of Frame and Object allow always fits a message; the lists of others
// may not, and then Append says so.
func TestLargestEventsFit(t *testing.T) {
	h := Header{Epoch: math.MaxUint64, Time: latest, Trace: make([]byte, traceSize)}
	ops := slices.Repeat([]Op{{OpWrite, math.MaxInt64 - MaxContent, MaxContent / MaxOps}}, MaxOps)
	f, err := NewFrame(ops, make([]byte, MaxContent), Uncompressed)
	if err != nil {
		t.Fatal(err)
	}
	n := strings.Repeat("n", MaxName)
	o := &Object{
		Verb: Upsert, Key: ObjectKey{n, n, n, n, n}, UID: n, Revision: n,
		Part: math.MaxUint32 - 1, Parts: math.MaxUint32, Raw: make([]byte, MaxRaw),
	}
	for _, e := range []Event{f, o} {
		msg, err := Append(nil, h, e)
		if err != nil {
			t.Errorf("%s: %v", e.Kind(), err)
		}
		if _, _, err := Decode("s", 1, msg); err != nil {
			t.Error(err)
		}
	}
	c := &Commit{Token: Token{1, 1}, Type: Crash, Time: h.Time, Roster: 1}
	for i := range MaxMembers {
		c.Vector = append(c.Vector, VectorEntry{n[:40] + string(rune('a'+i)), Position{math.MaxUint32, math.MaxUint64}})
	}
	if _, err := Append(nil, h, c); err != nil {
		t.Errorf("vector of %d volumes with names of 40 bytes and more: %v", MaxMembers, err)
	}
	for i := range c.Vector {
		c.Vector[i].Volume = n[:MaxName-4] + string(rune('a'+i))
	}
	if _, err := Append(nil, h, c); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "message has") {
		t.Errorf("commit larger than a message: error %v", err)
	}
	refused(t, "commit larger than a message", unchecked(h, c), ErrMalformed)
}

// allocated returns the bytes that f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// mayAllocate is the bound on what reading a message of n bytes takes: the dearest values are texts and
// volumes of few bytes, and whatever else runs in the process at the time counts too.
func mayAllocate(n int) uint64 { return uint64(n)*64 + 64<<10 }

// TestClaimedLengthsAreNotBelieved: a short message that claims to hold a lot costs little.
func TestClaimedLengthsAreNotBelieved(t *testing.T) {
	claims := [][]byte{
		{0xdd, 0xff, 0xff, 0xff, 0xff}, {0xdf, 0xff, 0xff, 0xff, 0xff}, // array and map of 2^32-1
		{0xc6, 0xff, 0xff, 0xff, 0xff}, {0xdb, 0xff, 0xff, 0xff, 0xff}, {0xc9, 0xff, 0xff, 0xff, 0xff, 0}, // bytes, text, extension
		{0xdc, MaxOps >> 8, MaxOps & 0xff}, {0xc6, 0, MaxRaw >> 16, 0, 0}, // within the limit, beyond the message
	}
	for _, s := range samples() {
		msg := readGolden(t, s.name)
		content := msg[:len(msg)-trailerSize]
		for at := range content {
			for _, claim := range claims {
				hostile := append(slices.Clone(content[:at]), claim...)
				hostile = seal(append(hostile, content[at:]...))
				var err error
				if n := allocated(func() { _, _, err = Decode("s", 1, hostile) }); n > mayAllocate(len(hostile)) {
					t.Errorf("%s: %d bytes allocated for a message of %d", s.name, n, len(hostile))
				}
				if err == nil {
					t.Errorf("%s: read with % x at %d", s.name, claim, at)
				}
			}
		}
	}
}

// TestNestingCostsNothing: neither stack nor memory grows with nested arrays.
func TestNestingCostsNothing(t *testing.T) {
	nested := slices.Repeat([]byte{0x91}, MaxMessage)
	for what, msg := range map[string][]byte{"cut": nested, "sealed": seal(nested)} {
		if n := allocated(func() { refused(t, what, msg, ErrTruncated, ErrMalformed) }); n > mayAllocate(1) {
			t.Errorf("%s: %d bytes allocated", what, n)
		}
	}
}

// TestFramesCostFewAllocations: the payload is aliased when read and copied once, into room that is there, when written.
func TestFramesCostFewAllocations(t *testing.T) {
	f, err := NewFrame([]Op{{OpWrite, 0, MaxContent}}, make([]byte, MaxContent), Uncompressed)
	if err != nil {
		t.Fatal(err)
	}
	h, buf := samples()[0].header, make([]byte, 0, MaxMessage)
	msg := mustAppend(t, h, f)
	if n := testing.AllocsPerRun(100, func() { _, _ = Append(buf, h, f) }); n > 1 {
		t.Errorf("append: %v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() { _, _, _ = Decode("s", 1, msg) }); n > 4 {
		t.Errorf("decode: %v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() { _, _, _ = DecodeHeader("s", 1, msg) }); n > 2 {
		t.Errorf("decode header: %v allocations", n)
	}
}
