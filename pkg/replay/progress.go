package replay

import (
	"sync"
	"time"
)

// How often progress is told, and over how many of those times the rate is measured.
const (
	progressEvery = 250 * time.Millisecond
	rateOver      = 12
)

// meter counts bytes and tells them now and then.
type meter struct {
	tell  func(Progress) // nil: nobody asks
	began time.Time
	done  chan struct{}
	ended chan struct{}

	mu      sync.Mutex
	now     Progress
	samples []sample
}

type sample struct {
	at    time.Time
	bytes uint64
}

func newMeter(tell func(Progress), point Point, began time.Time) *meter {
	m := &meter{tell: tell, began: began, done: make(chan struct{}), ended: make(chan struct{})}
	m.now.Point = point
	if tell == nil {
		close(m.ended)
		return m
	}
	go m.run()
	return m
}

func (m *meter) run() {
	defer close(m.ended)
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-m.done:
			return
		case <-tick.C:
			if p := m.sample(); p.Phase != "" {
				m.tell(p)
			}
		}
	}
}

func (m *meter) sample() Progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.samples = append(m.samples, sample{time.Now(), m.now.Bytes})
	if n := len(m.samples); n > rateOver {
		m.samples = m.samples[n-rateOver:]
	}
	first, last := m.samples[0], m.samples[len(m.samples)-1]
	if span := last.at.Sub(first.at).Seconds(); span > 0 {
		m.now.Rate = float64(last.bytes-first.bytes) / span
	}
	m.now.Elapsed = time.Since(m.began)
	m.now.Total = max(m.now.Total, m.now.Bytes)
	return m.now
}

// phase begins another part of the work.
func (m *meter) phase(p Phase, total uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now.Phase, m.now.Bytes, m.now.Total, m.now.Rate = p, 0, total, 0
	m.samples = append(m.samples[:0], sample{time.Now(), 0})
}

func (m *meter) add(bytes uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now.Bytes += bytes
}

// finish tells the end: everything is done. Where there was nothing to do nothing is told.
func (m *meter) finish() {
	m.stop()
	if m.tell == nil {
		return
	}
	m.mu.Lock()
	m.now.Total = m.now.Bytes
	m.mu.Unlock()
	if p := m.sample(); p.Phase != "" {
		m.tell(p)
	}
}

// stop ends telling; calling it again does nothing.
func (m *meter) stop() {
	select {
	case <-m.done:
	default:
		close(m.done)
	}
	<-m.ended
}
