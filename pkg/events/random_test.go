package events

import (
	"bytes"
	"flag"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

var seedFlag = flag.Uint64("seed", 0, "seed of random events; 0: another one each time")

// generator makes random events that keep every limit and often stand exactly at one.
type generator struct{ *rand.Rand }

func newGenerator(t testing.TB) generator {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed: -seed %d", seed)
	return generator{rand.New(rand.NewPCG(seed, seed))}
}

// length is a length from least to most, often one of the two or a value where msgpack's form changes.
func (g generator) length(least, most int) int {
	n := least + g.IntN(most-least+1)
	switch g.IntN(8) {
	case 0:
		n = least
	case 1:
		n = most
	case 2:
		n = []int{15, 16, 31, 32, 255, 256, 65535, 65536}[g.IntN(8)]
	}
	return max(least, min(most, n))
}

func (g generator) uint(least uint64) uint64 {
	return max(least, g.Uint64()>>g.IntN(64))
}

func (g generator) int(least int64) int64 {
	return max(least, int64(g.Uint64()>>(1+g.IntN(63))))
}

func (g generator) uint32(least uint32) uint32 { return max(least, g.Uint32()>>g.IntN(32)) }

func (g generator) bytes(n int) []byte {
	if n == 0 {
		return nil
	}
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(g.Uint32())
	}
	return p
}

func (g generator) text(least, most int) string {
	n := g.length(least, most)
	s := strings.Repeat([]string{"a", "ß", "volume-", "海"}[g.IntN(4)], n)
	for len(s) > n || s != strings.ToValidUTF8(s, "") {
		s = strings.ToValidUTF8(s[:min(n, len(s)-1)], "")
	}
	return s + strings.Repeat("x", max(0, least-len(s)))
}

func (g generator) name() string     { return g.text(1, MaxName) }
func (g generator) optional() string { return g.text(0, MaxName) }

func (g generator) names(limit int) []string {
	n := g.length(0, limit)
	if n == 0 {
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = g.text(1, 40)
	}
	return list
}

func (g generator) duration() time.Duration { return time.Duration(g.int(0)) }
func (g generator) time() time.Time         { return time.Unix(0, g.int(0)).UTC() }
func (g generator) token() Token            { return Token{g.uint(1), g.uint(1)} }
func (g generator) position() Position      { return Position{g.uint32(1), g.uint(1)} }
func (g generator) pass() PassKind          { return PassKind(1 + g.IntN(3)) }

func (g generator) header() Header {
	h := Header{Epoch: g.uint(1), Time: g.time()}
	if g.IntN(2) == 0 {
		h.Trace = g.bytes(traceSize)
	}
	return h
}

func (g generator) extent(limit int64) (offset, length int64) {
	length = min(g.int(1), limit)
	return min(g.int(0), math.MaxInt64-length), length
}

func (g generator) frame(t testing.TB) *Frame {
	ops := make([]Op, g.length(1, 300))
	total := 0
	for i := range ops {
		op := &ops[i]
		op.Kind = OpKind(1 + g.IntN(3))
		op.Offset, op.Length = g.extent(math.MaxInt64)
		if op.Kind == OpWrite {
			if total == MaxContent {
				op.Kind = OpZero
				continue
			}
			op.Length = int64(g.length(1, min(8192, MaxContent-total)))
			op.Offset = min(op.Offset, math.MaxInt64-op.Length)
			total += int(op.Length)
		}
	}
	content := g.bytes(total)
	if g.IntN(2) == 0 {
		for i := range content {
			content[i] &= 1
		}
	}
	f, err := NewFrame(ops, content, Compression(g.IntN(2)))
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.Content(make([]byte, g.IntN(total+2)))
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("content differs, error %v", err)
	}
	return f
}

func (g generator) commit() *Commit {
	c := &Commit{
		Token: g.token(), Type: BarrierKind(1 + g.IntN(3)), Label: g.name(), Time: g.time(), Roster: g.uint(1),
		Revision: g.optional(), Hold: g.duration(),
	}
	for i := range g.length(1, 300) {
		c.Vector = append(c.Vector, VectorEntry{string(rune('A'+i)) + g.text(0, 36), g.position()})
	}
	g.Shuffle(len(c.Vector), func(i, j int) { c.Vector[i], c.Vector[j] = c.Vector[j], c.Vector[i] })
	for range g.IntN(4) {
		c.Hooks = append(c.Hooks, HookResult{g.name(), g.text(0, MaxText), g.duration()})
	}
	if g.IntN(2) == 0 {
		p := g.position()
		c.Objects = &p
	}
	return c
}

func (g generator) object() *Object {
	o := &Object{
		Verb: Verb(1 + g.IntN(2)), Key: ObjectKey{g.optional(), g.name(), g.name(), g.optional(), g.name()},
		UID: g.optional(), Revision: g.optional(), Parts: g.uint32(1),
	}
	o.Part = g.Uint32N(o.Parts)
	if o.Verb == Upsert {
		o.Raw = g.bytes(g.length(1, MaxRaw))
	}
	return o
}

