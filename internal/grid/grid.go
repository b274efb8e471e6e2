// Package grid keeps sets of chunks: pieces of a volume of one size, on a grid that begins at its start. Archives store
// volumes in them; what changed, and what is still to be read, is told in them. A set takes one bit per chunk: 2 MiB for a volume of 1 TiB.
package grid

import (
	"iter"
	"math/bits"
)

// Chunk is the size of a chunk in bytes. The last one of a volume may be shorter.
const Chunk = 64 << 10

// Count returns how many chunks a volume of size bytes has.
func Count(size int64) int64 { return (size + Chunk - 1) / Chunk }

// Set is a set of chunks of one volume, by number. It is not safe for concurrent use.
type Set struct {
	words []uint64
	n     int64 // chunks of the volume
}

// New returns an empty set for a volume of size bytes.
func New(size int64) *Set {
	n := Count(size)
	return &Set{words: make([]uint64, (n+63)/64), n: n}
}

// Full returns the set of all chunks of a volume of size bytes.
func Full(size int64) *Set {
	s := New(size)
	s.Mark(0, size)
	return s
}

// Chunks returns how many chunks the volume has, in the set or not.
func (s *Set) Chunks() int64 { return s.n }

// Mark adds every chunk that the range of bytes touches. What lies behind the volume's end is left out.
func (s *Set) Mark(off, length int64) {
	if length <= 0 {
		return
	}
	for i, end := off/Chunk, min(Count(off+length), s.n); i < end; {
		if i%64 == 0 && end-i >= 64 {
			s.words[i/64] = ^uint64(0)
			i += 64
			continue
		}
		s.words[i/64] |= 1 << (i % 64)
		i++
	}
}

// Add adds one chunk.
func (s *Set) Add(chunk int64) { s.words[chunk/64] |= 1 << (chunk % 64) }

// Remove takes one chunk out.
func (s *Set) Remove(chunk int64) { s.words[chunk/64] &^= 1 << (chunk % 64) }

// Has tells whether the chunk is in the set. One that the volume doesn't have is in none.
func (s *Set) Has(chunk int64) bool {
	return chunk < s.n && s.words[chunk/64]&(1<<(chunk%64)) != 0
}

// Next returns the first chunk of the set at or behind from; -1: there is none.
func (s *Set) Next(from int64) int64 {
	for i := from; i < s.n; {
		if w := s.words[i/64] >> (i % 64); w != 0 {
			return i + int64(bits.TrailingZeros64(w))
		}
		i += 64 - i%64
	}
	return -1
}

// All gives the chunks of the set in order.
func (s *Set) All() iter.Seq[int64] {
	return func(yield func(int64) bool) {
		for i := s.Next(0); i >= 0; i = s.Next(i + 1) {
			if !yield(i) {
				return
			}
		}
	}
}

// Len returns how many chunks are in the set.
func (s *Set) Len() int64 {
	n := 0
	for _, w := range s.words {
		n += bits.OnesCount64(w)
	}
	return int64(n)
}

// Intersect takes out what is not in other.
func (s *Set) Intersect(other *Set) {
	for i := range s.words {
		if i < len(other.words) {
			s.words[i] &= other.words[i]
		} else {
			s.words[i] = 0
		}
	}
}

// Clone returns a copy that shares nothing with s.
func (s *Set) Clone() *Set {
	return &Set{words: append([]uint64(nil), s.words...), n: s.n}
}
