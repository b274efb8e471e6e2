package archive

import (
	"math/rand/v2"
	"testing"

	"github.com/farshore/farshore/internal/grid"
)

// A tree's chunks are cut into windows which together are the part, in order, with no more chunks than the limit.
func TestWindows(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 500 {
		size := random.Int64N(300*grid.Chunk) + 1
		count := grid.Count(size)
		ids := make([]ID, count)
		for i := range ids {
			if random.IntN(3) > 0 {
				ids[i] = ID{1, byte(i), byte(i >> 8)}
			}
		}
		from, limit := random.Int64N(count), random.IntN(20)+1
		var got []ID
		at := from * grid.Chunk
		cut := newWindows(size, from, limit, func(w *window) error {
			if len(w.ids) > limit || len(w.stretches) == 0 {
				t.Fatalf("a window of %d chunks in %d ranges, and the limit is %d", len(w.ids), len(w.stretches), limit)
			}
			content, zeros := 0, false
			for i, s := range w.stretches {
				if s.off != at || s.length <= 0 || i > 0 && zeros && s.n == 0 {
					t.Fatalf("range %+v at %d", s, at)
				}
				at += s.length
				zeros = s.n == 0
				if zeros {
					got = append(got, make([]ID, grid.Count(s.length))...)
					continue
				}
				if s.first != content {
					t.Fatalf("range %+v has chunks from %d on", s, content)
				}
				content += s.n
				got = append(got, w.ids[s.first:content]...)
			}
			if content != len(w.ids) {
				t.Fatalf("ranges have %d of %d chunks", content, len(w.ids))
			}
			if n := w.bytes(); content > 0 && n > content*grid.Chunk || at < size && n != content*grid.Chunk {
				t.Fatalf("%d chunks have %d bytes", content, n)
			}
			return nil
		})
		feed(t, cut.visitor(), ids, random)
		if err := cut.flush(); err != nil {
			t.Fatal(err)
		}
		if at != size || int64(len(got)) != count-from {
			t.Fatalf("windows end at %d of %d with %d of %d chunks", at, size, len(got), count-from)
		}
		for i, id := range got {
			if id != ids[from+int64(i)] {
				t.Fatalf("chunk %d is %s, want %s", from+int64(i), id, ids[from+int64(i)])
			}
		}
	}
}

// feed gives chunks as a walk does: in leaves, and zeros now and then as a node without content.
func feed(t *testing.T, v visitor, ids []ID, random *rand.Rand) {
	for at := 0; at < len(ids); {
		n := min(random.IntN(40)+1, len(ids)-at)
		zeros := true
		for _, id := range ids[at : at+n] {
			zeros = zeros && id.IsZero()
		}
		var err error
		if zeros {
			err = v.zeros(int64(at), int64(n))
		} else {
			err = v.leaf(int64(at), ids[at:at+n])
		}
		if err != nil {
			t.Fatal(err)
		}
		at += n
	}
}
