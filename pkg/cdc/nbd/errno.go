package nbd

import (
	"context"
	"errors"
	"io/fs"
	"syscall"
)

// errno is an error as the protocol numbers it.
type errno uint32

const (
	ok        errno = 0
	ePerm     errno = 1
	eIO       errno = 5
	eNoMem    errno = 12
	eInval    errno = 22
	eNoSpace  errno = 28
	eOverflow errno = 75
	eNotSup   errno = 95
	eShutdown errno = 108
)

// errnoOf tells a client what an export's error means. What the protocol has no number for is an
// I/O error.
func errnoOf(err error) errno {
	if err == nil {
		return ok
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, fs.ErrClosed) {
		return eShutdown
	}
	if errors.Is(err, errors.ErrUnsupported) { // ENOTSUP, EOPNOTSUPP, ENOSYS
		return eNotSup
	}
	var n syscall.Errno
	if !errors.As(err, &n) {
		return eIO
	}
	switch n {
	case syscall.EPERM, syscall.EROFS, syscall.EACCES:
		return ePerm
	case syscall.ENOMEM:
		return eNoMem
	case syscall.EINVAL:
		return eInval
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG:
		return eNoSpace
	case syscall.ESHUTDOWN:
		return eShutdown
	}
	return eIO
}

// system is what the protocol's number is called on this system.
func (e errno) system() syscall.Errno {
	switch e {
	case ePerm:
		return syscall.EPERM
	case eNoMem:
		return syscall.ENOMEM
	case eInval:
		return syscall.EINVAL
	case eNoSpace:
		return syscall.ENOSPC
	case eOverflow:
		return syscall.EOVERFLOW
	case eNotSup:
		return syscall.ENOTSUP
	case eShutdown:
		return syscall.ESHUTDOWN
	}
	return syscall.EIO
}
