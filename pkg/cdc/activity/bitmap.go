package activity

import "math/bits"

// bitmap is a set of regions.
type bitmap struct {
	words []uint64
	n     int // how many are in it
}

func (b *bitmap) grow(regions uint32) {
	for len(b.words) < int(regions+63)/64 {
		b.words = append(b.words, make([]uint64, int(regions+63)/64-len(b.words))...)
	}
}

func (b *bitmap) has(r uint32) bool { return b.words[r/64]&(1<<(r%64)) != 0 }

func (b *bitmap) set(r uint32) {
	if !b.has(r) {
		b.words[r/64] |= 1 << (r % 64)
		b.n++
	}
}

func (b *bitmap) unset(r uint32) {
	if b.has(r) {
		b.words[r/64] &^= 1 << (r % 64)
		b.n--
	}
}

// setAll makes it the set of the first regions.
func (b *bitmap) setAll(regions uint32) {
	for r := range regions {
		if r%64 == 0 && regions-r >= 64 {
			b.words[r/64] = ^uint64(0)
		} else if regions-r < 64 {
			b.words[r/64] |= 1 << (r % 64)
		}
	}
	b.n = int(regions)
}

func (b *bitmap) empty() {
	clear(b.words)
	b.n = 0
}

// next returns the first region in the set that isn't before r.
func (b *bitmap) next(r uint32) (uint32, bool) {
	w := int(r / 64)
	if w >= len(b.words) {
		return 0, false
	}
	if rest := b.words[w] >> (r % 64); rest != 0 {
		return r + uint32(bits.TrailingZeros64(rest)), true
	}
	for w++; w < len(b.words); w++ {
		if b.words[w] != 0 {
			return uint32(w*64 + bits.TrailingZeros64(b.words[w])), true
		}
	}
	return 0, false
}

func (b *bitmap) clone() bitmap {
	return bitmap{words: append([]uint64(nil), b.words...), n: b.n}
}

// and leaves only what is in the other set too, and or adds what is in it; the other one may be shorter.
func (b *bitmap) and(other *bitmap) {
	b.n = 0
	for w := range b.words {
		if w < len(other.words) {
			b.words[w] &= other.words[w]
		} else {
			b.words[w] = 0
		}
		b.n += bits.OnesCount64(b.words[w])
	}
}

func (b *bitmap) or(other *bitmap) {
	b.n = 0
	for w := range b.words {
		if w < len(other.words) {
			b.words[w] |= other.words[w]
		}
		b.n += bits.OnesCount64(b.words[w])
	}
}
