package archive

import (
	"maps"
	"testing"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/archive/store/storetest"
)

// sparse is an image with content in few chunks, by number; each has its first byte alone.
type sparse map[int64]byte

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	for i := int64(0); i < int64(len(p)); i += grid.Chunk {
		p[i] = s[(off+i)/grid.Chunk]
	}
	return len(p), nil
}

// Trees of volumes that grow and shrink over levels name every chunk that has content, and no others.
func TestLevels(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("short: it reads 32 GiB of zeros")
	}
	random := newRandom(t)
	a := testArchive(t, new(storetest.Memory), Options{})
	const two = fanout * fanout // chunks of the largest volume with two levels
	image := sparse{0: 1, 7: 2, two - 4: 3}
	size := int64(two-3) * grid.Chunk
	before, changed := &Part{Name: "disk", Size: size}, grid.New(size)
	for c := range image {
		changed.Add(c)
	}
	for i, chunks := range []int64{two - 3, two + 1200, two + 1200, two - 511, 40, two + 30, two + 30} {
		next := chunks*grid.Chunk - int64(i)*1000
		if next != size {
			maps.DeleteFunc(image, func(c int64, _ byte) bool { return c >= grid.Count(next) })
			changed = grid.New(min(size, next))
		}
		for range 20 {
			c := random.Int64N(grid.Count(next))
			if random.IntN(2) == 0 {
				c = random.Int64N(min(grid.Count(next), 600))
			}
			if image[c] == 0 || random.IntN(2) == 0 {
				image[c] = byte(1 + random.IntN(200))
			} else {
				delete(image, c)
			}
			if c < changed.Chunks() {
				changed.Add(c)
			}
		}
		size = next
		p, err := commit(t.Context(), a, uint64(i), Source{Name: "disk", Size: size, Image: image, Before: before, Changed: changed})
		if err != nil {
			t.Fatal(err)
		}
		before, changed = &p.Parts[0], grid.New(size)
		want := make(map[int64]ID)
		var data int64
		for c, b := range image {
			if b != 0 {
				chunk := make([]byte, chunkSize(size, c))
				chunk[0] = b
				want[c] = a.id(chunk)
				data += int64(len(chunk))
			}
		}
		got := make(map[int64]ID)
		err = a.walk(t.Context(), before.Root, size, 0, visitor{leaf: func(first int64, ids []ID) error {
			for i, id := range ids {
				if !id.IsZero() {
					got[first+int64(i)] = id
				}
			}
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(got, want) || before.Data != data {
			t.Fatalf("%d chunks: the tree names %d chunks and %d bytes, want %d and %d", chunks, len(got), before.Data, len(want), data)
		}
		// The tree is the same as one that is made of nothing else: points of the same content share everything.
		if levels(size) == 1 {
			again, err := commit(t.Context(), a, 99, Source{Name: "disk", Size: size, Image: image})
			if err != nil || again.Parts[0] != *before {
				t.Fatalf("a tree of changes is %+v, one of everything %+v: %v", before, again.Parts[0], err)
			}
		}
	}
}
