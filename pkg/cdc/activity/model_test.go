package activity

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

const logPath = "/state/v.log"

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// model is a log, and what has to be true of it by the rules of the package's documentation, kept in the
// simplest way: the sequence of a place is a multiple of the place, and time is counted in calls.
type model struct {
	t    testing.TB
	l    *Log
	d    *disk
	o    Options
	time int
	step uint64 // the sequence of a place is so many times the place

	regions map[uint32]*truth
	place   uint64 // the last one that was given out
	heard   uint64 // the last one that the log was told of
	stored  uint64
	flushed int      // when the last flush that succeeded began
	base    uint64   // stored when the stream was adopted
	tenures []tenure // that the file may tell: the last is the one that counts
	failed  int      // calls that failed
	flushes error    // what the device's flush answers
	settled func()   // called when a call has changed what has to be true
}

// truth is what is known of a region.
type truth struct {
	pins    int
	place   uint64 // of its last mutation; 0: none
	seq     uint64 // of its last mutation, in the newest stream
	ended   int    // when its last mutation ended
	owed    bool   // it has to be sent
	taken   bool   // and was given out since it had to be
	touched bool   // a mutation was ever announced, or it was ever stale, since the volume was sent
}

type tenure struct {
	Stream
	acked uint64
	seqs  map[uint32]uint64 // of an older stream: as truth.seq was
}

func newModel(t testing.TB, d *disk, regions uint32, hot int) *model {
	m := &model{t: t, d: d, regions: make(map[uint32]*truth), tenures: make([]tenure, 1), settled: func() {}, step: 10}
	m.o = Options{
		Path: logPath, UID: "u", Size: int64(regions) * RegionSize, Hot: hot, FS: d, Log: quiet, small: true,
		Now: func() time.Time { return time.Unix(1_800_000_000, 0) },
	}
	m.o.Flush = func() error {
		if m.flushes != nil {
			m.spoil()
			return m.flushes
		}
		m.flushed = m.time
		m.settled()
		return nil
	}
	for r := range regions {
		m.regions[r] = &truth{owed: true, touched: true}
	}
	return m
}

// must tells whether a region has to be stale when the log is opened again.
func (m *model) must(r uint32) bool {
	s := m.regions[r]
	return s.pins > 0 || s.owed || s.place > m.stored || s.ended > m.flushed
}

// call counts a call of the log.
func (m *model) call() {
	m.settled()
	m.time++
}

func (m *model) open() bool {
	m.call()
	l, err := Open(m.o)
	if err != nil {
		m.failed++
		return false
	}
	m.l = l
	return true
}

func (m *model) begin(first, n uint32) bool {
	for r := first; r < min(first+n+aheadRegions, uint32(len(m.regions))); r++ {
		m.regions[r].touched = true // or listed along with those that are
	}
	m.call()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	before := m.l.hotNow()
	if err := m.l.Begin(ctx, int64(first)*RegionSize, int64(n)*RegionSize); err != nil {
		m.failed++
		return false
	}
	if n := m.l.hotNow(); n > max(m.o.Hot, before) { // what was only sent again may exceed it
		m.t.Fatalf("%d regions are hot, and %d were", n, before)
	}
	for r := first; r < first+n; r++ {
		m.regions[r].pins++
	}
	return true
}

func (m *model) end(first, n uint32, sent bool) {
	m.call()
	place := uint64(0)
	if sent {
		m.place++
		place = m.place
	}
	for r := first; r < first+n; r++ {
		s := m.regions[r]
		s.pins--
		s.ended = m.time
		if sent {
			s.place, s.seq = place, place*m.step
		} else {
			s.owed, s.taken = true, false
		}
	}
	m.heard = max(m.heard, place)
	m.l.End(int64(first)*RegionSize, int64(n)*RegionSize, place)
}

func (m *model) write(first, n uint32) bool {
	ok := m.begin(first, n)
	if ok {
		m.end(first, n, true)
	}
	return ok
}

