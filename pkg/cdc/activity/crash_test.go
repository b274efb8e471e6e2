package activity

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"
)

// crashState is what one crash leaves, and what has to be true of it.
type crashState struct {
	at      string // the last steps
	content []byte // nil: there is no file
	q       required
}

// crashes gathers the states that crashes leave, each once.
type crashes struct {
	seen   map[[32]byte]bool
	states []crashState
	total  int
}

func (c *crashes) add(d *disk, q required) {
	if c.seen == nil {
		c.seen = make(map[[32]byte]bool)
	}
	rules := q.String()
	for _, content := range d.states(logPath) {
		c.total++
		key := sha256.Sum256(fmt.Append(content, content == nil, rules))
		if !c.seen[key] {
			c.seen[key] = true
			c.states = append(c.states, crashState{fmt.Sprint(d.names[max(0, len(d.names)-6):]), content, q})
		}
	}
}

func (s crashState) disk() *disk {
	if s.content == nil {
		return newDisk(nil)
	}
	return newDisk(map[string][]byte{logPath: s.content})
}

var streams = []Stream{
	{Generation: 1, Created: time.Unix(1_700_000_000, 5).UTC(), Epoch: 1},
	{Generation: 1, Created: time.Unix(1_700_000_000, 5).UTC(), Epoch: 2},
	{Generation: 2, Created: time.Unix(1_700_000_100, 0).UTC(), Epoch: 1},
}

// script is a small history with all that a log goes through: seeded, written to, its hot regions used up
// and cleared, files filled, notes that nobody waits for, regions that become stale, other streams.
func script(m *model) {
	steps := []func(){
		func() { m.adopt(streams[0]) },
		func() { m.pass(5) },
		func() { m.clean() },
		func() { m.write(0, 1) },
		m.settle,
		func() { m.write(1, 2) },
		m.tidy,
		func() { m.store(m.place - 1) }, // 0 is covered
		m.tidy,
		func() { m.write(5, 1) },
		func() { m.write(5, 2) }, // for which 0 is cleared
		func() { m.store(m.place) },
		m.tidy,
		func() { m.write(0, 1) },
		func() { m.adopt(streams[1]) },
		func() { m.write(9, 1) },
		func() { m.end9(m.begin(9, 1)) },
		func() { m.pass(1) },
		func() { m.markStale(10, 2) },
		func() { m.pass(2) },
		func() { m.markStale(11, 1) },
		func() { m.store(m.place) },
		func() { m.write(3, 1) },
		func() { m.drop() },
		func() { m.flush() },
		func() { m.call(); m.l.ahead() },
		func() { m.idle() },
		func() { m.write(7, 1) },
		func() { m.adopt(streams[2]) },
		func() { m.store(m.place) },
		func() { m.write(4, 2) },
		func() { m.write(8, 1) },
		func() { m.pass(1) },
		func() { m.store(m.place) },
		func() { m.idle() },
		func() { m.write(2, 1) },
		func() { m.begin(1, 1) }, // which doesn't end
		m.tidy,
	}
	for _, step := range steps {
		step()
	}
}

// end9 ends a mutation that nobody is going to send.
func (m *model) end9(begun bool) {
	if begun {
		m.end(9, 1, false)
	}
}

// record runs the script and gathers what a crash leaves at each step.
func record(t *testing.T, d *disk, c *crashes) (*model, bool) {
	m := newModel(t, d, 12, 4)
	q := m.required()
	d.after = func() {
		if n := len(m.tenures); n > len(q.tenures) { // one is being adopted
			q = m.required()
		}
		c.add(d, q)
	}
	each := func() {
		q = m.required()
		d.mu.Lock()
		c.add(d, q)
		d.mu.Unlock()
	}
	if !m.open() {
		return m, false
	}
	m.settled = each
	script(m)
	each()
	return m, true
}

