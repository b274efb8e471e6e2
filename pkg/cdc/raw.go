package cdc

import "syscall"

// Raw gives access to the descriptor that the device's bytes are read from, at their offsets, so that a
// front can send them without a copy. Nothing else may be done with it. It is nil where the system
// gives none.
func (d *file) Raw() syscall.RawConn {
	c, err := d.f.SyscallConn()
	if err != nil {
		return nil
	}
	return c
}

// Raw gives access to the device's descriptor, for reading; nil where it has none.
func (d *Passthrough) Raw() syscall.RawConn { return rawOf(d.dev) }

// Raw gives access to the device's descriptor, for reading; nil where it has none.
func (r *Recorder) Raw() syscall.RawConn { return rawOf(r.o.Device) }

func rawOf(d Device) syscall.RawConn {
	if f, is := d.(interface{ Raw() syscall.RawConn }); is {
		return f.Raw()
	}
	return nil
}
