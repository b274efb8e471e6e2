package barrier

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/events"
)

// A chain writes the counters 1, 2, 3, … one after the other, counter n to volume n modulo the
// number of volumes, and n+1 only after n was acknowledged. So a cut is right if and only if it holds of
// every chain, for some k, what the counters 1 to k leave. A chain has a ring of slots on each
// volume and goes round it.
const (
	chains       = 4
	slotsOfChain = 32
	slotBytes    = 512
	imageBytes   = chains * slotsOfChain * slotBytes
)

// place tells where counter n of a chain goes.
func place(chain int, n uint64, volumes int) (volume int, offset int64) {
	ring := n % uint64(slotsOfChain*volumes)
	return int(ring) % volumes, int64(chain*slotsOfChain+int(ring)/volumes) * slotBytes
}

// chainWriter is the workload.
type chainWriter struct {
	acked [chains]atomic.Uint64
}

// run writes until ctx ends.
func (w *chainWriter) run(ctx context.Context, t testing.TB, recorders []*cdc.Recorder) {
	var wg sync.WaitGroup
	for c := range chains {
		wg.Go(func() {
			slot := make([]byte, slotBytes)
			pace := time.NewTicker(50 * time.Microsecond) // leaves the processor to the barriers
			defer pace.Stop()
			for n := uint64(1); ctx.Err() == nil; n++ {
				volume, offset := place(c, n, len(recorders))
				for i := 0; i < slotBytes; i += 8 {
					binary.LittleEndian.PutUint64(slot[i:], n)
				}
				if err := recorders[volume].Write(ctx, slot, offset, false); err != nil {
					if ctx.Err() == nil {
						t.Errorf("write counter %d of chain %d: %v", n, c, err)
					}
					return
				}
				w.acked[c].Store(n)
				<-pace.C
			}
		})
	}
	wg.Wait()
}

// image is what the volumes hold at a position of each stream.
type image struct {
	volumes [][]byte
	buf     []byte
}

func newImage(volumes int) *image {
	m := &image{buf: make([]byte, events.MaxContent)}
	for range volumes {
		m.volumes = append(m.volumes, make([]byte, imageBytes))
	}
	return m
}

func (m *image) apply(volume int, f *events.Frame) error {
	content, err := f.Content(m.buf)
	if err != nil {
		return err
	}
	for _, op := range f.Ops {
		to := m.volumes[volume][op.Offset : op.Offset+op.Length]
		if op.Kind == events.OpWrite {
			content = content[copy(to, content):]
		} else {
			clear(to)
		}
	}
	return nil
}

// check returns what is wrong with the cut: the first counter of each chain that is missing although
// a later one is there.
func (m *image) check() (newest [chains]uint64, wrong []string) {
	for c := range chains {
		for volume := range m.volumes {
			for s := range slotsOfChain {
				newest[c] = max(newest[c], m.counter(volume, int64(c*slotsOfChain+s)*slotBytes))
			}
		}
		ring := uint64(slotsOfChain * len(m.volumes))
		for n := newest[c]; n > 0 && n+ring > newest[c]; n-- {
			volume, offset := place(c, n, len(m.volumes))
			if got := m.counter(volume, offset); got != n {
				wrong = append(wrong, fmt.Sprintf("chain %d has counter %d but lacks %d of volume %d (there is %d)", c, newest[c], n, volume, got))
				break
			}
		}
	}
	return newest, wrong
}

func (m *image) counter(volume int, offset int64) uint64 {
	return binary.LittleEndian.Uint64(m.volumes[volume][offset:])
}
