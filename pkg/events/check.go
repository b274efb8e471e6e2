package events

import (
	"fmt"
	"math"
	"time"
	"unicode/utf8"
)

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

// name refuses a missing or unfit name.
func name(field, s string) error {
	if s == "" {
		return malformed("%s is missing", field)
	}
	return text(field, s, MaxName)
}

// optional refuses a name that is there and unfit.
func optional(field, s string) error { return text(field, s, MaxName) }

func text(field, s string, limit int) error {
	if len(s) > limit {
		return malformed("%s has %d bytes, more than %d", field, len(s), limit)
	}
	if !utf8.ValidString(s) {
		return malformed("%s is no UTF-8", field)
	}
	return nil
}

func nameList(field string, list []string) error {
	if len(list) > MaxMembers {
		return malformed("%s has %d entries, more than %d", field, len(list), MaxMembers)
	}
	for _, s := range list {
		if err := name(field, s); err != nil {
			return err
		}
	}
	return nil
}

func natural(field string, v int64) error {
	if v < 0 {
		return malformed("%s is %d, below 0", field, v)
	}
	return nil
}

func lasting(field string, d time.Duration) error {
	if d < 0 {
		return malformed("%s is %s, below 0", field, d)
	}
	return nil
}

func positive(field string, v uint64) error {
	if v == 0 {
		return malformed("%s is 0", field)
	}
	return nil
}

// within refuses a number of an enumeration that version 1 doesn't have.
func within[T ~uint8](field string, v, first, last T) error {
	if v < first || v > last {
		return malformed("%s %d is unknown", field, v)
	}
	return nil
}

// extentOf refuses a range that is empty, begins before the volume or ends behind what an int64 can tell.
func extentOf(field string, offset, length int64) error {
	if offset < 0 || length < 1 || offset > math.MaxInt64-length {
		return malformed("%s: offset %d with length %d is no range", field, offset, length)
	}
	return nil
}

func partOf(part, parts uint32) error {
	if part >= parts {
		return malformed("part %d of %d", part, parts)
	}
	return nil
}

func (t Token) check() error {
	if t.Epoch == 0 || t.Barrier == 0 {
		return malformed("token %d/%d has a zero", t.Epoch, t.Barrier)
	}
	return nil
}

// check refuses a position that names no message.
func (p Position) check(field string) error {
	if p.Generation == 0 || p.Seq == 0 {
		return malformed("%s: position g%d/%d has a zero", field, p.Generation, p.Seq)
	}
	return nil
}