func (g generator) listed() *Listed {
	l := &Listed{Group: g.optional(), Version: g.name(), Resource: g.name(), Revision: g.optional(), Parts: g.uint32(1)}
	l.Part = g.Uint32N(l.Parts)
	for range g.length(0, 600) {
		l.Objects = append(l.Objects, ListedObject{g.optional(), g.name(), g.optional()})
	}
	return l
}

// event makes an event of kind k.
func (g generator) event(t testing.TB, k Kind) Event {
	t.Helper()
	switch k {
	case KindEpoch:
		e := &Epoch{Writer: g.name(), UID: g.optional(), Size: g.int(0), BlockSize: g.int(0)}
		if g.IntN(2) == 0 {
			e.Base = &Base{g.uint32(1), g.uint(1), g.uint(0)}
		}
		return e
	case KindFrame:
		return g.frame(t)
	case KindMark:
		return &Mark{g.token(), g.duration(), g.optional()}
	case KindRegionHash:
		h := &RegionHash{Hash: [32]byte(g.bytes(32))}
		h.Offset, h.Length = g.extent(MaxContent)
		return h
	case KindPassDone:
		return &PassDone{g.pass(), g.uint(0), g.uint(0)}
	case KindResize:
		old := min(g.int(0), math.MaxInt64-1)
		return &Resize{old, old + 1 + g.Int64N(math.MaxInt64-old)}
	case KindHeartbeat:
		total := g.int(0)
		return &Heartbeat{g.int(0), g.duration(), Progress{PassKind(g.IntN(4)), min(g.int(0), total), total}, g.names(300)}
	case KindObject:
		return g.object()
	case KindListed:
		return g.listed()
	case KindMember:
		return &Member{
			g.name(), g.optional(), MemberState(1 + g.IntN(3)), g.uint(1), Position{g.uint32(0), g.uint(0)}, g.text(0, MaxText),
		}
	case KindCommit:
		return g.commit()
	case KindHooksOpen:
		return &HooksOpen{g.token(), g.IntN(2) == 0, g.names(300)}
	}
	t.Fatalf("no generator for %s", k)
	return nil
}

// TestRoundTrip: what is appended is decoded, whatever the event.
func TestRoundTrip(t *testing.T) {
	g := newGenerator(t)
	prefix := []byte("kept")
	for i := range 100 {
		for k := KindEpoch; k <= KindHooksOpen; k++ {
			h, e := g.header(), g.event(t, k)
			buf, err := Append(bytes.Clone(prefix), h, e)
			if err != nil {
				t.Fatalf("round %d: %v", i, err)
			}
			msg, kept := bytes.CutPrefix(buf, prefix)
			if !kept {
				t.Fatalf("round %d: %s: what stood before the message has changed", i, k)
			}
			gotHeader, got, err := Decode("s", 1, msg)
			if err != nil {
				t.Fatalf("round %d: %v", i, err)
			}
			if !reflect.DeepEqual(gotHeader, h) || !reflect.DeepEqual(got, e) {
				t.Fatalf("round %d: %s: decoded\n%+v %+v\nwant\n%+v %+v", i, k, gotHeader, got, h, e)
			}
			again, err := Append(nil, gotHeader, got)
			if err != nil || !bytes.Equal(again, msg) {
				t.Fatalf("round %d: %s: encoded again it differs, error %v", i, k, err)
			}
		}
	}
}

// TestDecodedEventsOwnTheirFields: only Payload and Raw alias the message; the rest outlives its buffer.
func TestDecodedEventsOwnTheirFields(t *testing.T) {
	for _, s := range samples() {
		msg := mustAppend(t, s.header, s.event)
		h, e, err := Decode("s", 1, msg)
		if err != nil {
			t.Fatal(err)
		}
		clear(msg)
		switch e := e.(type) {
		case *Frame:
			if len(bytes.Trim(e.Payload, "\x00")) == 0 {
				e.Payload = s.event.(*Frame).Payload
			} else {
				t.Errorf("%s: payload was copied", s.name)
			}
		case *Object:
			if len(bytes.Trim(e.Raw, "\x00")) == 0 {
				e.Raw = s.event.(*Object).Raw
			} else {
				t.Errorf("%s: object was copied", s.name)
			}
		}
		if !reflect.DeepEqual(h, s.header) || !reflect.DeepEqual(e, s.event) {
			t.Errorf("%s: changed with the message's buffer: %+v %+v", s.name, h, e)
		}
	}
}

// TestConcurrentUse lets the race detector see the pools.
func TestConcurrentUse(t *testing.T) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				for _, s := range samples() {
					msg, err := Append(nil, s.header, s.event)
					if err != nil {
						t.Error(err)
						return
					}
					h, e, err := Decode("s", 1, msg)
					if err != nil || !reflect.DeepEqual(h, s.header) || !reflect.DeepEqual(e, s.event) {
						t.Errorf("%s: %+v %+v, error %v", s.name, h, e, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}