func (m *model) store(place uint64) {
	m.call()
	m.stored, m.heard = max(m.stored, place), max(m.heard, place)
	t := &m.tenures[len(m.tenures)-1]
	t.acked = max(t.acked, place*m.step)
	m.l.Stored(place, place*m.step)
}

func (m *model) flush() {
	m.call()
	begun := m.l.FlushBegun()
	m.flushed = m.time
	m.l.Flushed(begun)
}

func (m *model) owe(r uint32) {
	s := m.regions[r]
	s.owed, s.taken, s.touched = true, false, true
}

func (m *model) drop() {
	m.call()
	for r, s := range m.regions {
		s.taken = false
		if s.pins > 0 || s.place > m.stored {
			m.owe(r)
		}
	}
	m.l.Dropped()
}

func (m *model) markStale(first, n uint32) bool {
	for r := first; r < first+n; r++ {
		m.regions[r].touched = true
	}
	m.call()
	err := m.l.MarkStale(int64(first)*RegionSize, int64(n)*RegionSize)
	if err != nil {
		m.failed++
		return false
	}
	for r := first; r < first+n; r++ {
		m.owe(r)
	}
	return true
}

// spoil is what a flush that fails does.
func (m *model) spoil() {
	for r, s := range m.regions {
		s.taken = false
		if s.pins > 0 || s.ended > m.flushed {
			m.owe(r)
		}
	}
}

// pass sends the first run of stale regions, or the first n of it.
func (m *model) pass(n int64) bool {
	off, length := m.give(0, n)
	m.place++
	m.resent(off, length, m.place)
	return length > 0
}

// give asks for the first stale regions behind one.
func (m *model) give(after uint32, n int64) (off, length int64) {
	m.call()
	off, length, _ = m.l.NextStale(int64(after) * RegionSize)
	for r := uint32(off / RegionSize); int64(r) < (off+length)/RegionSize; r++ {
		s := m.regions[r]
		if !s.owed && !s.touched {
			m.t.Fatalf("region %d is stale without a reason", r)
		}
		s.taken = true
	}
	return off, min(length, n*RegionSize)
}

func (m *model) resent(off, length int64, place uint64) {
	m.call()
	for r := uint32(off / RegionSize); int64(r) < (off+length)/RegionSize; r++ {
		// Where to mark it has failed it is given out too, and nothing depends on it.
		if s := m.regions[r]; s.owed && s.taken {
			s.owed, s.taken, s.ended = false, false, m.time
			// What was heard last is taken, since a mutation that ended meanwhile isn't remembered.
			s.place = max(s.place, place, m.heard)
			s.seq = s.place * m.step
			if s.place <= m.base { // it is what the stream is founded on
				s.seq = 0
			}
		}
	}
	m.heard = max(m.heard, place)
	m.l.Resent(off, length, place)
}

func (m *model) adopt(s Stream) bool {
	m.call()
	seqs := make(map[uint32]uint64)
	last := &m.tenures[len(m.tenures)-1]
	other := last.Generation != s.Generation
	next := tenure{Stream: s}
	for r, v := range m.regions {
		seqs[r] = v.seq
	}
	last.seqs = seqs
	if !other {
		next.acked = last.acked
	}
	if other {
		m.base = m.stored
		for _, v := range m.regions {
			v.taken = false
			if v.place <= m.stored {
				v.seq = 0
			}
		}
	}
	m.tenures = append(m.tenures, next)
	if err := m.l.Adopt(s); err != nil {
		m.failed++
		return false
	}
	m.tenures = m.tenures[len(m.tenures)-1:]
	return true
}

// staleSet is what a log says is stale.
func staleSet(l *Log) map[uint32]bool {
	set := make(map[uint32]bool)
	for at := int64(0); ; {
		off, n, ok := l.NextStale(at)
		if !ok {
			return set
		}
		for r := off / RegionSize; r*RegionSize < off+n; r++ {
			set[uint32(r)] = true
		}
		at = off + n
	}
}

