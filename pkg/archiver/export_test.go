package archiver

import "time"

// ReadAhead returns when it was last read ahead what changed.
func (a *Archiver) ReadAhead() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.aheadAt
}
