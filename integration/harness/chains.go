package harness

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/cdc/nbd"
)

// slot is the size of one counter on a volume, in bytes.
const slot = 4096

const magic = 0x46535f434841494e

// Load shapes a workload.
type Load struct {
	Chains int
	Pace   time.Duration // between two writes of a chain; 0: as fast as they are acknowledged
	// Noise writes, zeroes and trims ranges of any size in the other half of the volumes, one for four
	// of a chain's writes where there is a Pace. What it writes doesn't compress.
	Noise bool
	Seed  uint64 // of the noise
}

// Chains is a workload whose order can be checked. Each chain writes the counters 0, 1, 2, …
// to its slots, counter n to volume n modulo the number of volumes, and writes n+1 only after n was
// acknowledged. A cut through all volumes is consistent if and only if its slots hold, of every
// chain, what the counters 0 to k leave there, for some k.
type Chains struct {
	pair   *Pair
	load   Load
	layout layout
	first  []int64        // counters acknowledged before it began, by chain
	acked  []atomic.Int64 // counters acknowledged, by chain
	worst  atomic.Int64   // longest time that a write took or was tried, nanoseconds
	failed atomic.Int64   // attempts that weren't acknowledged
	stop   context.CancelFunc
	wg     sync.WaitGroup
}

// layout is where counters are. Slots lie in the first half of each volume's first size.
type layout struct {
	volumes, chains int64
	slots           int64 // of one chain on one volume
}

func (l layout) place(chain, n int64) (volume int, off int64) {
	return int(n % l.volumes), (chain*l.slots + n/l.volumes%l.slots) * slot
}

// newest returns the counter that a chain's slot j on a volume holds once the counters 0 to k are
// written; -1: none.
func (l layout) newest(volume, j, k int64) int64 {
	if k < volume {
		return -1
	}
	last := (k - volume) / l.volumes // the number of the newest write to the volume
	n := last - last%l.slots + j
	if n > last {
		n -= l.slots
	}
	if n < 0 {
		return -1
	}
	return n*l.volumes + volume
}

func (p *Pair) layout(chains int) layout {
	return layout{volumes: int64(p.options.Volumes), chains: int64(chains), slots: p.options.Size / 2 / slot / int64(chains)}
}

// StartChains starts a workload of chains that write as fast as they can.
func (p *Pair) StartChains(chains int) *Chains { return p.StartLoad(Load{Chains: chains}) }

// StartLoad starts the workload. A write that fails because a process is gone is tried again until it is
// acknowledged. A chain that has filled its slots begins with the first again: the journal has all
// counters, the volumes the newest. A second workload goes on where the one before ended, so it must have as
// many chains.
func (p *Pair) StartLoad(o Load) *Chains {
	p.t.Helper()
	if p.counted == nil {
		p.counted = make([]int64, o.Chains)
	}
	if len(p.counted) != o.Chains {
		p.t.Fatalf("a workload of %d chains after one of %d", o.Chains, len(p.counted))
	}
	ctx, stop := context.WithCancel(context.Background())
	c := &Chains{pair: p, load: o, layout: p.layout(o.Chains), acked: make([]atomic.Int64, o.Chains), stop: stop}
	for i := range o.Chains {
		c.first = append(c.first, p.counted[i])
		c.wg.Go(func() { c.run(ctx, int64(i)) })
	}
	if o.Noise {
		for v := range p.options.Volumes {
			c.wg.Go(func() { c.noise(ctx, v) })
		}
	}
	p.t.Cleanup(c.Stop)
	return c
}

// Stop ends the workload; a write in flight may or may not have happened.
func (c *Chains) Stop() {
	c.stop()
	c.wg.Wait()
	for i := range c.acked {
		c.pair.counted[i] = max(c.pair.counted[i], c.first[i]+c.acked[i].Load())
	}
}

// Acked returns how many counters of all chains were acknowledged.
func (c *Chains) Acked() int64 {
	var n int64
	for i := range c.acked {
		n += c.acked[i].Load()
	}
	return n
}

// Worst returns the longest time that one write took until now, and how many attempts failed. It counts anew
// from then on.
func (c *Chains) Worst() (time.Duration, int64) {
	return time.Duration(c.worst.Swap(0)), c.failed.Swap(0)
}

