package nbd

import (
	"errors"
	"fmt"
	"io"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resident tells whether a range of the export's file is in the page cache, where it is worth
// sending it from there. It is false on systems that can't tell.
func (c *conn) resident(off, length int64) bool {
	if c.file == nil {
		return false
	}
	var there bool
	err := c.file.Control(func(fd uintptr) {
		asked := struct{ off, length uint64 }{uint64(off), uint64(length)}
		var answer struct{ cached, dirty, writeback, evicted, recently uint64 }
		_, _, e := unix.Syscall6(unix.SYS_CACHESTAT, fd, uintptr(unsafe.Pointer(&asked)), uintptr(unsafe.Pointer(&answer)), 0, 0, 0)
		first, last := off/page, (off+length+page-1)/page
		there = e == 0 && int64(answer.cached) >= last-first
	})
	return err == nil && there
}

// writeFile sends head and then n bytes of the export's file. An error ends the connection: what was
// sent can't be taken back.
func (c *conn) writeFile(head []byte, off, n int64) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	var failed error
	err := c.file.Control(func(from uintptr) { failed = c.sendFile(int(from), head, off, n) })
	if err = errors.Join(err, failed); err != nil {
		c.v.o.Log.Warn("NBD reply could not be sent from the volume's file", "export", c.entry.name, "error", err)
		c.nc.Close() // this also wakes the leader
	}
	return err
}

func (c *conn) sendFile(from int, head []byte, off, n int64) error {
	var failed error
	err := c.raw.Write(func(to uintptr) bool {
		for len(head) > 0 {
			var k int
			k, failed = unix.SendmsgN(int(to), head, nil, nil, unix.MSG_MORE|unix.MSG_NOSIGNAL)
			if again, stop := blocked(failed); again {
				continue
			} else if stop {
				return failed != unix.EAGAIN
			}
			head = head[k:]
		}
		for n > 0 {
			var k int
			k, failed = unix.Sendfile(int(to), from, &off, int(n))
			if again, stop := blocked(failed); again {
				continue
			} else if stop {
				return failed != unix.EAGAIN
			}
			if k == 0 {
				failed = fmt.Errorf("volume ends at %d: %w", off, io.ErrUnexpectedEOF)
				return true
			}
			n -= int64(k)
		}
		return true
	})
	if err != nil {
		return err
	}
	return failed
}

// blocked tells whether a call is to be made again at once, and whether it is to be left for now.
func blocked(err error) (again, stop bool) {
	return errors.Is(err, syscall.EINTR), err != nil
}
