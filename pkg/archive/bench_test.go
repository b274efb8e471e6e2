package archive

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/archive/store"
)

// pattern is a volume that isn't kept in memory: each chunk half of random bytes, half of text, as of a generation.
type pattern struct {
	size       int64
	generation uint64
}

func (p pattern) ReadAt(b []byte, off int64) (int, error) {
	for i := 0; i < len(b); i += grid.Chunk {
		c := b[i:min(i+grid.Chunk, len(b))]
		random := rand.New(rand.NewPCG(uint64(off)+uint64(i), p.generation))
		for j := 0; j < len(c); j += 8 {
			x := random.Uint64()
			if j%8192 >= 4096 {
				x &= 0x0f0f0f0f0f0f0f0f
			}
			binary.LittleEndian.PutUint64(c[j:], x)
		}
	}
	return len(b), nil
}

func benchArchive(b *testing.B, o Options) *Archive {
	b.Helper()
	s, err := store.NewDir(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	o.Store, o.Group, o.Cache = s, "bank", b.TempDir()
	a, err := Create(b.Context(), o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := a.Close(); err != nil {
			b.Error(err)
		}
	})
	return a
}

// BenchmarkNew archives chunks that the store doesn't have.
func BenchmarkNew(b *testing.B) {
	const size = 256 << 20
	a := benchArchive(b, Options{})
	b.SetBytes(size)
	b.ReportAllocs()
	for i := range b.N {
		if _, err := commit(b.Context(), a, uint64(i+1), Source{Name: "disk", Size: size, Image: pattern{size, uint64(i)}}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSame archives chunks that the store has.
func BenchmarkSame(b *testing.B) {
	const size = 256 << 20
	a := benchArchive(b, Options{})
	s := Source{Name: "disk", Size: size, Image: pattern{size, 0}}
	if _, err := commit(b.Context(), a, 1, s); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if _, err := commit(b.Context(), a, uint64(i+2), s); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkScattered archives a chunk of each hundred of a volume that is archived otherwise.
func BenchmarkScattered(b *testing.B) {
	const size = 8 << 30
	a := benchArchive(b, Options{})
	p, err := commit(b.Context(), a, 1, Source{Name: "disk", Size: size, Image: pattern{1 << 20, 0}, Before: &Part{Name: "disk", Size: size}, Changed: grid.New(size)})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		s := Source{Name: "disk", Size: size, Image: pattern{size, uint64(i)}, Before: &p.Parts[0], Changed: grid.New(size)}
		for c := int64(i); c < s.Changed.Chunks(); c += 100 {
			s.Changed.Add(c)
		}
		if p, err = commit(b.Context(), a, uint64(i+2), s); err != nil {
			b.Fatal(err)
		}
	}
}
