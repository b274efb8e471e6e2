package events

import (
	"errors"
	"fmt"
)

// What can be wrong with a message. Each stands for a different answer of an operator: upgrade
// the reader, look for failing hardware, look for a writer or bus that cut the message short, or
// report a defect.
var (
	// ErrNewerVersion is a message that a newer release wrote. It is whole, but this release can't read it.
	ErrNewerVersion = errors.New("format is newer than this release reads (upgrade this side first)")
	// ErrChecksum is a message whose bytes are not those that were written.
	ErrChecksum = errors.New("checksum does not match")
	// ErrTruncated is a message that ends before its event does.
	ErrTruncated = errors.New("message is truncated")
	// ErrMalformed is a message that breaks the format's rules although its checksum may be right, or an
	// event that would make such a message.
	ErrMalformed = errors.New("malformed event")
)

// MessageError tells which message of which stream could not be read.
// Err wraps ErrNewerVersion, ErrChecksum, ErrTruncated or ErrMalformed.
type MessageError struct {
	Stream string // name of the stream, as the reader gave it to Decode
	Seq    uint64 // stream sequence of the message
	Err    error
}

// Error implements error.
func (e *MessageError) Error() string {
	return fmt.Sprintf("decode message %d of stream %s: %v", e.Seq, e.Stream, e.Err)
}

// Unwrap returns the cause.
func (e *MessageError) Unwrap() error { return e.Err }
