package replica

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/farshore/farshore/pkg/events"
)

// frameWriter writes frames to a target with as few calls as their operations allow.
type frameWriter struct {
	target  Target
	pieces  []piece
	scratch []byte
}

// piece is one operation and where its content is.
type piece struct {
	events.Op
	at int // of a write: index in the frame's content
}

// write applies one frame and returns how many bytes it wrote. Operations that don't overlap are
// sorted, and adjacent ones become one call; the order of overlapping ones is kept.
func (w *frameWriter) write(f *events.Frame, content []byte) (int64, error) {
	w.pieces = w.pieces[:0]
	at, sorted := 0, true
	for i, op := range f.Ops {
		w.pieces = append(w.pieces, piece{op, at})
		if op.Kind == events.OpWrite {
			at += int(op.Length)
		}
		sorted = sorted && (i == 0 || f.Ops[i-1].Offset+f.Ops[i-1].Length <= op.Offset)
	}
	if !sorted {
		byOffset := slices.Clone(w.pieces)
		slices.SortFunc(byOffset, func(a, b piece) int { return cmp.Compare(a.Offset, b.Offset) })
		if !overlap(byOffset) {
			w.pieces = byOffset
		}
	}
	var written int64
	for rest := w.pieces; len(rest) > 0; {
		n := run(rest)
		bytes, err := w.run(rest[:n], content)
		if err != nil {
			return written, err
		}
		written += bytes
		rest = rest[n:]
	}
	return written, nil
}

func overlap(sorted []piece) bool {
	for i := 1; i < len(sorted); i++ {
		if sorted[i-1].Offset+sorted[i-1].Length > sorted[i].Offset {
			return true
		}
	}
	return false
}

// run counts the pieces at the front that are of one kind and adjacent.
func run(p []piece) int {
	n := 1
	for n < len(p) && p[n].Kind == p[0].Kind && p[n].Offset == p[n-1].Offset+p[n-1].Length {
		n++
	}
	return n
}

func (w *frameWriter) run(p []piece, content []byte) (int64, error) {
	off, last := p[0].Offset, p[len(p)-1]
	length := last.Offset + last.Length - off
	switch p[0].Kind {
	case events.OpZero:
		return 0, w.target.Zero(off, length)
	case events.OpTrim:
		return 0, w.target.Trim(off, length)
	}
	data := content[p[0].at:]
	if contiguous(p) {
		data = data[:length]
	} else {
		w.scratch = w.scratch[:0]
		for _, q := range p {
			w.scratch = append(w.scratch, content[q.at:q.at+int(q.Length)]...)
		}
		data = w.scratch
	}
	n, err := w.target.WriteAt(data, off)
	return int64(n), err
}

func contiguous(p []piece) bool {
	for i := 1; i < len(p); i++ {
		if p[i].at != p[i-1].at+int(p[i-1].Length) {
			return false
		}
	}
	return true
}

// errMismatch is a region that differs from its hash. It stops nothing: it is counted.
var errMismatch = errors.New("region differs from its hash")

func (w *frameWriter) compare(h *events.RegionHash) error {
	w.scratch = slices.Grow(w.scratch[:0], int(h.Length))[:h.Length]
	if _, err := w.target.ReadAt(w.scratch, h.Offset); err != nil {
		return fmt.Errorf("read region of %d bytes at %d: %w", h.Length, h.Offset, err)
	}
	if sha256.Sum256(w.scratch) != h.Hash {
		return errMismatch
	}
	return nil
}
