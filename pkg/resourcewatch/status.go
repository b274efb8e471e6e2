package resourcewatch

import (
	"fmt"
	"slices"
	"time"
)

// Refused is a request that the API server doesn't allow. The kind is not captured as long as that lasts.
type Refused struct {
	Verb      string // as RBAC names it: list, watch
	Group     string // API group; "" is the core's
	Resource  string
	Namespace string // "" for cluster-scoped kinds
	Message   string // as the API server says it
	Since     time.Time
}

// Status is where a watcher stands.
type Status struct {
	Kinds    int       // that are watched
	Objects  int       // that the API server holds of them
	Selected int       // that the stream's reader has; 0 while nothing is recorded
	Revision string    // proven: every change up to it is appended; "" where none is
	Proven   time.Time // when the newest revision up to it was read at the API server; zero where none was
	Synced   bool      // every kind that may be watched was listed
	Refused  []Refused // in the order of resources
	Failing  []string  // kinds that are not captured for another reason, with it; in order
}

// Status returns where the watcher stands.
func (w *Watcher) Status() Status {
	s := Status{Synced: w.hasDiscovered()}
	kinds := make(map[kindID]bool)
	for _, f := range w.feeds() {
		f.mu.Lock()
		if !f.gone {
			kinds[f.place.kind()] = true
			s.Objects += len(f.latest)
			s.Synced = s.Synced && (f.listed || len(f.refused) > 0)
			for _, verb := range []string{"list", "watch"} {
				if r, ok := f.refused[verb]; ok {
					s.Refused = append(s.Refused, r)
				}
			}
			if f.failing != nil {
				s.Failing = append(s.Failing, fmt.Sprintf("%s: %v", f.place, f.failing))
			}
		}
		f.mu.Unlock()
	}
	w.mu.Lock()
	s.Failing = append(s.Failing, w.elsewhere...)
	w.mu.Unlock()
	slices.Sort(s.Failing)
	s.Kinds = len(kinds)
	if t := w.tenure(); t != nil {
		s.Selected = int(t.selected.Load())
		if s.Revision = t.proven(); s.Revision != "" {
			s.Proven = w.dates.of(s.Revision)
		}
	}
	return s
}

// Debt returns how many bytes of changes wait to be appended, and since when the oldest does.
func (w *Watcher) Debt() (bytes int64, oldest time.Time) {
	if w.tenure() == nil {
		return 0, time.Time{}
	}
	for _, f := range w.feeds() {
		n, since := f.pending()
		bytes += n
		if n > 0 && (oldest.IsZero() || since.Before(oldest)) {
			oldest = since
		}
	}
	return bytes, oldest
}
