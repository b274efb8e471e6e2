package events

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

var causes = []error{ErrNewerVersion, ErrChecksum, ErrTruncated, ErrMalformed}

// seal puts the checksum behind a message, as a writer would that has a defect elsewhere.
func seal(p []byte) []byte {
	p = append(bytes.Clone(p), msgpcode.Uint32)
	return binary.BigEndian.AppendUint32(p, crc32.Checksum(p[:len(p)-1], castagnoli))
}

// refused fails the test unless both ways of reading msg name the message and wrap one of the causes.
func refused(t *testing.T, what string, msg []byte, want ...error) {
	t.Helper()
	const stream, seq = "FS_shop_ledger_g1", 4711
	h, e, err := Decode(stream, seq, msg)
	var damage *MessageError
	if !errors.As(err, &damage) || damage.Stream != stream || damage.Seq != seq {
		t.Errorf("%s: error %v is no MessageError of the message", what, err)
		return
	}
	if h.Epoch != 0 || e != nil {
		t.Errorf("%s: an error comes with %+v %+v", what, h, e)
	}
	for _, w := range want {
		if errors.Is(err, w) {
			return
		}
	}
	t.Errorf("%s: error %v, want one of %v", what, err, want)
}

func TestTruncationIsFound(t *testing.T) {
	for _, s := range samples() {
		msg := readGolden(t, s.name)
		for n := range msg {
			refused(t, s.name, msg[:n:n], ErrTruncated, ErrMalformed)
			if _, _, err := DecodeHeader("s", 1, msg[:n:n]); !errors.Is(err, ErrTruncated) {
				t.Errorf("%s: first %d bytes: header's error %v", s.name, n, err)
			}
		}
	}
}

func TestEveryBitFlipIsFound(t *testing.T) {
	for _, s := range samples() {
		msg := readGolden(t, s.name)
		for bit := range len(msg) * 8 {
			msg[bit/8] ^= 1 << (bit % 8)
			refused(t, s.name, msg, causes...)
			if _, _, err := DecodeHeader("s", 1, msg); err == nil {
				t.Errorf("%s: bit %d: header was read", s.name, bit)
			}
			msg[bit/8] ^= 1 << (bit % 8)
		}
	}
}

// TestDamageIsCalledDamage: where the length is right, an operator reads of a checksum.
func TestDamageIsCalledDamage(t *testing.T) {
	msg := readGolden(t, "frame")
	payload := bytes.Index(msg, []byte("hello"))
	for _, at := range []int{payload, len(msg) - 1, len(msg) - trailerSize} {
		damaged := bytes.Clone(msg)
		damaged[at] ^= 4
		refused(t, "flipped bit", damaged, ErrChecksum)
	}
}

func TestTrailingBytesAreRefused(t *testing.T) {
	msg := readGolden(t, "mark")
	refused(t, "garbage behind the checksum", append(bytes.Clone(msg), 0), ErrMalformed)
	refused(t, "two messages", append(bytes.Clone(msg), msg...), ErrMalformed, ErrChecksum)
	refused(t, "value behind the event", seal(append(bytes.Clone(msg[:len(msg)-trailerSize]), 0)), ErrMalformed)
	refused(t, "nothing but a checksum", seal(nil), ErrTruncated, ErrMalformed)
}

func TestNewerVersionIsRefused(t *testing.T) {
	current := readGolden(t, "mark")
	next := bytes.Clone(current[:len(current)-trailerSize])
	next[1] = Version + 1
	refused(t, "next version", seal(next), ErrNewerVersion)
	for what, values := range map[string][]any{
		"other values":  {uint8(2), "kind", map[string]int{"a": 1}},
		"version alone": {uint8(200)},
		"far version":   {uint64(1) << 60, nil, nil, nil, nil, nil},
		"long message":  {uint8(2), make([]byte, 2*MaxMessage)},
	} {
		msg := pack(t, values)
		refused(t, what, seal(msg), ErrNewerVersion)
		if _, _, err := DecodeHeader("s", 1, seal(msg)); !errors.Is(err, ErrNewerVersion) {
			t.Errorf("%s: header's error %v", what, err)
		}
	}
	// Without a right checksum it is damage first, yet the version is told.
	refused(t, "damaged newer message", append(next, 0xce, 0, 0, 0, 0), ErrChecksum)
	refused(t, "damaged newer message", append(next, 0xce, 0, 0, 0, 0), ErrNewerVersion)
}

func TestUnknownEnvelopesAreRefused(t *testing.T) {
	values := unpack(t, readGolden(t, "mark"))
	for what, f := range map[string]func(v []any) any{
		"version 0":      func(v []any) any { v[0] = 0; return v },
		"kind 0":         func(v []any) any { v[1] = 0; return v },
		"next kind":      func(v []any) any { v[1] = int(KindHooksOpen) + 1; return v },
		"kind 257":       func(v []any) any { v[1] = 257; return v },
		"a value more":   func(v []any) any { return append(v, nil) },
		"a value less":   func(v []any) any { return v[:5] },
		"no array":       func([]any) any { return 1 },
		"an empty array": func([]any) any { return []any{} },
	} {
		msg := seal(pack(t, f(append([]any{}, values...))))
		refused(t, what, msg, ErrMalformed)
		if _, _, err := DecodeHeader("s", 1, msg); what != "a value less" && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: header's error %v", what, err)
		}
	}
}

