package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/farshore/farshore/internal/durable"
	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
)

// spoiledError says that an archived point can't be restored.
type spoiledError struct {
	point *archived
	err   error
}

// Error implements error.
func (e *spoiledError) Error() string {
	return fmt.Sprintf("damaged: the archive's point of barrier %d can't be restored: %v", e.point.point.Barrier, e.err)
}

// Unwrap returns the cause.
func (e *spoiledError) Unwrap() error { return e.err }

// fetch restores an archived point's parts into dir, from where done says, and makes a set of them. save makes done durable.
func (r *run) fetch(ctx context.Context, a *archived, dir string, done map[string]extent, save func() error, meter *meter) error {
	parts := slices.Clone(a.point.Parts)
	slices.SortStableFunc(parts, func(a, b archive.Part) int { return cmp.Compare(rank(a), rank(b)) })
	total := int64(0)
	for _, p := range parts {
		total += p.Size - done[p.Name].Done
	}
	meter.phase(Fetching, uint64(total))
	cp := a.set.Clone()
	for _, p := range parts {
		v := cp.Volumes[p.Name]
		v.Device = r.o.Devices[p.Name]
		cp.Volumes[p.Name] = v
		if err := r.fetchPart(ctx, a, p, place(dir, p.Name, v), done, save, meter); err != nil {
			return err
		}
	}
	_, err := replica.Plant(dir, cp)
	return err
}

// rank puts the objects, which are small, first.
func rank(p archive.Part) int {
	if p.Name == journal.Objects {
		return 0
	}
	return 1
}

// place returns where a part of a set at dir is.
func place(dir, name string, v replica.Volume) string {
	switch {
	case name == journal.Objects:
		return replica.LogPath(dir, v)
	case v.Device != "":
		return v.Device
	}
	return replica.VolumePath(dir, name)
}

func (r *run) fetchPart(ctx context.Context, a *archived, p archive.Part, path string, done map[string]extent, save func() error, meter *meter) (err error) {
	at := done[p.Name]
	if at.Done >= p.Size && at.Done > 0 || path == "" {
		return nil
	}
	t, err := r.sink(p, path, at.Done == 0)
	if err != nil {
		return &replica.VolumeError{Volume: p.Name, Err: err}
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	reached := func(upTo int64) error {
		if err := t.Sync(); err != nil {
			return err
		}
		at.Done = upTo
		done[p.Name] = at
		return save()
	}
	err = r.o.Archive.Restore(ctx, p, archive.RestoreOptions{
		From: at.Done, Sink: t, Done: reached,
		Progress: func(n int64) { meter.add(uint64(n)) },
	})
	if err != nil {
		err = fmt.Errorf("fetch %s from the archive: %w", partName(p.Name), err)
	}
	var damage *archive.DamageError
	switch {
	case errors.As(err, &damage):
		return &spoiledError{a, err}
	case err != nil:
		return err
	}
	return reached(p.Size)
}

// sink opens what a part is restored into. blank tells that nothing of it was restored yet.
func (r *run) sink(p archive.Part, path string, blank bool) (replica.Target, error) {
	if _, ok := r.o.Devices[p.Name]; ok {
		return replica.OpenDevice(path, p.Size)
	}
	if err := durable.MkdirAll(filepath.Dir(path)); err != nil {
		return nil, err
	}
	t, err := replica.OpenFile(path, p.Size, blank)
	if err != nil || !blank {
		return t, err
	}
	return hollow{t}, nil
}

// hollow is a new file: all of it reads as zero already.
type hollow struct{ replica.Target }

// Zero implements archive.Sink.
func (hollow) Zero(int64, int64) error { return nil }
