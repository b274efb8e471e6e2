package objects

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/farshore/farshore/pkg/events"
)

// A log begins with its magic; records follow each other. A record is the length of a message as a big-endian uint32, then the
// message: an Object, encoded and sealed as on a stream. The parts of a split one stand behind each other.
const (
	magic      = "FSOBJ\x00\x00\x01"
	prefixSize = 4 // bytes
)

// FS is what a Store needs of a file system, step by step. Paths are as filepath.Join makes them.
type FS interface {
	// MkdirAll makes a directory and its parents; each new entry is durable.
	MkdirAll(dir string) error
	// SyncDir makes the entries of a directory durable: files made in it, and removed.
	SyncDir(dir string) error
	// List returns the names of the files in a directory.
	List(dir string) ([]string, error)
	// OpenLog opens a file; with blank it is made, or emptied where it is there already.
	OpenLog(name string, blank bool) (File, error)
	// Remove removes a file. One that is open stays readable.
	Remove(name string) error
}

// File is an open log. ReadAt may be called concurrently with everything but Close. One that nothing refers to any more is
// released without Close.
type File interface {
	io.ReaderAt
	io.WriterAt
	// Sync makes what was written durable. After an error nothing since the last Sync is known to be.
	Sync() error
	// Truncate cuts the file to size bytes.
	Truncate(size int64) error
	// Close releases the file.
	Close() error
}

// log is a file of records.
type log struct {
	name string
	file File
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

// scan reads the records up to a length, verifies each and gives it to take. The event's Raw is good for that call only.
func (l *log) scan(length int64, take func(events.Event, extent) error) error {
	r := bufio.NewReaderSize(io.NewSectionReader(l.file, 0, length), 1<<20)
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(r, head); err != nil {
		return l.cut(0, err)
	}
	if string(head) != magic {
		return fmt.Errorf("%w: %s does not begin as one", ErrDamaged, l.name)
	}
	buf := make([]byte, events.MaxMessage)
	for off := int64(len(magic)); off < length; {
		prefix := buf[:prefixSize]
		if _, err := io.ReadFull(r, prefix); err != nil {
			return l.cut(off, err)
		}
		n := binary.BigEndian.Uint32(prefix)
		if n > events.MaxMessage {
			return fmt.Errorf("%w: %s has a record of %d bytes at %d", ErrDamaged, l.name, n, off)
		}
		if _, err := io.ReadFull(r, buf[:n]); err != nil {
			return l.cut(off, err)
		}
		_, event, err := events.Decode(l.name, uint64(off), buf[:n])
		if err == nil {
			err = take(event, extent{off, prefixSize + int(n)})
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		off += prefixSize + int64(n)
	}
	return nil
}

// cut tells a file that is too short from one that can't be read.
func (l *log) cut(off int64, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %s ends within what begins at %d", ErrDamaged, l.name, off)
	}
	return fmt.Errorf("read %s at %d: %w", l.name, off, err)
}

// flushAt is how many bytes a writer keeps before it writes them.
const flushAt = 1 << 20

// writer appends records to a log. What it wrote is there for readers after flush.
type writer struct {
	log *log
	at  int64 // of buf
	buf []byte
}

func (w *writer) end() int64 { return w.at + int64(len(w.buf)) }

// append adds a record and returns where it is.
func (w *writer) append(h events.Header, e events.Event) (extent, error) {
	off, begin := w.end(), len(w.buf)
	buf, err := events.Append(append(w.buf, make([]byte, prefixSize)...), h, e)
	if err != nil {
		return extent{}, err
	}
	w.buf = buf
	n := len(w.buf) - begin
	binary.BigEndian.PutUint32(w.buf[begin:], uint32(n-prefixSize))
	return extent{off, n}, w.full()
}

// copy adds a record of another log, verified, and returns where it is.
func (w *writer) copy(from *log, e extent) (extent, error) {
	off, begin := w.end(), len(w.buf)
	w.buf = append(w.buf, make([]byte, e.length)...)
	record := w.buf[begin:]
	if _, err := from.file.ReadAt(record, e.off); err != nil {
		return extent{}, fmt.Errorf("read %d bytes of %s at %d: %w", e.length, from.name, e.off, err)
	}
	if n := int(binary.BigEndian.Uint32(record)); n != e.length-prefixSize {
		return extent{}, fmt.Errorf("%w: %s has a record of %d bytes at %d instead of %d", ErrDamaged, from.name, n, e.off, e.length-prefixSize)
	}
	if _, _, err := events.DecodeHeader(from.name, uint64(e.off), record[prefixSize:]); err != nil {
		return extent{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return extent{off, e.length}, w.full()
}

func (w *writer) full() error {
	if len(w.buf) < flushAt {
		return nil
	}
	return w.flush()
}

func (w *writer) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	if _, err := w.log.file.WriteAt(w.buf, w.at); err != nil {
		return fmt.Errorf("write %d bytes of %s at %d: %w", len(w.buf), w.log.name, w.at, err)
	}
	w.at, w.buf = w.end(), w.buf[:0]
	return nil
}

// back forgets what was appended from an offset on.
func (w *writer) back(off int64) {
	if off < w.at {
		w.at, w.buf = off, w.buf[:0]
		return
	}
	w.buf = w.buf[:off-w.at]
}
