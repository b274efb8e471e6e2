package objects

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/farshore/farshore/pkg/events"
)

// A log begins with its magic; records follow each other. A record is the length of a message as a big-endian uint32, then the
// message, encoded and sealed as on a stream.
const (
	magic      = "FSOBJ\x00\x00\x01"
	prefixSize = 4 // bytes
)

// log is a file of records.
type log struct {
	name string
	file File
}

// File is an open log. ReadAt may be called concurrently with everything else.
type File interface {
	io.ReaderAt
	io.WriterAt
	// Sync makes what was written durable.
	Sync() error
	// Truncate cuts the file to size bytes.
	Truncate(size int64) error
	// Close releases the file.
	Close() error
}

// read reads and verifies a record.
func (l *log) read(e extent) (events.Header, events.Event, error) {
	buf := make([]byte, e.length)
	if _, err := l.file.ReadAt(buf, e.off); err != nil {
		return events.Header{}, nil, fmt.Errorf("read %d bytes of %s at %d: %w", e.length, l.name, e.off, err)
	}
	if n := int(binary.BigEndian.Uint32(buf)); n != e.length-prefixSize {
		return events.Header{}, nil, fmt.Errorf("%w: %s has a record of %d bytes at %d instead of %d", ErrDamaged, l.name, n, e.off, e.length-prefixSize)
	}
	h, event, err := events.Decode(l.name, uint64(e.off), buf[prefixSize:])
	if err != nil {
		return h, nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return h, event, nil
}
