package barrier

import (
	"maps"
	"slices"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

// history is what a coordinator has to know of those before it. Everything in it comes from the
// control stream, so a coordinator that appends an event follows it, too.
type history struct {
	roster  *roster
	barrier uint64                     // highest barrier number seen
	last    time.Time                  // time of the last commit
	seqs    map[string]events.Position // each volume's, and the objects', position in the last cut that had it
	hooks   map[events.Token][]string  // brackets of hooks without an end
}

func newHistory() *history {
	return &history{
		roster: newRoster(),
		seqs:   make(map[string]events.Position),
		hooks:  make(map[events.Token][]string),
	}
}

// follow takes in the next event of the control stream.
func (h *history) follow(e events.Event) error {
	switch e := e.(type) {
	case *events.Member:
		return h.roster.apply(e)
	case *events.Commit:
		h.barrier = max(h.barrier, e.Token.Barrier)
		h.last = e.Time
		for _, v := range e.Vector {
			h.seqs[v.Volume] = v.Position
		}
		if e.Objects != nil {
			h.seqs[journal.Objects] = *e.Objects
		}
	case *events.HooksOpen:
		h.barrier = max(h.barrier, e.Token.Barrier)
		if e.End {
			delete(h.hooks, e.Token)
		} else {
			h.hooks[e.Token] = e.Hooks
		}
	}
	return nil
}

// openHooks returns the events that end every open bracket, oldest first.
func (h *history) openHooks() []*events.HooksOpen {
	var ends []*events.HooksOpen
	for _, t := range slices.SortedFunc(maps.Keys(h.hooks), events.Token.Compare) {
		ends = append(ends, &events.HooksOpen{Token: t, End: true, Hooks: h.hooks[t]})
	}
	return ends
}

// instant is the time of a commit whose cut was taken when the clock showed now: behind every earlier
// commit, whatever was done to the clock.
func (h *history) instant(now time.Time) time.Time {
	now = now.Round(0).UTC() // of the wall clock: the reading goes into the stream
	if least := h.last.Add(time.Microsecond); !h.last.IsZero() && now.Before(least) {
		return least
	}
	return now
}