func TestErrorsNameStreamAndSequence(t *testing.T) {
	msg := readGolden(t, "mark")
	msg[len(msg)-1] ^= 1
	_, _, err := Decode("FS_shop_ledger_g1_m2", 918273, msg)
	_, _, headerErr := DecodeHeader("FS_shop_ledger_g1_m2", 918273, msg)
	for _, err := range []error{err, headerErr} {
		for _, want := range []string{"FS_shop_ledger_g1_m2", "918273", "checksum"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("error %q does not name %s", err, want)
			}
		}
	}
}

// TestChecksumIsCRC32C pins the polynomial by its published check value.
func TestChecksumIsCRC32C(t *testing.T) {
	if sum := crc32.Checksum([]byte("123456789"), castagnoli); sum != 0xe3069283 {
		t.Errorf("checksum %08x", sum)
	}
}

func pack(t testing.TB, v any) []byte {
	t.Helper()
	var buf bytes.Buffer
	enc := msgpack.NewEncoder(&buf)
	enc.UseCompactInts(true)
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func unpack(t testing.TB, msg []byte) []any {
	t.Helper()
	var values []any
	if err := msgpack.Unmarshal(msg[:len(msg)-trailerSize], &values); err != nil {
		t.Fatal(err)
	}
	return values
}

// TestOtherTypesAreRefused puts into each place of each message values that don't belong there. Every
// result is refused, or it is an event that round-trips.
func TestOtherTypesAreRefused(t *testing.T) {
	for _, s := range samples() {
		values := unpack(t, readGolden(t, s.name))
		// The library's own reading and writing must come to the same message: the format is plain msgpack.
		if !bytes.Equal(seal(pack(t, values)), readGolden(t, s.name)) {
			t.Fatalf("%s: is not what the library makes of its values", s.name)
		}
		tries := 0
		eachPlace(values, func(place *[]any, i int) {
			old := (*place)[i]
			for _, other := range []any{nil, true, -1, int64(-1 << 40), 1.5, "x", []byte("x"), []any{}, []any{nil}, map[string]int{}, uint64(1<<64 - 1)} {
				(*place)[i] = other
				refusedOrRoundTrips(t, s.name, seal(pack(t, values)), sameClass(old, other))
				tries++
			}
			(*place)[i] = old
		})
		eachArray(values, func(put func([]any), array []any) {
			put(append(array[:len(array):len(array)], nil))
			refusedOrRoundTrips(t, s.name+" with a value more", seal(pack(t, values)), false)
			if len(array) > 0 {
				put(array[:len(array)-1])
				refusedOrRoundTrips(t, s.name+" with a value less", seal(pack(t, values)), true)
			}
			put(array)
		})
		if tries < 50 {
			t.Errorf("%s: only %d tries", s.name, tries)
		}
	}
}

// sameClass tells whether b may stand where a stood: they are of one type, or of an optional one.
func sameClass(a, b any) bool {
	class := func(v any) int {
		switch v := v.(type) {
		case nil:
			return 0
		case bool:
			return 1
		case string:
			return 2
		case []byte:
			return 3
		case []any:
			return 0 // a base and a position are optional, and a list may be empty
		case float64, map[string]int:
			return 5
		case int:
			return 5 // the negative ones
		default:
			if n, ok := v.(int64); ok && n < 0 {
				return 5
			}
			return 4
		}
	}
	return class(a) == class(b)
}

func refusedOrRoundTrips(t *testing.T, what string, msg []byte, mayBeRead bool) {
	t.Helper()
	h, e, err := Decode("s", 1, msg)
	if err != nil {
		if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrNewerVersion) {
			t.Errorf("%s: error %v", what, err)
		}
		return
	}
	if !mayBeRead {
		t.Errorf("%s: read from % x: %+v %+v", what, msg, h, e)
	}
	again, err := Append(nil, h, e)
	if err != nil || !bytes.Equal(again, msg) {
		t.Errorf("%s: read as %+v %+v, which encodes to another message, error %v", what, h, e, err)
	}
}

// eachPlace calls f for every place that holds a value, also one inside another.
func eachPlace(values []any, f func(place *[]any, i int)) {
	for i := range values {
		if inner, ok := values[i].([]any); ok {
			eachPlace(inner, f)
		}
		f(&values, i)
	}
}

// eachArray calls f for every array inside values, with a function that puts another in its place.
func eachArray(values []any, f func(put func([]any), array []any)) {
	for i := range values {
		if inner, ok := values[i].([]any); ok {
			eachArray(inner, f)
			f(func(other []any) { values[i] = other }, inner)
		}
	}
}
