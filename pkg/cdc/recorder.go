package cdc

import (
	"context"
	"time"

	"github.com/farshore/farshore/pkg/events"
)

// Recorder records the mutations of one device.
type Recorder struct{ o Options }

// NewRecorder returns a recorder; it works once Run runs.
func NewRecorder(o Options) *Recorder { return &Recorder{o: o} }

func (r *Recorder) Run(ctx context.Context) error                                    { panic("") }
func (r *Recorder) Drain(ctx context.Context) error                                  { panic("") }
func (r *Recorder) Stored(seq uint64)                                                { panic("") }
func (r *Recorder) StartPass(kind events.PassKind)                                   { panic("") }
func (r *Recorder) Ready() (bool, events.Progress)                                   { panic("") }
func (r *Recorder) Heartbeat() *events.Heartbeat                                     { panic("") }
func (r *Recorder) Size() int64                                                      { panic("") }
func (r *Recorder) BlockSize() int64                                                 { panic("") }
func (r *Recorder) ReadAt(p []byte, off int64) (int, error)                          { panic("") }
func (r *Recorder) Write(ctx context.Context, p []byte, off int64, fua bool) error   { panic("") }
func (r *Recorder) Zero(ctx context.Context, off, length int64, o ZeroOptions) error { panic("") }
func (r *Recorder) Trim(ctx context.Context, off, length int64, fua bool) error      { panic("") }
func (r *Recorder) Flush(ctx context.Context) error                                  { panic("") }
func (r *Recorder) Segments(off, length int64) ([]Segment, error)                    { panic("") }
func (r *Recorder) Hold(t events.Token, limit time.Duration) error                   { panic("") }
func (r *Recorder) Mark(ctx context.Context, t events.Token) (Marked, error)         { panic("") }
func (r *Recorder) Release(t events.Token)                                           { panic("") }

// Direct is a Device with a recorder's front side and no recording.
func Direct(d Device) *Passthrough { return &Passthrough{d} }

// Passthrough is what Direct returns.
type Passthrough struct{ Device }

func (r *Passthrough) Write(ctx context.Context, p []byte, off int64, fua bool) error   { panic("") }
func (r *Passthrough) Zero(ctx context.Context, off, length int64, o ZeroOptions) error { panic("") }
func (r *Passthrough) Trim(ctx context.Context, off, length int64, fua bool) error      { panic("") }
func (r *Passthrough) Flush(ctx context.Context) error                                  { panic("") }
