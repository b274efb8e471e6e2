package demo

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

// sum is the SHA-256 of a volume's content.
type sum [sha256.Size]byte

// contents puts together what every volume held at a point, from the events in the DR site's mirrors alone, and returns the sums by the
// volumes' names. Nothing of what Farshore made of the events has a part in it. scratch is a directory with room for one volume.
func (w *witness) contents(ctx context.Context, barrier uint64, scratch string) (map[string]sum, error) {
	w.mu.Lock()
	var vector []events.VectorEntry
	for _, p := range w.points {
		if p.barrier == barrier {
			vector = p.vector
		}
	}
	w.mu.Unlock()
	if vector == nil {
		return nil, fmt.Errorf("barrier %d was not seen at the DR site", barrier)
	}
	sums := make(map[string]sum)
	for _, v := range vector {
		s, err := w.content(ctx, v, filepath.Join(scratch, v.Volume+".truth"))
		if err != nil {
			return nil, fmt.Errorf("read the journal of volume %s: %w", v.Volume, err)
		}
		sums[v.Volume] = s
	}
	return sums, nil
}

// content writes a volume's events up to a position into a file, which is gone afterwards.
func (w *witness) content(ctx context.Context, upTo events.VectorEntry, path string) (s sum, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return s, err
	}
	defer os.Remove(path)
	defer f.Close()
	id := journal.StreamID{Group: w.group, Part: upTo.Volume, Generation: upTo.Position.Generation}
	r, err := w.site.OpenMirror(ctx, id, 1)
	if err != nil {
		return s, err
	}
	defer r.Close()
	buffer := make([]byte, 0, 1<<20)
	for seq := uint64(0); seq < upTo.Position.Seq; {
		m, err := r.Next(ctx)
		if err != nil {
			return s, err
		}
		seq = m.Seq
		switch e := m.Event.(type) {
		case *events.Epoch:
			err = f.Truncate(e.Size)
		case *events.Frame:
			err = put(f, e, buffer)
		}
		if err != nil {
			return s, err
		}
	}
	return sumOf(f)
}

// put does to a volume what a frame says.
func put(f *os.File, frame *events.Frame, buffer []byte) error {
	content, err := frame.Content(buffer)
	if err != nil {
		return err
	}
	zeros := make([]byte, 64<<10)
	for _, op := range frame.Ops {
		if op.Kind == events.OpWrite {
			if _, err := f.WriteAt(content[:op.Length], op.Offset); err != nil {
				return err
			}
			content = content[op.Length:]
			continue
		}
		for off, end := op.Offset, op.Offset+op.Length; off < end; off += int64(len(zeros)) {
			if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), end-off)], off); err != nil {
				return err
			}
		}
	}
	return nil
}

func sumOf(f io.ReadSeeker) (s sum, err error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return s, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return s, err
	}
	return sum(h.Sum(nil)), nil
}

func sumOfFile(path string) (s sum, err error) {
	f, err := os.Open(path)
	if err != nil {
		return s, err
	}
	defer f.Close()
	return sumOf(f)
}