// judge opens each state, and what a second crash leaves at each step of opening it.
func (c *crashes) judge(t *testing.T, o Options) {
	t.Helper()
	again := 0
	for _, s := range c.states {
		d := s.disk()
		var second crashes
		d.after = func() { second.add(d, required{}) }
		o.FS = d
		l := s.q.check(t, s.at, o)
		d.after = nil
		must(t, l.release())
		for _, s2 := range second.states[:min(len(second.states), 6)] {
			again++
			o.FS = s2.disk()
			must(t, s.q.check(t, s.at, o).release())
		}
	}
	t.Logf("%d states, %d of them different, and %d behind a second crash", c.total, len(c.states), again)
}

// [I] Whatever of a history a crash leaves: every region that may differ from the stream is stale, nothing
// else is, the stream is one that was adopted, and what is lost of it is known.
func TestCrashStates(t *testing.T) {
	var c crashes
	d := newDisk(nil)
	m, opened := record(t, d, &c)
	if !opened || m.failed > 0 {
		t.Fatalf("%d calls failed", m.failed)
	}
	if renames := count(d.names, "rename"); renames < 4 {
		t.Fatalf("%d files were written: the script fills none", renames)
	}
	c.judge(t, m.o)
}

func count(names []string, name string) int {
	n := 0
	for _, s := range names {
		if s == name {
			n++
		}
	}
	return n
}

// [I] A record of several sectors counts when all of them are there.
func TestCrashStatesOfLongRecords(t *testing.T) {
	var c crashes
	d := newDisk(nil)
	m := newModel(t, d, 150, 64)
	m.step = 1 << 56 // long numbers
	must(t, boolErr(m.open() && m.adopt(streams[0])))
	m.clean()
	q := m.required()
	m.settled = func() { q = m.required() }
	d.after = func() { c.add(d, q) }
	longest := 0
	for range 3 {
		for r := uint32(0); r < 126; r += 2 {
			must(t, boolErr(m.write(r, 1)))
		}
		m.store(m.place)
		m.flush()
		before := m.l.store.at
		m.idle()
		longest = max(longest, int(m.l.store.at)-int(before))
		must(t, boolErr(m.write(149, 1)))
	}
	if longest < 2 {
		t.Fatal("there is no long record")
	}
	c.judge(t, m.o)
}

// [I] The same with each step failing in turn, with its work done or not: what fails says so, whatever is
// acknowledged is in the file all the same, and when the fault is gone the log goes on.
func TestFaultStates(t *testing.T) {
	d := newDisk(nil)
	m, _ := record(t, d, new(crashes))
	must(t, m.l.release())
	steps := d.steps
	if testing.Short() {
		steps = min(steps, 40)
	}
	for _, fault := range []error{syscall.EIO, errAfter} {
		var c crashes
		failed := 0
		for n := 1; n <= steps; n++ {
			d := newDisk(nil)
			d.fail[n] = fault
			m, opened := record(t, d, &c)
			failed += m.failed
			if !opened {
				continue
			}
			// 9 is stale, or hot, or clean: all is well with it again.
			if !m.write(11, 1) || !m.begin(0, 1) {
				t.Fatalf("step %d failed, and the log fails still", n)
			}
			c.add(d, m.required())
		}
		if failed < steps/2 {
			t.Errorf("%d calls failed of %d steps", failed, steps)
		}
		c.judge(t, m.o)
	}
}

// [I] A log whose store is full refuses to list regions, goes on with those that are listed, and recovers.
func TestNoSpace(t *testing.T) {
	d := newDisk(nil)
	m := newModel(t, d, 12, 4)
	must(t, errors.Join(boolErr(m.open()), boolErr(m.adopt(streams[0]))))
	m.clean()
	must(t, boolErr(m.write(0, 1)))
	for n := range 20 {
		d.fail[d.steps+1+n] = syscall.ENOSPC
	}
	for n := range 5 {
		if err := m.l.Begin(t.Context(), RegionSize, 512); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("%d: %v", n, err)
		}
		must(t, boolErr(m.write(0, 1)))
	}
	clear(d.fail)
	must(t, boolErr(m.write(1, 1)))
	var c crashes
	c.add(d, m.required())
	c.judge(t, m.o)
}

func boolErr(ok bool) error {
	if !ok {
		return errors.New("it failed")
	}
	return nil
}
