package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/archive/store"
)

const (
	// Ranges of a pack are read at once when no more lies between them than readGap, up to readMost bytes.
	readGap  = 128 << 10
	readMost = 4 << 20

	// tailGuess is how much of a pack's end is read for its directory; more is read if that was not enough.
	tailGuess = 32 << 10
)

// locate tells where chunks lie: one place for each ID. Those that are in no pack are in missing, by their position in ids. Zero IDs
// have no place, and are not missing.
func (a *Archive) locate(ids []ID) (places []place, missing []int, err error) {
	places = make([]place, len(ids))
	err = a.index.find(ids, func(i int, p place) bool {
		places[i] = p
		return false
	})
	for i := range ids {
		if !ids[i].IsZero() && places[i].stored == 0 {
			missing = append(missing, i)
		}
	}
	return places, missing, err
}

// lookup is locate, and brings the index up to date if that doesn't know all: another process may have written the chunks, or moved
// them. Before it says that they are nowhere, the index is made anew.
func (a *Archive) lookup(ctx context.Context, ids []ID) (places []place, missing []int, err error) {
	for try := range 3 {
		places, missing, err = a.locate(ids)
		if err != nil && !errors.Is(err, errIndex) || err == nil && len(missing) == 0 || try == 2 {
			break
		}
		if try == 1 {
			a.doubt()
		}
		if err := a.refresh(ctx); err != nil {
			return nil, nil, err
		}
	}
	return places, missing, err
}

// doubt lets the next refresh make the index anew, once for each time that the archive is opened, and not if that was done then: bits of it
// that are others than they were can hide chunks, and are seen by nobody.
func (a *Archive) doubt() {
	if !a.doubted.Swap(true) && !a.index.new.Load() {
		a.index.bad.Store(true)
	}
}

// notThere is the error of a chunk that is in no pack.
func (a *Archive) notThere(id ID) error {
	reason := "it is in no pack"
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(a.unusable)) {
		reason += "; " + a.unusable[name].Error()
	}
	return &DamageError{Object: "chunk " + id.String(), Reason: reason}
}

// usable notes whether a pack's directory could be read; nil: it could.
func (a *Archive) usable(pack packName, damage error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if damage == nil {
		delete(a.unusable, pack.object())
		return
	}
	a.unusable[pack.object()] = damage
}

// readPack reads a range of a pack. It takes part in the limit of requests. What the pack doesn't have is a *DamageError.
func (a *Archive) readPack(ctx context.Context, pack packName, off, length int64) ([]byte, error) {
	data, err := a.get(ctx, pack.object(), off, length)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, &DamageError{Object: pack.object(), Reason: "it is missing"}
	case errors.Is(err, store.ErrShort):
		return nil, &DamageError{Object: pack.object(), Reason: "it is truncated"}
	}
	return data, err
}

// readDirectory reads what is in a pack of size bytes.
func (a *Archive) readDirectory(ctx context.Context, pack packName, size int64) ([]entry, error) {
	if size < int64(packHeader+trailerBytes) || size > packLimit {
		return nil, &DamageError{Object: pack.object(), Reason: fmt.Sprintf("no pack has %d bytes", size)}
	}
	n := min(size, tailGuess)
	end, err := a.readPack(ctx, pack, size-n, n)
	if err != nil {
		return nil, err
	}
	dir, err := directoryLength(end[len(end)-trailerBytes:], size, a.keys)
	if err == nil && dir+trailerBytes > n {
		n = dir + trailerBytes
		if end, err = a.readPack(ctx, pack, size-n, n); err != nil {
			return nil, err
		}
	}
	var entries []entry
	if err == nil {
		entries, err = parseDirectory(end[n-dir-trailerBytes:], size, a.keys)
	}
	if err != nil {
		return nil, &DamageError{Object: pack.object(), Reason: err.Error()}
	}
	return entries, nil
}

// fetch reads chunks, which may be anywhere, and verifies each by its name. give is called for each ID that isn't zero, once, in any
// order and by several goroutines at once; it must not keep the chunk. A chunk that can't be had is a *DamageError.
func (a *Archive) fetch(ctx context.Context, ids []ID, give func(i int, chunk []byte) error) error {
	places, missing, err := a.lookup(ctx, ids)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return a.notThere(ids[missing[0]])
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(a.requests)
	for _, r := range planReads(places) {
		g.Go(func() error { return a.read(gctx, r, places, nil, give) })
	}
	return g.Wait()
}

// reading is a range of a pack, and which chunks are in it, in their order.
type reading struct {
	pack     packName
	off, end int64
	chunks   []int
}

// planReads groups places into few ranges.
func planReads(places []place) []reading {
	order := make([]int, 0, len(places))
	for i := range places {
		if places[i].stored > 0 {
			order = append(order, i)
		}
	}
	slices.SortFunc(order, func(i, j int) int {
		p, q := &places[i], &places[j]
		return cmp.Or(slices.Compare(p.pack[:], q.pack[:]), cmp.Compare(p.off, q.off))
	})
	var out []reading
	for _, i := range order {
		p := places[i]
		end := p.off + int64(p.stored)
		if n := len(out) - 1; n >= 0 && out[n].pack == p.pack && p.off-out[n].end <= readGap && end-out[n].off <= readMost {
			out[n].end = max(out[n].end, end)
			out[n].chunks = append(out[n].chunks, i)
			continue
		}
		out = append(out, reading{p.pack, p.off, end, []int{i}})
	}
	return out
}

