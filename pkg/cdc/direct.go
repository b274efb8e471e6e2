package cdc

import (
	"context"
	"fmt"
)

// Direct returns the front side of a device without any recording: what a recorder's cost is
// measured against. Calls must not overlap, as the Device wants.
func Direct(d Device) *Passthrough { return &Passthrough{d} }

// Passthrough is a device with a recorder's front side. See Direct.
type Passthrough struct{ dev Device }

// Size is the device's size in bytes.
func (d *Passthrough) Size() int64 { return d.dev.Size() }

// BlockSize is the unit in bytes that writes are atomic in.
func (d *Passthrough) BlockSize() int64 { return d.dev.BlockSize() }

// ReadAt fills p from off, or fails.
func (d *Passthrough) ReadAt(p []byte, off int64) (int, error) {
	if err := inRange(d.dev.Size(), off, int64(len(p))); err != nil {
		return 0, err
	}
	return d.dev.ReadAt(p, off)
}

// Write stores p at off, durable with fua.
func (d *Passthrough) Write(_ context.Context, p []byte, off int64, fua bool) error {
	if err := inRange(d.dev.Size(), off, int64(len(p))); err != nil {
		return err
	}
	if _, err := d.dev.WriteAt(p, off); err != nil {
		return fmt.Errorf("write %d bytes at %d: %w", len(p), off, err)
	}
	return d.durable(fua)
}

// Zero makes the range read as zero.
func (d *Passthrough) Zero(_ context.Context, off, length int64, o ZeroOptions) error {
	if err := inRange(d.dev.Size(), off, length); err != nil || length == 0 {
		return err
	}
	zero := d.dev.Zero
	if o.Fast {
		zero = func(off, length int64, mayPunch bool) error { return zeroFast(d.dev, off, length, mayPunch) }
	}
	if err := zero(off, length, !o.NoHole); err != nil {
		return err
	}
	return d.durable(o.FUA)
}

// Trim deallocates the range; it reads as zero afterwards.
func (d *Passthrough) Trim(_ context.Context, off, length int64, fua bool) error {
	if err := inRange(d.dev.Size(), off, length); err != nil || length == 0 {
		return err
	}
	if err := d.dev.Trim(off, length); err != nil {
		return err
	}
	return d.durable(fua)
}

// Flush makes every mutation that returned before durable.
func (d *Passthrough) Flush(context.Context) error { return d.dev.Flush() }

// Segments tells what the range consists of.
func (d *Passthrough) Segments(off, length int64) ([]Segment, error) {
	if err := inRange(d.dev.Size(), off, length); err != nil {
		return nil, err
	}
	return d.dev.Segments(off, length)
}

func (d *Passthrough) durable(wanted bool) error {
	if !wanted {
		return nil
	}
	return d.dev.Flush()
}
