package bank

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Side is one of the two databases.
type Side int

// The sides of a transfer.
const (
	Debit  Side = iota // in the ledger
	Credit             // in the settlement
)

// String names the side.
func (s Side) String() string {
	if s == Debit {
		return "debit"
	}
	return "credit"
}

// Entry is when a commit began and when the database acknowledged it; Done is zero where it
// did not.
type Entry struct{ Begun, Done time.Time }

// Log is what the databases acknowledged, kept outside of them. Its methods may be called concurrently.
type Log struct {
	mu   sync.Mutex
	out  io.Writer
	side [2][]Entry // by id - 1
}

// NewLog returns a log that also writes one line for each acknowledged commit to out.
func NewLog(out io.Writer) *Log { return &Log{out: out} }

// begin notes that a commit begins. IDs of one side come in order.
func (l *Log) begin(s Side, id int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if int64(len(l.side[s])) != id-1 {
		panic(fmt.Sprintf("%s %d begins behind %d", s, id, len(l.side[s])))
	}
	l.side[s] = append(l.side[s], Entry{Begun: time.Now()})
}

// done notes that the newest commit of a side was acknowledged.
func (l *Log) done(s Side, id int64) error {
	now := time.Now()
	l.mu.Lock()
	e := &l.side[s][id-1]
	e.Done = now
	begun := e.Begun
	l.mu.Unlock()
	const layout = "2006-01-02T15:04:05.000000Z07:00"
	if _, err := fmt.Fprintf(l.out, "%s %d begun %s acknowledged %s\n", s, id, begun.UTC().Format(layout), now.UTC().Format(layout)); err != nil {
		return fmt.Errorf("log what was acknowledged: %w", err)
	}
	return nil
}

// Acknowledged counts the acknowledged commits of a side.
func (l *Log) Acknowledged(s Side) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.side[s])
	if n > 0 && l.side[s][n-1].Done.IsZero() {
		n--
	}
	return int64(n)
}

// before counts the commits acknowledged up to t and those begun up to t.
func (l *Log) before(s Side, t time.Time) (acknowledged, begun int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.side[s] {
		if !e.Done.IsZero() && !e.Done.After(t) {
			acknowledged++
		}
		if !e.Begun.After(t) {
			begun++
		}
	}
	return acknowledged, begun
}

// Loss is what was acknowledged and is not in a recovered point.
type Loss struct {
	Debits, Credits int64
	Span            time.Duration // from the first lost acknowledgement to the last
}

// Lost compares what is in a recovered point, as numbers of debits and credits, with the log.
func (l *Log) Lost(debits, credits int64) Loss {
	var loss Loss
	var first, last time.Time
	l.mu.Lock()
	defer l.mu.Unlock()
	for s, have := range []int64{debits, credits} {
		for _, e := range l.side[s][min(have, int64(len(l.side[s]))):] {
			if e.Done.IsZero() {
				continue
			}
			if Side(s) == Debit {
				loss.Debits++
			} else {
				loss.Credits++
			}
			if first.IsZero() || e.Done.Before(first) {
				first = e.Done
			}
			if e.Done.After(last) {
				last = e.Done
			}
		}
	}
	loss.Span = last.Sub(first)
	return loss
}
