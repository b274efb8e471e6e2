package events

import (
	"errors"
	"reflect"
	"testing"
)

// FuzzDecode gives the decoder any bytes, as they are and with a right checksum, since without one nothing gets far.
func FuzzDecode(f *testing.F) {
	for _, s := range samples() {
		msg := readGolden(f, s.name)
		f.Add(msg)
		f.Add(msg[:len(msg)-trailerSize])
		f.Add(msg[:len(msg)/2])
	}
	f.Add([]byte{})
	f.Add([]byte{0x96, 2, 0xdd, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, msg := range [][]byte{data, seal(data)} {
			var h Header
			var e Event
			var err error
			if n := allocated(func() { h, e, err = Decode("s", 1, msg) }); n > mayAllocate(len(msg)) {
				t.Errorf("%d bytes allocated for a message of %d", n, len(msg))
			}
			header, k, headerErr := DecodeHeader("s", 1, msg)
			if err != nil {
				known := false
				for _, cause := range causes {
					known = known || errors.Is(err, cause)
				}
				var damage *MessageError
				if !known || !errors.As(err, &damage) {
					t.Errorf("error %v is none of the package's", err)
				}
				continue
			}
			if headerErr != nil || k != e.Kind() || !reflect.DeepEqual(h, header) {
				t.Errorf("header %+v of %s, error %v; event %s with %+v", header, k, headerErr, e.Kind(), h)
			}
			again, err := Append(nil, h, e)
			if err != nil {
				t.Fatalf("what was read can't be written: %v", err)
			}
			h2, e2, err := Decode("s", 1, again)
			if err != nil || !reflect.DeepEqual(h, h2) || !reflect.DeepEqual(e, e2) {
				t.Fatalf("written again it reads as %+v %+v, error %v; was %+v %+v", h2, e2, err, h, e)
			}
			if frame, ok := e.(*Frame); ok {
				content, err := frame.Content(nil)
				if err == nil && len(content) != frame.Length {
					t.Errorf("content has %d bytes instead of %d", len(content), frame.Length)
				}
			}
		}
	})
}