// required is a copy of what has to be true if the machine crashes now.
type required struct {
	stale   map[uint32]bool
	touched map[uint32]bool
	seqs    map[uint32]uint64
	tenures []tenure
}

func (m *model) required() required {
	q := required{
		stale: make(map[uint32]bool), touched: make(map[uint32]bool), seqs: make(map[uint32]uint64),
		tenures: slices.Clone(m.tenures),
	}
	for r, s := range m.regions {
		q.stale[r], q.touched[r], q.seqs[r] = m.must(r), s.touched, s.seq
	}
	return q
}

func (q required) String() string {
	var s strings.Builder
	fmt.Fprint(&s, q.tenures)
	for _, r := range slices.Sorted(maps.Keys(q.stale)) {
		fmt.Fprint(&s, " ", r, q.stale[r], q.touched[r], q.seqs[r])
	}
	return s.String()
}

// check opens what a crash left and judges it. It returns the log.
func (q required) check(t testing.TB, at string, o Options) *Log {
	t.Helper()
	l, err := Open(o)
	must(t, err)
	stale := staleSet(l)
	for r, want := range q.stale {
		if want && !stale[r] {
			t.Fatalf("%s: region %d may differ from the stream, and is not stale: %v", at, r, q)
		}
		if !q.touched[r] && stale[r] {
			t.Fatalf("%s: region %d is stale, and nothing ever touched it", at, r)
		}
	}
	reason, fresh := l.Fresh()
	s, acked := l.Tenure()
	if fresh != (s == Stream{}) {
		t.Fatalf("%s: a crash left a log that isn't used: %q, %+v", at, reason, s)
	}
	i := slices.IndexFunc(q.tenures, func(k tenure) bool { return k.Stream == s })
	if i < 0 {
		t.Fatalf("tenure %+v, and adopted were %+v", s, q.tenures)
	}
	if acked > q.tenures[i].acked {
		t.Fatalf("acknowledged %d, more than the %d that were", acked, q.tenures[i].acked)
	}
	seqs := q.seqs
	if i < len(q.tenures)-1 {
		seqs = q.tenures[i].seqs
	}
	points := map[uint64]bool{0: true, acked: true}
	for _, seq := range seqs {
		points[max(seq, 1)-1] = true
	}
	for _, after := range slices.Backward(slices.Sorted(maps.Keys(points))) {
		if !l.Lost(after) {
			t.Fatalf("what lies behind %d isn't covered", after)
		}
		lost := staleSet(l)
		for r, seq := range seqs {
			if seq > after && !lost[r] {
				t.Fatalf("%s: behind %d all is lost, but region %d with %d isn't stale", at, after, r, seq)
			}
		}
	}
	return l
}

func (l *Log) hotNow() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lru.n
}

// idle lets so much time pass that what can be cleared is; nobody waits for it to be written.
func (m *model) idle() {
	m.l.tickNow(idleTicks)
	m.tidy()
}

func (m *model) tidy() {
	m.call()
	m.l.tidy(m.t.Context())
}

// clean sends all that is stale, and clears it.
func (m *model) clean() {
	for m.pass(maxRun) {
	}
	m.store(m.place)
	m.flush()
	m.idle()
}

// settle notes, when everything is durable that was cleared, that nothing is stale from here on without
// a new reason.
func (m *model) settle() {
	if m.failed == 0 {
		for r, s := range m.regions {
			s.touched = m.must(r)
		}
	}
}

func (l *Log) tickNow(ticks uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tick += ticks - 1
	l.tick -= (l.tick + 1) % idleTicks // so that the next one looks for idle regions
	for e := l.lru.oldest(); e != nil; e = l.lru.younger(e) {
		e.used = min(e.used, l.tick-idleTicks)
	}
}
