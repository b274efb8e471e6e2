package archiver

import "time"

// ReadAhead returns when it was last read ahead what changed.
func (a *Archiver) ReadAhead() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.aheadAt
}

// SetRoom makes f tell whether there is room to build points; Run is not running.
func (a *Archiver) SetRoom(f func(dir string) error) { a.room = f }
