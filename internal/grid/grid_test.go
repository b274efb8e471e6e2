package grid_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/farshore/farshore/internal/grid"
)

// A set is compared with a plain list of booleans over random ranges.
func TestAgainstModel(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		size := random.Int64N(700*grid.Chunk) + 1
		s, model := grid.New(size), make([]bool, grid.Count(size))
		for range random.IntN(12) {
			off := random.Int64N(size + grid.Chunk)
			length := random.Int64N(size)
			s.Mark(off, length)
			for i := range model {
				from, to := int64(i)*grid.Chunk, int64(i+1)*grid.Chunk
				model[i] = model[i] || length > 0 && off < to && off+length > from
			}
			if i := random.Int64N(s.Chunks()); random.IntN(2) == 0 {
				s.Remove(i)
				model[i] = false
			} else {
				s.Add(i)
				model[i] = true
			}
		}
		var want []int64
		for i, in := range model {
			if in {
				want = append(want, int64(i))
			}
			if s.Has(int64(i)) != in {
				t.Fatalf("chunk %d of %d bytes: %v, want %v", i, size, !in, in)
			}
		}
		if got := slices.Collect(s.Clone().All()); !slices.Equal(got, want) || s.Len() != int64(len(want)) {
			t.Fatalf("%d bytes: %v, want %v", size, got, want)
		}
	}
}

func TestIntersect(t *testing.T) {
	t.Parallel()
	s, other := grid.New(200*grid.Chunk), grid.New(100*grid.Chunk)
	for i := range int64(200) {
		if i%3 == 0 {
			s.Add(i)
		}
		if i%2 == 0 && i < 100 {
			other.Add(i)
		}
	}
	s.Intersect(other)
	for i := range int64(200) {
		if s.Has(i) != (i%6 == 0 && i < 100) {
			t.Errorf("chunk %d: %v", i, s.Has(i))
		}
	}
}

func TestFull(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{0, 1, grid.Chunk, grid.Chunk + 1, 64 * grid.Chunk, 65*grid.Chunk - 1} {
		if s := grid.Full(size); s.Len() != grid.Count(size) || s.Has(grid.Count(size)) {
			t.Errorf("%d bytes have %d chunks", size, s.Len())
		}
	}
}
