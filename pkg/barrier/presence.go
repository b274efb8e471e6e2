package barrier

import (
	"sync"
	"time"

	"github.com/farshore/farshore/pkg/events"
)

// absentAfter is how long after its last announcement a tap counts as absent.
const absentAfter = 4 * AnnounceEvery

// presence is who was heard lately. Its methods may be called concurrently.
type presence struct {
	mu   sync.Mutex
	taps map[string]heard
}

// heard is a tap's last announcement.
type heard struct {
	announcement
	at time.Time // of our monotonic clock
}

func newPresence() *presence { return &presence{taps: make(map[string]heard)} }

// note takes in an announcement, unless a newer tenure of the stream was heard before: then it is
// from a leftover process.
func (p *presence) note(a announcement, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a.older(p.taps[a.Volume].identity) {
		return
	}
	p.taps[a.Volume] = heard{a, at}
}

// of returns the last announcement of a volume's tap; false where it isn't present.
func (p *presence) of(volume string) (heard, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h, ok := p.taps[volume]
	return h, ok && time.Since(h.at) < absentAfter
}

// newest is the newest token that a tap of a volume has been asked with: the highest epoch, and the highest
// barrier number of any.
func (p *presence) newest() (t events.Token) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.taps {
		t.Epoch, t.Barrier = max(t.Epoch, h.Seen.Epoch), max(t.Barrier, h.Seen.Barrier)
	}
	return t
}