// Progress waits until n further counters are acknowledged.
func (c *Chains) Progress(t testing.TB, n int64) {
	t.Helper()
	from := c.Acked()
	Eventually(t, 60*time.Second, fmt.Sprintf("%d more writes are acknowledged", n), func() error {
		if now := c.Acked(); now < from+n {
			return fmt.Errorf("%d of %d", now-from, n)
		}
		return nil
	})
}

func (c *Chains) run(ctx context.Context, chain int64) {
	conns := newClients(c.pair)
	defer conns.close()
	for n := c.first[chain]; ctx.Err() == nil; {
		v, off := c.layout.place(chain, n)
		began := time.Now()
		err := conns.do(ctx, v, func(client *nbd.Client) error {
			err := client.Write(ctx, counter(chain, n), off)
			if err == nil && n%64 == 63 {
				err = client.Flush(ctx)
			}
			return err
		})
		c.took(ctx, time.Since(began), err)
		if err == nil {
			n++
			c.acked[chain].Store(n - c.first[chain])
		}
		c.pace(ctx, c.load.Pace, err)
	}
}

func (c *Chains) took(ctx context.Context, d time.Duration, err error) {
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		c.failed.Add(1)
	}
	for old := c.worst.Load(); int64(d) > old && !c.worst.CompareAndSwap(old, int64(d)); old = c.worst.Load() {
	}
}

// pace waits between two writes, and before a server that is down is tried again.
func (c *Chains) pace(ctx context.Context, wait time.Duration, err error) {
	if err != nil {
		wait = max(wait, 20*time.Millisecond)
	}
	if wait == 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(wait):
	}
}

// noise writes, zeroes and trims the second half of a volume's first size.
func (c *Chains) noise(ctx context.Context, v int) {
	const unit, longest = 512, 256 << 10
	random := rand.New(rand.NewPCG(c.load.Seed, uint64(v)))
	conns := newClients(c.pair)
	defer conns.close()
	half := c.pair.options.Size / 2
	pool := make([]byte, 2*longest)
	for i := 0; i < len(pool); i += 8 {
		binary.LittleEndian.PutUint64(pool[i:], random.Uint64())
	}
	for ctx.Err() == nil {
		length := unit * (1 + random.Int64N(longest/unit)>>random.IntN(9))
		off := half + unit*random.Int64N((half-length)/unit+1)
		kind := random.IntN(8)
		content := pool[random.Int64N(longest):][:length]
		err := conns.do(ctx, v, func(client *nbd.Client) error {
			switch kind {
			case 6:
				return client.Trim(ctx, off, length)
			case 7:
				return client.Zero(ctx, off, length, cdc.ZeroOptions{})
			}
			return client.Write(ctx, content, off)
		})
		c.pace(ctx, 4*c.load.Pace, err)
	}
}

// clients are one writer's connections, one to each volume, made again where one broke.
type clients struct {
	pair *Pair
	open []*nbd.Client
}

func newClients(p *Pair) *clients { return &clients{p, make([]*nbd.Client, p.options.Volumes)} }

func (c *clients) do(ctx context.Context, v int, f func(*nbd.Client) error) error {
	if c.open[v] == nil {
		dialed, err := c.pair.Dial(ctx, v)
		if err != nil {
			return err
		}
		c.open[v] = dialed
	}
	err := f(c.open[v])
	if err != nil {
		_ = c.open[v].Close()
		c.open[v] = nil
	}
	return err
}

func (c *clients) close() {
	for _, x := range c.open {
		if x != nil {
			_ = x.Disconnect()
		}
	}
}

func counter(chain, n int64) []byte {
	b := make([]byte, slot)
	r := rand.New(rand.NewPCG(uint64(chain), uint64(n)))
	for i := 0; i < slot/2; i += 8 { // half random: compression has something to do and can't do all
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	binary.LittleEndian.PutUint64(b, magic)
	binary.LittleEndian.PutUint64(b[8:], uint64(chain))
	binary.LittleEndian.PutUint64(b[16:], uint64(n))
	return b
}
