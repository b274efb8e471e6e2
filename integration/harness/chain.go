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

	"github.com/farshore/farshore/pkg/cdc/nbd"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

// slot is the size of one counter on a volume, in bytes.
const slot = 4096

const magic = 0x46535f434841494e

// Chains is a workload whose order can be checked. Each chain writes the counters 0, 1, 2, …
// to its slots, counter n to volume n modulo the number of volumes, and writes n+1 only after n was
// acknowledged. A cut through all volumes is consistent if and only if it holds, of every
// chain, exactly the counters 0 to k for some k.
type Chains struct {
	pair   *Pair
	chains int
	acked  []atomic.Int64 // counters acknowledged, by chain
	stop   context.CancelFunc
	wg     sync.WaitGroup
}

// StartChains starts the workload. A write that fails because a process is gone is tried
// again until it is acknowledged. A chain that has filled its slots begins with the first again: the
// journal has all counters, the volumes the newest.
func (p *Pair) StartChains(chains int) *Chains {
	ctx, stop := context.WithCancel(context.Background())
	c := &Chains{pair: p, chains: chains, acked: make([]atomic.Int64, chains), stop: stop}
	for i := range chains {
		c.wg.Go(func() { c.run(ctx, i) })
	}
	p.t.Cleanup(c.Stop)
	return c
}

// Stop ends the workload; a write in flight may or may not have happened.
func (c *Chains) Stop() {
	c.stop()
	c.wg.Wait()
}

// Acked returns how many counters of all chains were acknowledged.
func (c *Chains) Acked() int64 {
	var n int64
	for i := range c.acked {
		n += c.acked[i].Load()
	}
	return n
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

func (c *Chains) run(ctx context.Context, chain int) {
	volumes := c.pair.options.Volumes
	slots := c.pair.options.Size / slot / int64(c.chains)
	clients := make([]*nbd.Client, volumes)
	defer func() {
		for _, x := range clients {
			if x != nil {
				_ = x.Disconnect()
			}
		}
	}()
	for n := int64(0); ctx.Err() == nil; {
		v := int(n) % volumes
		if err := c.write(ctx, &clients[v], v, chain, n, slots); err != nil {
			clients[v] = nil
			select { // pace the attempts at a server that is down
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
			continue
		}
		n++
		c.acked[chain].Store(n)
	}
}

func (c *Chains) write(ctx context.Context, client **nbd.Client, v, chain int, n, slots int64) error {
	if *client == nil {
		dialed, err := c.pair.Dial(ctx, v)
		if err != nil {
			return err
		}
		*client = dialed
	}
	off := (int64(chain)*slots + n/int64(c.pair.options.Volumes)%slots) * slot
	err := (*client).Write(ctx, counter(chain, n), off)
	if err == nil && n%64 == 63 {
		err = (*client).Flush(ctx)
	}
	return err
}

func counter(chain int, n int64) []byte {
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

// CheckCuts reads the group's streams at site, mirrors or origins, from their start to the last
// commit, and checks every commit's cut. It returns the number of commits.
func CheckCuts(ctx context.Context, site *journal.Site, volumes int) (int, error) {
	names, err := streamNames(ctx, site)
	if err != nil {
		return 0, err
	}
	control, err := site.OpenReader(ctx, names[journal.Control], 1)
	if err != nil {
		return 0, err
	}
	defer control.Close()
	tail, err := site.Tail(ctx, names[journal.Control])
	if err != nil {
		return 0, err
	}
	walk := &walker{site: site, names: names, readers: map[string]*journal.Reader{}, at: map[string]uint64{}, seen: map[uint64]*prefix{}}
	defer walk.close()
	commits := 0
	for seq := uint64(0); seq < tail.Last; {
		m, err := control.Next(ctx)
		if err != nil {
			return commits, err
		}
		seq = m.Seq
		c, ok := m.Event.(*events.Commit)
		if !ok {
			continue
		}
		if err := walk.advance(ctx, c); err != nil {
			return commits, err
		}
		if len(c.Vector) == volumes { // before all volumes have joined, a chain's counters on others are missing
			if err := walk.check(); err != nil {
				return commits, fmt.Errorf("commit of barrier %d: %w", c.Token.Barrier, err)
			}
			commits++
		}
	}
	return commits, nil
}

func streamNames(ctx context.Context, site *journal.Site) (map[string]string, error) {
	streams, err := site.Streams(ctx, Group)
	if err != nil {
		return nil, err
	}
	names := make(map[string]string)
	for _, s := range streams {
		names[s.ID.Part] = s.Name
	}
	if names[journal.Control] == "" {
		return nil, fmt.Errorf("no control stream of group %s", Group)
	}
	return names, nil
}

// prefix is what a cut holds of one chain.
type prefix struct {
	present map[uint64]bool
	max     uint64
}

type walker struct {
	site    *journal.Site
	names   map[string]string
	readers map[string]*journal.Reader
	at      map[string]uint64
	seen    map[uint64]*prefix
}

func (w *walker) close() {
	for _, r := range w.readers {
		r.Close()
	}
}

func (w *walker) advance(ctx context.Context, c *events.Commit) error {
	for _, e := range c.Vector {
		r := w.readers[e.Volume]
		if r == nil {
			var err error
			if r, err = w.site.OpenReader(ctx, w.names[e.Volume], 1); err != nil {
				return err
			}
			w.readers[e.Volume] = r
		}
		for w.at[e.Volume] < e.Position.Seq {
			m, err := r.Next(ctx)
			if err != nil {
				return err
			}
			w.at[e.Volume] = m.Seq
			if f, ok := m.Event.(*events.Frame); ok {
				if err := w.frame(f); err != nil {
					return err
				}
			}
			if m.Seq == e.Position.Seq {
				if mark, ok := m.Event.(*events.Mark); !ok || mark.Token != c.Token {
					return fmt.Errorf("vector of barrier %d names %s %d, which is no mark of it", c.Token.Barrier, e.Volume, m.Seq)
				}
			}
		}
	}
	return nil
}

func (w *walker) frame(f *events.Frame) error {
	content, err := f.Content(nil)
	if err != nil {
		return err
	}
	for i := 0; i+slot <= len(content); i += slot {
		b := content[i:]
		if binary.LittleEndian.Uint64(b) != magic {
			continue
		}
		chain, n := binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:])
		p := w.seen[chain]
		if p == nil {
			p = &prefix{present: map[uint64]bool{}}
			w.seen[chain] = p
		}
		p.present[n] = true
		p.max = max(p.max, n)
	}
	return nil
}

func (w *walker) check() error {
	for chain, p := range w.seen {
		if uint64(len(p.present)) == p.max+1 {
			continue
		}
		for n := range p.max {
			if !p.present[n] {
				return fmt.Errorf("chain %d: the cut holds counter %d and lacks %d", chain, p.max, n)
			}
		}
	}
	return nil
}
