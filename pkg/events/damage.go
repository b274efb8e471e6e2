package events

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// verify tells whether msg is what was written, and if not what became of it.
func verify(msg []byte) error {
	marked := false
	if n := len(msg) - trailerSize; n > 0 && msg[n] == msgpcode.Uint32 {
		marked = true
		if crc32.Checksum(msg[:n], castagnoli) == binary.BigEndian.Uint32(msg[n+1:]) {
			return nil
		}
	}
	cause := ErrMalformed
	end, complete := skim(msg)
	switch {
	case !complete || len(msg)-end < trailerSize:
		cause = ErrTruncated
	case marked || len(msg)-end == trailerSize:
		cause = ErrChecksum
	}
	// A later version keeps the trailer, so this is damage; it may be damage to the version.
	if v, ok := versionOf(msg); ok && v > Version {
		return fmt.Errorf("%w (version %d is claimed: %w)", cause, v, ErrNewerVersion)
	}
	return cause
}

// versionOf reads the version of a message that need not be whole.
func versionOf(msg []byte) (uint64, bool) {
	r := readers.Get().(*reader)
	defer r.release()
	r.b = msg
	r.arrayLen("message")
	v := r.uint("version")
	return v, r.err == nil
}

// skim finds where the first msgpack value of msg ends. complete is false where msg ends before that value does.
// It doesn't recurse, so nesting costs nothing.
func skim(msg []byte) (end int, complete bool) {
	off := 0
	for values := uint64(1); values > 0; values-- {
		if off >= len(msg) {
			return off, false
		}
		head, data, inner, ok := extent(msg[off:])
		if !ok || data > uint64(len(msg)-off-head) {
			return off, false
		}
		off += head + int(data)
		values += inner
	}
	return off, true
}

// extent tells of the value that p begins with how many bytes its head has, how many bytes of data
// follow and how many values it contains. ok is false where p ends inside the head.
func extent(p []byte) (head int, data, inner uint64, ok bool) {
	c := p[0]
	switch {
	case msgpcode.IsFixedNum(c), c == msgpcode.Nil, c == msgpcode.False, c == msgpcode.True:
		return 1, 0, 0, true
	case msgpcode.IsFixedString(c):
		return 1, uint64(c & msgpcode.FixedStrMask), 0, true
	case msgpcode.IsFixedArray(c):
		return 1, 0, uint64(c & msgpcode.FixedArrayMask), true
	case msgpcode.IsFixedMap(c):
		return 1, 0, 2 * uint64(c&msgpcode.FixedMapMask), true
	}
	lengthSize, values, extra := 0, uint64(0), uint64(0)
	switch c {
	case msgpcode.Uint8, msgpcode.Int8:
		return 1, 1, 0, true
	case msgpcode.Uint16, msgpcode.Int16:
		return 1, 2, 0, true
	case msgpcode.Uint32, msgpcode.Int32, msgpcode.Float:
		return 1, 4, 0, true
	case msgpcode.Uint64, msgpcode.Int64, msgpcode.Double:
		return 1, 8, 0, true
	case msgpcode.FixExt1, msgpcode.FixExt2, msgpcode.FixExt4, msgpcode.FixExt8, msgpcode.FixExt16:
		return 1, 1 + 1<<(c-msgpcode.FixExt1), 0, true
	case msgpcode.Str8, msgpcode.Bin8:
		lengthSize = 1
	case msgpcode.Str16, msgpcode.Bin16:
		lengthSize = 2
	case msgpcode.Str32, msgpcode.Bin32:
		lengthSize = 4
	case msgpcode.Ext8, msgpcode.Ext16, msgpcode.Ext32:
		lengthSize, extra = 1<<(c-msgpcode.Ext8), 1
	case msgpcode.Array16, msgpcode.Map16:
		lengthSize, values = 2, 1
	case msgpcode.Array32, msgpcode.Map32:
		lengthSize, values = 4, 1
	default: // 0xc1, which msgpack never uses
		return 1, 0, 0, true
	}
	if len(p) < 1+lengthSize {
		return 0, 0, 0, false
	}
	var n uint64
	for _, b := range p[1 : 1+lengthSize] {
		n = n<<8 | uint64(b)
	}
	if values == 0 {
		return 1 + lengthSize, n + extra, 0, true
	}
	if c == msgpcode.Map16 || c == msgpcode.Map32 {
		n *= 2
	}
	return 1 + lengthSize, 0, n, true
}
