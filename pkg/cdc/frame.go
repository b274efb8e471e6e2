package cdc

import (
	"bytes"
	"time"

	"github.com/farshore/farshore/pkg/events"
)

const (
	// zeroUnit is the unit, in offset and length, in which zeros in writes are found.
	zeroUnit = 4096
	// maxOps closes a frame; zero detection splits a write at most twice for each unit of
	// zeros, and what comes of that must be within events.MaxOps.
	maxOps = events.MaxOps - 2*(events.MaxContent/zeroUnit) - 2
	// mergeDepth is how many operations back a place to merge into is looked for.
	mergeDepth = 96
)

// openFrame collects operations. It is applied as a whole, so what happened inside it may be
// told in fewer operations, as long as their effect in order is the same.
type openFrame struct {
	ops     []events.Op
	content []byte      // of the writes, in order, concatenated
	buf     frameBuffer // that content is in; nil where there is none
	opened  time.Time
	live    bool  // something in it was asked for by a front
	bytes   int64 // of content written by fronts
	passed  int64 // of content read by a pass
	credit  int64 // bytes of the budget
}

// add puts an operation behind the others. The caller has seen that there is room.
func (f *openFrame) add(op events.Op, data []byte) {
	f.ops = append(f.ops, op)
	f.content = append(f.content, data...)
}

// extend makes the last operation longer where op goes on where it ends.
func (f *openFrame) extend(op events.Op, data []byte) bool {
	if len(f.ops) == 0 {
		return false
	}
	last := &f.ops[len(f.ops)-1]
	if last.Kind != op.Kind || last.Offset+last.Length != op.Offset {
		return false
	}
	last.Length += op.Length
	f.content = append(f.content, data...)
	return true
}

// rewrite puts op inside an earlier operation of its kind that covers it, provided that none behind
// that one overlaps op: then op's effect is the same at the earlier place.
func (f *openFrame) rewrite(op events.Op, data []byte) bool {
	end := len(f.content) // of the content of operation i
	for i := len(f.ops) - 1; i >= max(0, len(f.ops)-mergeDepth); i-- {
		earlier := &f.ops[i]
		start := end
		if earlier.Kind == events.OpWrite {
			start -= int(earlier.Length)
		}
		if op.Offset < earlier.Offset+earlier.Length && earlier.Offset < op.Offset+op.Length {
			inside := earlier.Kind == op.Kind && earlier.Offset <= op.Offset &&
				op.Offset+op.Length <= earlier.Offset+earlier.Length
			if inside && op.Kind == events.OpWrite {
				copy(f.content[start+int(op.Offset-earlier.Offset):], data)
			}
			return inside
		}
		end = start
	}
	return false
}

// squeeze turns zeros in writes into OpZero: whole units of zeroUnit bytes, aligned in the volume. It
// works in place in content and returns what is left of it; ops are returned as they are where
// there is nothing to do.
func squeeze(ops []events.Op, content []byte) ([]events.Op, []byte) {
	if !anyZeros(ops, content) {
		return ops, content
	}
	out := make([]events.Op, 0, len(ops)+8)
	kept, read := 0, 0 // bytes of content
	for _, op := range ops {
		if op.Kind != events.OpWrite {
			out = appendOp(out, op)
			continue
		}
		data := content[read : read+int(op.Length)]
		read += len(data)
		for off := op.Offset; len(data) > 0; {
			n, zero := zeroRun(data, off)
			kind := events.OpZero
			if !zero {
				kind = events.OpWrite
				kept += copy(content[kept:], data[:n])
			}
			out = appendOp(out, events.Op{Kind: kind, Offset: off, Length: int64(n)})
			data, off = data[n:], off+int64(n)
		}
	}
	return out, content[:kept]
}

func anyZeros(ops []events.Op, content []byte) bool {
	for _, op := range ops {
		if op.Kind != events.OpWrite {
			continue
		}
		for data, off := content[:op.Length], op.Offset; len(data) > 0; {
			n, zero := unit(data, off)
			if zero {
				return true
			}
			data, off = data[n:], off+int64(n)
		}
		content = content[op.Length:]
	}
	return false
}

// appendOp puts op behind the others, or at the end of the last one where it continues that.
// The content of two writes behind each other is adjacent, too.
func appendOp(ops []events.Op, op events.Op) []events.Op {
	if len(ops) > 0 {
		last := &ops[len(ops)-1]
		if last.Kind == op.Kind && last.Offset+last.Length == op.Offset {
			last.Length += op.Length
			return ops
		}
	}
	return append(ops, op)
}

// zeroRun is how many bytes at the start of data, which lies at off, are all zeros or all not.
func zeroRun(data []byte, off int64) (n int, zero bool) {
	n, zero = unit(data, off)
	for n < len(data) {
		m, z := unit(data[n:], off+int64(n))
		if z != zero {
			break
		}
		n += m
	}
	return n, zero
}

var zeros [zeroUnit]byte

// unit is the length of the first unit of data, and whether it is a whole one of zeros.
func unit(data []byte, off int64) (n int, zero bool) {
	n = min(len(data), int(zeroUnit-off%zeroUnit))
	return n, n == zeroUnit && data[0] == 0 && data[n-1] == 0 && bytes.Equal(data[:n], zeros[:])
}
