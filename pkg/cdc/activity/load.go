package activity

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// load reads the log's file, or begins anew, and writes a new file either way.
func (l *Log) load() (err error) {
	dir := filepath.Dir(l.o.Path)
	if err := l.o.FS.MkdirAll(dir); err != nil {
		return fmt.Errorf("make directory %s of the activity log: %w", dir, err)
	}
	if l.lock, err = l.o.FS.Lock(l.o.Path + ".lock"); err != nil {
		return fmt.Errorf("open activity log %s: %w", l.o.Path, err)
	}
	l.store = &store{fs: l.o.FS, path: l.o.Path, uid: l.o.UID, least: minSectors}
	if l.o.small {
		l.store.least = 4
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.release())
		}
	}()
	data, err := l.o.FS.ReadFile(l.o.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read activity log %s: %w", l.o.Path, err)
	}
	var m *image
	if err != nil {
		l.fresh = "there is no activity log"
	} else if m, err = l.judge(data); err != nil {
		l.fresh = fmt.Sprintf("the activity log %s is not used: %v", l.o.Path, err)
	}
	if l.fresh != "" {
		l.resize(l.o.Size)
		l.allStale()
	} else {
		l.restore(m)
	}
	l.urgent, l.whole = true, true
	b := l.join(true)
	l.write(b)
	return b.err
}

// judge parses the log's file and tells why it can't be used.
func (l *Log) judge(data []byte) (*image, error) {
	m, err := parse(data)
	switch {
	case err != nil:
		return nil, err
	case m.uid != l.o.UID:
		return nil, fmt.Errorf("%w: UID %q", errForeign, m.uid)
	case m.size > l.o.Size:
		return nil, fmt.Errorf("its device had %d bytes, and has %d now", m.size, l.o.Size)
	case m.closed && m.mtime != 0 && l.o.Modified != nil:
		if t, err := l.o.Modified(); err != nil {
			return nil, fmt.Errorf("when its device was changed can't be told: %w", err)
		} else if t.UnixNano() != m.mtime {
			return nil, errors.New("it is older than its device, which was changed after the log was closed")
		}
	}
	return m, nil
}

// restore takes over what a file says. What was listed there is stale.
func (l *Log) restore(m *image) {
	l.tenure, l.acked, l.noted, l.seeded, l.recent = m.tenure, m.acked, m.acked, m.seeded, m.recent
	if m.tenure == (Stream{}) {
		l.fresh = "no stream was adopted with the activity log"
	}
	l.resize(m.size)
	l.stale = m.dirty
	l.stale.grow(l.regions)
	if l.o.Size > m.size { // it grew behind the log
		l.resize(l.o.Size)
		for r := uint32(m.size / RegionSize); r < l.regions; r++ {
			l.stale.set(r)
		}
	}
	l.recent.expire(l.keepSince())
}

// keepSince is when a region must have been covered to stay listed.
func (l *Log) keepSince() uint32 { return uint32(l.o.Now().Add(-l.o.Keep).Unix()) }

// release lets go of the file.
func (l *Log) release() error {
	err := l.store.close()
	if l.lock != nil {
		err = errors.Join(err, l.lock.Close())
	}
	return err
}
