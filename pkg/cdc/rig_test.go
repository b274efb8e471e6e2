package cdc_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/cdc/activity"
	"github.com/farshore/farshore/pkg/events"
)

var seedFlag = flag.Uint64("seed", 0, "seed of random tests; 0: a new one")

// random returns a source and prints its seed.
func random(t testing.TB) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, seed))
}

// memJournal is a Journal in memory. It encodes what it is given, as a real writer does, so what the
// recorder does to its memory afterwards can't change it.
type memJournal struct {
	discard bool // keeps nothing

	mu      sync.Mutex
	log     [][]byte
	bytes   int64
	last    uint64
	stored  uint64
	stuck   bool          // Append blocks
	lazy    bool          // nothing is stored until it is told
	err     error         // Append fails
	changed chan struct{} // closed and replaced at any change
}

func newMemJournal() *memJournal { return &memJournal{changed: make(chan struct{})} }

func (j *memJournal) set(f func()) {
	j.mu.Lock()
	f()
	close(j.changed)
	j.changed = make(chan struct{})
	if !j.lazy {
		j.stored = j.last
	}
	j.mu.Unlock()
}

func (j *memJournal) Append(ctx context.Context, e events.Event) (uint64, error) {
	msg, err := events.Append(nil, events.Header{Epoch: 1, Time: time.Unix(1, 0)}, e)
	if err != nil {
		return 0, err
	}
	for {
		j.mu.Lock()
		if j.err != nil || !j.stuck {
			break
		}
		changed := j.changed
		j.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	if err := j.err; err != nil {
		j.mu.Unlock()
		return 0, err
	}
	if !j.discard {
		j.log = append(j.log, msg)
	}
	j.bytes += int64(len(msg))
	j.last++
	seq := j.last
	j.mu.Unlock()
	j.set(func() {})
	return seq, nil
}

func (j *memJournal) Stored() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.stored
}

