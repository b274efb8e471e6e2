package archiver

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

func openOverlay(t *testing.T, size int64, image []byte) *overlay {
	t.Helper()
	upper, err := replica.OpenFile(filepath.Join(t.TempDir(), "upper"), size, true)
	if err != nil {
		t.Fatal(err)
	}
	if image == nil {
		return newOverlay(upper, nil, 0)
	}
	return newOverlay(upper, bytes.NewReader(image), int64(len(image)))
}

func TestOverlayIsATarget(t *testing.T) {
	t.Parallel()
	for name, below := range map[string]int64{"over nothing": 0, "over a shorter image": grid.Chunk + 17, "over an image": 1<<20 + 512} {
		t.Run(name, func(t *testing.T) {
			replicatest.Run(t, func(t *testing.T, size, _ int64) replica.Target {
				return openOverlay(t, size, make([]byte, below))
			})
		})
	}
}

// Over an image that isn't zeros an overlay reads as a copy of it that got the same writes, the image stays what it was, and
// what differs from it is among the chunks that the overlay has.
func TestOverlayAgainstACopy(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for range 20 {
		image := make([]byte, r.Int64N(12*grid.Chunk)+1)
		for i := range image {
			image[i] = byte(r.Uint32())
		}
		kept := bytes.Clone(image)
		model := bytes.Clone(image)
		o := openOverlay(t, int64(len(image)), image)
		for range 30 {
			off := r.Int64N(int64(len(model)))
			n := 1 + r.Int64N(min(3*grid.Chunk, int64(len(model))-off))
			var err error
			switch r.IntN(6) {
			case 0:
				err = o.Zero(off, n)
				clear(model[off : off+n])
			case 1:
				err = o.Trim(off, n)
				clear(model[off : off+n])
			case 2:
				err = o.Reserve([]replica.Extent{{Offset: off, Length: n}})
			case 3:
				more := r.Int64N(grid.Chunk)
				err = o.Resize(int64(len(model)) + more)
				model = append(model, make([]byte, more)...)
			default:
				data := bytes.Repeat([]byte{byte(r.Uint32())}, int(n))
				_, err = o.WriteAt(data, off)
				copy(model[off:], data)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		got := make([]byte, len(model))
		if _, err := o.ReadAt(got, 0); err != nil || !bytes.Equal(got, model) {
			t.Fatalf("an overlay reads as something else than a copy (%v)", err)
		}
		if !bytes.Equal(image, kept) {
			t.Fatal("the image was written to")
		}
		for c := range grid.Count(int64(len(model))) {
			now := model[c*grid.Chunk : min((c+1)*grid.Chunk, int64(len(model)))]
			before := image[min(c*grid.Chunk, int64(len(image))):min((c+1)*grid.Chunk, int64(len(image)))]
			if len(before) > 0 && !bytes.Equal(now, before) && !o.own.Has(c) {
				t.Fatalf("chunk %d differs and isn't the overlay's", c)
			}
		}
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
