package archive

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/internal/grid"
)

// repackAtOnce is how many packs are read at once to be written anew: their needed records are in memory.
const repackAtOnce = 3

// copied is a record of a pack that is written anew.
type copied struct {
	place
	node   bool
	record []byte
}

// repack writes what is needed of packs anew, in their order, and returns which are superfluous then. A pack with damaged records
// stays as it is.
func (p *prune) repack(ctx context.Context, wasteful []*packState) (done []*packState, err error) {
	defer func() { p.out.Repacked = len(done) }()
	var total, bytes int64
	for _, state := range wasteful {
		total += state.used
	}
	if p.lock == nil {
		p.written += total
		return wasteful, nil
	}
	w := p.a.newPacker()
	for some := range slices.Chunk(wasteful, repackAtOnce) {
		g, gctx := w.begin(ctx)
		read := make([][]copied, len(some))
		all, rctx := errgroup.WithContext(gctx)
		for i, state := range some {
			all.Go(func() (err error) {
				read[i], err = p.a.neededOf(rctx, state)
				if isDamage(err) {
					p.a.log.Warn("a pack is not written anew, since it is damaged", "error", err)
					return nil
				}
				return err
			})
		}
		g.Go(func() error {
			if err := all.Wait(); err != nil {
				return err
			}
			for _, records := range read {
				for _, c := range records {
					if err := w.put(gctx, w.of(c.node), c.record, c.entry); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err := g.Wait(); err != nil {
			return nil, err
		}
		for i, state := range some {
			if read[i] != nil {
				done = append(done, state)
			} else {
				p.out.UnusedBytes += state.unused()
			}
			bytes += state.used
		}
		p.o.Progress("repack", bytes, total)
	}
	return done, p.flush(ctx, w)
}

// neededOf reads the records of a pack that are needed, and verifies them.
func (a *Archive) neededOf(ctx context.Context, state *packState) ([]copied, error) {
	entries, err := a.readDirectory(ctx, state.name, state.Size)
	if err != nil {
		return nil, err
	}
	var out []copied
	var places []place
	off := int64(packHeader)
	used := int64(0)
	for i, e := range entries {
		if state.has(i) {
			at := place{entry: e, pack: state.name, off: off, number: i}
			out = append(out, copied{place: at, node: state.node(i)})
			places = append(places, at)
			used += int64(e.stored) + entryLength
		}
		off += int64(e.stored)
	}
	if used != state.used {
		return nil, fmt.Errorf("%w: it tells of %d bytes of %s, and there are %d", errIndex, state.used, state.name.object(), used)
	}
	buf := make([]byte, 0, grid.Chunk)
	for _, r := range planReads(places) {
		data, err := a.readPack(ctx, r.pack, r.off, r.end-r.off)
		if err != nil {
			return nil, err
		}
		for _, i := range r.chunks {
			c := &out[i]
			c.record = slices.Clone(data[c.off-r.off : c.off-r.off+int64(c.stored)])
			if _, err := a.openRecord(buf, c.record, c.entry); err != nil {
				return nil, &DamageError{Object: state.name.object(), Reason: err.Error()}
			}
		}
	}
	return out, nil
}

// save copies doomed chunks, which are in condemned packs alone, to new ones, and empties the map.
func (p *prune) save(ctx context.Context, doomed map[ID]bool) error {
	if len(doomed) == 0 || p.lock == nil {
		return nil
	}
	ids := make([]ID, 0, len(doomed))
	for id := range doomed {
		ids = append(ids, id)
	}
	w := p.a.newPacker()
	for some := range slices.Chunk(ids, fanout) {
		if err := p.copy(ctx, w, doomed, some); err != nil {
			return err
		}
	}
	clear(doomed)
	return p.flush(ctx, w)
}

// copy writes doomed chunks anew, as many as can be had.
func (p *prune) copy(ctx context.Context, w *packer, doomed map[ID]bool, ids []ID) error {
	g, gctx := w.begin(ctx)
	var damage error // kept from the group: what was claimed must get to the store all the same
	g.Go(func() error {
		err := p.a.fetch(gctx, ids, func(i int, chunk []byte) error {
			if !w.claim(ids[i]) {
				return nil
			}
			record, e := p.a.sealRecord(nil, ids[i], chunk)
			return w.put(gctx, w.of(doomed[ids[i]]), record, e)
		})
		if isDamage(err) {
			damage, err = err, nil
		}
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	switch {
	case damage == nil:
		return nil
	case len(ids) == 1:
		p.damage = damage
		return nil
	}
	for i := range ids {
		if err := p.copy(ctx, w, doomed, ids[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

// of is where the records of nodes, or of chunks, are put.
func (p *packer) of(nodes bool) *filling {
	if nodes {
		return &p.nodes
	}
	return &p.data
}

func (p *prune) flush(ctx context.Context, w *packer) error {
	err := w.flush(ctx)
	p.written += w.bytes
	return err
}
