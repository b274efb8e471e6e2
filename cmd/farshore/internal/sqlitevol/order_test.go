package sqlitevol_test

import (
	"encoding/binary"
	"testing"
)

// A length is never written before the content that it newly covers is flushed, nor is a slot written
// again before its file's deletion is.
func TestContentIsDurableBeforeItsLength(t *testing.T) {
	for _, journal := range []string{"wal", "delete"} {
		t.Run(journal, func(t *testing.T) {
			dev, _ := record(t, journal)
			const headers, firstContent = 4 << 10, 16 << 10
			quarter := int64((size - firstContent) / 4 &^ 4095)
			var length [3]int64
			var unflushed, deleted [3]bool
			grown := 0
			for n, e := range dev.log {
				switch {
				case e.flush:
					unflushed, deleted = [3]bool{}, [3]bool{}
				case e.off >= firstContent:
					i := max(0, (e.off-firstContent)/quarter-1)
					unflushed[i] = true
					if deleted[i] {
						t.Fatalf("write %d goes to slot %d whose file's deletion is not durable", n, i)
					}
				default:
					i, now := e.off/headers, int64(binary.BigEndian.Uint64(e.data[16:]))
					if now > length[i] {
						grown++
						if unflushed[i] {
							t.Fatalf("write %d: slot %d's length covers %d bytes, its content is not durable", n, i, now)
						}
					}
					length[i], deleted[i] = now, e.data[8] == 0
				}
			}
			if grown == 0 {
				t.Error("no length grew: nothing was tested")
			}
		})
	}
}
