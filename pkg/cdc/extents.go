package cdc

import "slices"

// extent is a range of a volume.
type extent struct{ off, end int64 }

// extents is a set of bytes as sorted ranges that neither overlap nor touch.
type extents []extent

// add puts [off, end) into the set.
func (x extents) add(off, end int64) extents {
	if off >= end {
		return x
	}
	i := 0
	for i < len(x) && x[i].end < off {
		i++
	}
	j := i
	for ; j < len(x) && x[j].off <= end; j++ {
		off, end = min(off, x[j].off), max(end, x[j].end)
	}
	return slices.Replace(x, i, j, extent{off, end})
}

// remove takes [off, end) out of the set.
func (x extents) remove(off, end int64) extents {
	if off >= end {
		return x
	}
	var out extents
	for _, e := range x {
		if e.off < off {
			out = append(out, extent{e.off, min(e.end, off)})
		}
		if e.end > end {
			out = append(out, extent{max(e.off, end), e.end})
		}
	}
	return out
}

// overlaps tells whether the set has a byte of [off, end).
func (x extents) overlaps(off, end int64) bool {
	return slices.ContainsFunc(x, func(e extent) bool { return e.off < end && off < e.end })
}