func (j *memJournal) WaitStored(ctx context.Context, seq uint64) error {
	for {
		j.mu.Lock()
		stored, err, changed := j.stored, j.err, j.changed
		j.mu.Unlock()
		if stored >= seq {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// events decodes what was appended.
func (j *memJournal) events(t testing.TB) []events.Event {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []events.Event
	for i, msg := range j.log {
		_, e, err := events.Decode("test", uint64(i+1), msg)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

// apply replays the first n events onto image; n < 0: all.
func (j *memJournal) apply(t testing.TB, image []byte, n int) {
	t.Helper()
	all := j.events(t)
	if n >= 0 {
		all = all[:n]
	}
	for _, e := range all {
		if f, ok := e.(*events.Frame); ok {
			applyFrame(t, image, f)
		}
	}
}

func applyFrame(t testing.TB, image []byte, f *events.Frame) {
	t.Helper()
	content, err := f.Content(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range f.Ops {
		to := image[op.Offset : op.Offset+op.Length]
		if op.Kind == events.OpWrite {
			content = content[copy(to, content):]
		} else {
			clear(to)
		}
	}
}

func count[E events.Event](all []events.Event) (n int) {
	for _, e := range all {
		if _, ok := e.(E); ok {
			n++
		}
	}
	return n
}

// hooked is a device whose calls can be looked at and made to fail.
type hooked struct {
	cdc.Device
	before func(call string, off, length int64) error // nil: nothing
	// asked and read are called behind Segments and ReadAt, before the answer is returned; nil: nothing
	asked, read func()
}

func (d *hooked) Segments(off, length int64) ([]cdc.Segment, error) {
	segments, err := d.Device.Segments(off, length)
	if d.asked != nil {
		d.asked()
	}
	return segments, err
}

func (d *hooked) call(name string, off, length int64) error {
	if d.before == nil {
		return nil
	}
	return d.before(name, off, length)
}

func (d *hooked) ReadAt(p []byte, off int64) (int, error) {
	if err := d.call("read", off, int64(len(p))); err != nil {
		return 0, err
	}
	n, err := d.Device.ReadAt(p, off)
	if d.read != nil {
		d.read()
	}
	return n, err
}

// WriteAt tears a write that fails: half of it reaches the device.
func (d *hooked) WriteAt(p []byte, off int64) (int, error) {
	if err := d.call("write", off, int64(len(p))); err != nil {
		n, _ := d.Device.WriteAt(p[:len(p)/2], off)
		return n, err
	}
	return d.Device.WriteAt(p, off)
}

// Zero tears as WriteAt does.
func (d *hooked) Zero(off, length int64, mayPunch bool) error {
	if err := d.call("zero", off, length); err != nil {
		return errors.Join(err, d.Device.Zero(off, (length+1)/2, mayPunch))
	}
	return d.Device.Zero(off, length, mayPunch)
}

// Trim tears as WriteAt does.
func (d *hooked) Trim(off, length int64) error {
	if err := d.call("trim", off, length); err != nil {
		return errors.Join(err, d.Device.Trim(off, (length+1)/2))
	}
	return d.Device.Trim(off, length)
}

func (d *hooked) Flush() error {
	if err := d.call("flush", 0, 0); err != nil {
		return err
	}
	return d.Device.Flush()
}

// rig is a recorder over a file, with its journal in memory. Its device equals what the stream describes,
// unless a test says otherwise.
type rig struct {
	*cdc.Recorder
	dev     *hooked
	journal *memJournal
	log     *activity.Log
	path    string
	tenure  cdc.Tenure
	stop    func() error // ends Record and Run, and returns their error
}

func newRig(t testing.TB, size int64, adjust func(*cdc.Options)) *rig {
	t.Helper()
	path := filepath.Join(t.TempDir(), "volume.img")
	file, err := cdc.OpenFile(path, size)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{dev: &hooked{Device: file}, journal: newMemJournal(), path: path}
	r.log = openLog(t, path+".log", size, 64, r.dev.Flush)
	clean(t, r.log)
	o := cdc.Options{
		Device: r.dev, Activity: r.log, Budget: cdc.NewBudget(16 << 20), RetryEvery: time.Millisecond,
		WhenBusGone: cdc.Stall, Patience: 20 * time.Millisecond,
	}
	if adjust != nil {
		adjust(&o)
	}
	r.Recorder = cdc.NewRecorder(o)
	log := r.log
	r.log = o.Activity
	t.Cleanup(func() {
		must(t, log.Close())
		must(t, file.Close())
	})
	return r
}

func openLog(t testing.TB, path string, size int64, hot int, flush func() error) *activity.Log {
	t.Helper()
	l, err := activity.Open(activity.Options{
		Path: path, UID: "uid", Size: size, Hot: hot, Flush: flush, Log: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	return l
}

// clean makes a log take its device for what the stream describes.
func clean(t testing.TB, l *activity.Log) {
	t.Helper()
	for {
		off, n, ok := l.NextStale(0)
		if !ok {
			break
		}
		l.Resent(off, n, 1)
	}
	l.Stored(1, 0)
	l.Flushed(l.FlushBegun())
	must(t, l.SetSeeded())
}

// pass lets the first Record begin with a pass over the whole volume.
func (r *rig) pass(kind events.PassKind) {
	r.log.AllStale()
	r.tenure.Pass = kind
}

// run starts the recorder, and waits until it is ready where nothing is stale.
func (r *rig) run(t testing.TB) *rig {
	t.Helper()
	wait := r.log.StaleBytes() == 0
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 3)
	go func() { done <- r.Recorder.Run(ctx) }()
	go func() { done <- r.Record(ctx, r.journal, r.tenure) }()
	go func() { done <- r.log.Run(ctx) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		return errors.Join(<-done, <-done, <-done)
	})
	t.Cleanup(func() { _ = r.stop() })
	if wait {
		eventually(t, "ready", func() bool { ready, _ := r.Ready(); return ready })
	}
	return r
}

// drain waits until everything is stored.
func (r *rig) drain(t testing.TB) {
	t.Helper()
	if err := r.Drain(deadline(t)); err != nil {
		t.Fatal(err)
	}
}

// image is what the device holds.
func (r *rig) image(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile(r.path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// check compares the journal, replayed onto from, with the device.
func (r *rig) check(t testing.TB, from []byte) {
	t.Helper()
	r.drain(t)
	image := bytes.Clone(from)
	r.journal.apply(t, image, -1)
	want := r.image(t)
	for i := range want {
		if want[i] != image[i] {
			t.Fatalf("journal and device differ from byte %d on: %#x, device has %#x", i, image[i], want[i])
		}
	}
}

func deadline(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ctx := deadline(t); !ok(); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func pattern(n int, b byte) []byte { return bytes.Repeat([]byte{b}, n) }

func noise(rnd *rand.Rand, n int) []byte {
	b := make([]byte, (n+7)/8*8)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], rnd.Uint64())
	}
	return b[:n]
}