// read gives the chunks of a range, each verified. into tells where a chunk is to be; nil: anywhere, until the next one is given.
func (a *Archive) read(ctx context.Context, r reading, places []place, into func(i int) []byte, give func(i int, chunk []byte) error) error {
	data, err := a.readPack(ctx, r.pack, r.off, r.end-r.off)
	if err != nil && !isDamage(err) {
		return err
	}
	if into == nil {
		buf := make([]byte, grid.Chunk)
		into = func(int) []byte { return buf }
	}
	for _, i := range r.chunks {
		chunk, why := []byte(nil), err
		if p := places[i]; why == nil {
			at, to := p.off-r.off, into(i)
			chunk, why = a.openRecord(to[:0:len(to)], data[at:at+int64(p.stored)], p.entry)
		}
		if why != nil {
			if chunk, why = a.rescue(ctx, places[i], why); why != nil {
				return why
			}
		}
		if err := give(i, chunk); err != nil {
			return err
		}
	}
	return nil
}

// rescue tries what is left for a chunk that isn't where it was said to be: the index may be wrong, the pack may have been
// written anew, and the chunk may be in another one too.
func (a *Archive) rescue(ctx context.Context, p place, why error) ([]byte, error) {
	if !isDamage(why) {
		why = &DamageError{Object: p.pack.object(), Reason: why.Error()}
	}
	a.log.Warn("a chunk is not where it should be", "chunk", p.id, "error", why)
	var tried []place
	for try := range 3 {
		var places []place
		err := a.index.find([]ID{p.id}, func(_ int, p place) bool {
			places = append(places, p)
			return true
		})
		if err != nil && !errors.Is(err, errIndex) {
			return nil, err
		}
		for _, p := range places {
			if slices.Contains(tried, p) {
				continue
			}
			tried = append(tried, p)
			record, err := a.readPack(ctx, p.pack, p.off, int64(p.stored))
			if err != nil && !isDamage(err) {
				return nil, err
			}
			if err != nil {
				continue
			}
			if chunk, err := a.openRecord(nil, record, p.entry); err == nil {
				return chunk, nil
			}
		}
		switch try {
		case 0:
			err = a.reread(ctx, p.pack)
		case 1:
			a.doubt()
			err = a.refresh(ctx)
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, why
}

// reread brings the index up to date with the store, and reads one pack's directory again.
func (a *Archive) reread(ctx context.Context, pack packName) error {
	if err := a.index.drop([]packName{pack}); err != nil && !errors.Is(err, errIndex) {
		return err
	}
	return a.refresh(ctx)
}

// refresh brings the index up to date with the packs in the store. Packs whose directories are damaged are left out.
func (a *Archive) refresh(ctx context.Context) error {
	a.refreshing.Lock()
	defer a.refreshing.Unlock()
	err := a.reconcile(ctx)
	if errors.Is(err, errIndex) {
		err = a.reconcile(ctx)
	}
	return err
}

// reconcile is refresh for one caller at a time. An index that turns out to be damaged is made anew by the next one.
func (a *Archive) reconcile(ctx context.Context) error {
	if a.index.bad.Load() {
		a.log.Warn("the archive's index is damaged; it is made anew")
		if err := a.index.renew(); err != nil {
			return err
		}
	}
	// What is stored meanwhile may be in the index, and not among what is listed.
	newest, err := a.index.newest()
	if err != nil {
		return err
	}
	there, err := a.listPacks(ctx)
	if err != nil {
		return err
	}
	missing, gone, err := a.index.difference(there, newest)
	if err != nil {
		return err
	}
	if err := a.index.drop(gone); err != nil {
		return err
	}
	const batch = 64
	for part := range slices.Chunk(missing, batch) {
		if err := a.readDirectories(ctx, part); err != nil {
			return err
		}
		part = slices.DeleteFunc(part, func(p packed) bool { return p.entries == nil })
		if err := a.index.add(part...); err != nil {
			return err
		}
	}
	return nil
}

// readDirectories reads what is in packs. What is damaged, or gone by now, has no entries then.
func (a *Archive) readDirectories(ctx context.Context, packs []packed) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(a.requests)
	for i := range packs {
		p := &packs[i]
		g.Go(func() (err error) {
			p.entries, err = a.readDirectory(ctx, p.name, p.size)
			if err != nil && !isDamage(err) {
				return err
			}
			a.usable(p.name, err)
			if err != nil {
				a.log.Warn("a pack can't be used", "error", err)
			}
			return nil
		})
	}
	return g.Wait()
}

// listPacks lists the packs in the store, by name, without their entries.
func (a *Archive) listPacks(ctx context.Context) ([]packed, error) {
	var out []packed
	for info, err := range a.store.List(ctx, packs) {
		if err != nil {
			return nil, err
		}
		if name, ok := parsePack(info.Name); ok {
			out = append(out, packed{name: name, size: info.Size})
		}
	}
	return out, nil
}

func isDamage(err error) bool {
	damage := new(DamageError)
	return errors.As(err, &damage)
}
