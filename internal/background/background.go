// Package background lets work give way to work that somebody waits for.
package background

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// What the kernel is told of a thread: a niceness, and the last level of the class for input and output that isn't starved.
const (
	niceness   = 10
	ioThread   = 1           // IOPRIO_WHO_PROCESS
	ioPriority = 2<<13 | 0x7 // IOPRIO_CLASS_BE, level 7
)

// Thread makes the processors and disks give way to others before they do the work of the calling goroutine, as far as the kernel lets it. The
// goroutine has a thread of its own from here on, which ends with it.
func Thread() {
	runtime.LockOSThread()
	// Without it the work is done all the same.
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, niceness)
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, ioThread, 0, ioPriority)
}
