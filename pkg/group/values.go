package group

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// ByteSize is a number of bytes. In a document it is a whole number, alone or with one of the
// units Ki, Mi, Gi and Ti (powers of 1024): 4096, 256Ki, 8Gi.
type ByteSize int64

var byteUnits = []struct {
	suffix string
	shift  uint
}{{"Ti", 40}, {"Gi", 30}, {"Mi", 20}, {"Ki", 10}}

// ParseByteSize reads a size as documents write it.
func ParseByteSize(s string) (ByteSize, error) {
	digits, shift := s, uint(0)
	for _, u := range byteUnits {
		if d, ok := strings.CutSuffix(s, u.suffix); ok {
			digits, shift = d, u.shift
			break
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%q is no size; write bytes as a whole number, alone or with Ki, Mi, Gi or Ti", s)
	}
	if n > uint64(math.MaxInt64>>shift) {
		return 0, fmt.Errorf("%q is more than a size can be", s)
	}
	return ByteSize(n << shift), nil
}

// String writes the size with the largest unit that divides it.
func (b ByteSize) String() string {
	for _, u := range byteUnits {
		if b != 0 && b%(1<<u.shift) == 0 {
			return strconv.FormatInt(int64(b>>u.shift), 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// MarshalText writes the size as a document does.
func (b ByteSize) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads the size as ParseByteSize does.
func (b *ByteSize) UnmarshalText(text []byte) (err error) {
	*b, err = ParseByteSize(string(text))
	return err
}

// Duration is a length of time. In a document it is written as in Go: 500ms, 10s, 24h.
type Duration time.Duration

// String writes the duration as a document does.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes the duration as a document does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads a duration as documents write it.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is no duration; write a number with a unit, such as 500ms, 10s or 24h", text)
	}
	*d = Duration(v)
	return nil
}
