package replica

import (
	"cmp"
	"math/bits"
	"slices"
)

// extents collects ranges; the result is sorted and does not overlap. Adjacent ranges are merged
// from time to time, so that a long interval of rewrites stays small.
type extents struct {
	list  []Extent
	limit int // length at which the list is merged again
}

const minExtents = 1024

func (x *extents) add(off, length int64) {
	if n := len(x.list); n > 0 {
		last := &x.list[n-1]
		if off >= last.Offset && off <= last.Offset+last.Length {
			last.Length = max(last.Length, off+length-last.Offset)
			return
		}
	}
	x.list = append(x.list, Extent{off, length})
	if len(x.list) >= max(x.limit, minExtents) {
		x.merge()
		x.limit = 2 * len(x.list)
	}
}

func (x *extents) merge() []Extent {
	slices.SortFunc(x.list, func(a, b Extent) int { return cmp.Compare(a.Offset, b.Offset) })
	out := x.list[:0]
	for _, e := range x.list {
		if n := len(out); n > 0 && e.Offset <= out[n-1].Offset+out[n-1].Length {
			last := &out[n-1]
			last.Length = max(last.Length, e.Offset+e.Length-last.Offset)
			continue
		}
		out = append(out, e)
	}
	x.list = out
	return out
}

// allocationBlock is the unit in which a file's allocation is remembered.
const allocationBlock = 4096

// allocation remembers which blocks of a file are known to have room, so that reserving them again
// needs no system call. A block it doesn't know may have room all the same.
type allocation struct{ words []uint64 }

func (a *allocation) resize(size int64) {
	blocks := (size + allocationBlock - 1) / allocationBlock
	words := int((blocks + 63) / 64)
	if words > len(a.words) {
		a.words = append(a.words, make([]uint64, words-len(a.words))...)
	}
}

func (a *allocation) clear() { clear(a.words) }

func (a *allocation) has(block int64) bool { return a.words[block/64]&(1<<(block%64)) != 0 }

func (a *allocation) mark(e Extent) {
	for b := e.Offset / allocationBlock; b*allocationBlock < e.Offset+e.Length; b++ {
		a.words[b/64] |= 1 << (b % 64)
	}
}

// forget clears every block that the range touches.
func (a *allocation) forget(off, length int64) {
	first, end := off/allocationBlock, (off+length+allocationBlock-1)/allocationBlock
	for b := first; b < end; {
		if b%64 == 0 && end-b >= 64 {
			a.words[b/64] = 0
			b += 64
			continue
		}
		a.words[b/64] &^= 1 << (b % 64)
		b++
	}
}

// unknown calls f for each run of blocks of e that is not known to have room, in whole blocks.
func (a *allocation) unknown(e Extent, f func(Extent) error) error {
	b, end := e.Offset/allocationBlock, (e.Offset+e.Length+allocationBlock-1)/allocationBlock
	for b < end {
		if w := a.words[b/64] >> (b % 64); w == ^uint64(0)>>(b%64) {
			b += 64 - b%64 // the rest of the word is known
			continue
		} else if ones := int64(bits.TrailingZeros64(^w)); ones > 0 {
			b += ones
			continue
		}
		run := b
		for run < end && !a.has(run) {
			run++
		}
		if err := f(Extent{b * allocationBlock, (run - b) * allocationBlock}); err != nil {
			return err
		}
		b = run
	}
	return nil
}
