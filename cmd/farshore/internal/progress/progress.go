// Package progress shows how far a long operation has come: a bar that redraws itself on a terminal,
// plain lines elsewhere.
package progress

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/farshore/farshore/cmd/farshore/internal/human"
)

const (
	redraw   = 100 * time.Millisecond // between two drawings of the bar
	interval = 2 * time.Second        // between two plain lines
	window   = 5 * time.Second        // that the rate is measured over
)

// Options describe where and how progress is shown.
type Options struct {
	Out      io.Writer
	Terminal bool
	Width    func() int // columns of the terminal; nil: 80
	Now      func() time.Time
	Title    string
	Started  time.Time // of the operation; zero: when New is called
}

// For returns the options for a file: a bar where it is a terminal, lines where it is not.
func For(f *os.File, title string) Options {
	fd := int(f.Fd())
	return Options{
		Out: f, Title: title, Terminal: term.IsTerminal(fd) && os.Getenv("TERM") != "dumb",
		Width: func() int {
			if w, _, err := term.GetSize(fd); err == nil {
				return w
			}
			return 80
		},
	}
}

// Printer prints progress. Its methods may be called concurrently.
type Printer struct {
	o Options

	mu      sync.Mutex
	started time.Time
	shown   time.Time
	samples []sample
	last    sample
	total   int64
	open    bool // a bar stands on the current line
}

type sample struct {
	at   time.Time
	done int64
}

// New returns a printer.
func New(o Options) *Printer {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Width == nil {
		o.Width = func() int { return 80 }
	}
	if o.Started.IsZero() {
		o.Started = o.Now()
	}
	return &Printer{o: o, started: o.Started, samples: []sample{{at: o.Started}}}
}

// Update tells that done of total bytes are done; total 0 means that it is not known yet.
// It prints at most ten bars or half a line a second.
func (p *Printer) Update(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.o.Now()
	p.last, p.total = sample{now, done}, total
	wait := interval
	if p.o.Terminal {
		wait = redraw
	}
	if !p.shown.IsZero() && now.Sub(p.shown) < wait {
		return
	}
	p.shown = now
	p.samples = append(p.samples, p.last)
	for len(p.samples) > 2 && now.Sub(p.samples[1].at) >= window {
		p.samples = p.samples[1:]
	}
	if p.o.Terminal {
		fmt.Fprintf(p.o.Out, "\r\x1b[2K%s", p.bar(p.o.Width()))
		p.open = true
		return
	}
	fmt.Fprintln(p.o.Out, p.line())
}

// Done ends the display with a line that tells what was done in which time.
func (p *Printer) Done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	took := p.o.Now().Sub(p.started)
	p.clear()
	fmt.Fprintf(p.o.Out, "%s: %s in %s (%s)\n", p.o.Title, human.Bytes(p.last.done), human.Duration(took), human.Rate(float64(p.last.done)/took.Seconds()))
}

// Abort ends the display without a word: an error follows.
func (p *Printer) Abort() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
}

func (p *Printer) clear() {
	if p.open {
		fmt.Fprint(p.o.Out, "\r\x1b[2K")
		p.open = false
	}
}

// rate is bytes per second over the window.
func (p *Printer) rate() float64 {
	from := p.samples[0]
	seconds := p.last.at.Sub(from.at).Seconds()
	if seconds <= 0 {
		return 0
	}
	return float64(p.last.done-from.done) / seconds
}

// numbers tells bytes, rate and time left.
func (p *Printer) numbers() string {
	rate := p.rate()
	if p.total <= 0 {
		return fmt.Sprintf("%s  %s", human.Bytes(p.last.done), human.Rate(rate))
	}
	left := "-"
	if rest := p.total - p.last.done; rest <= 0 {
		left = "0 s"
	} else if rate > 0 {
		left = human.Seconds(float64(rest) / rate)
	}
	return fmt.Sprintf("%s of %s  %s  %s left", human.Bytes(p.last.done), human.Bytes(p.total), human.Rate(rate), left)
}

func (p *Printer) fraction() float64 {
	if p.total <= 0 {
		return 0
	}
	return min(1, max(0, float64(p.last.done)/float64(p.total)))
}

func (p *Printer) line() string {
	if p.total <= 0 {
		return fmt.Sprintf("%s: %s", p.o.Title, p.numbers())
	}
	return fmt.Sprintf("%s: %3.0f %%  %s", p.o.Title, 100*p.fraction(), p.numbers())
}

func (p *Printer) bar(width int) string {
	numbers := p.numbers()
	cells := min(40, width-len([]rune(p.o.Title))-len([]rune(numbers))-len("  [] 100 %  ")-1)
	if p.total <= 0 || cells < 5 {
		line := []rune(p.line())
		return string(line[:min(len(line), max(0, width-1))])
	}
	full := int(p.fraction() * float64(cells))
	return fmt.Sprintf("%s  [%s%s] %3.0f %%  %s", p.o.Title, strings.Repeat("=", full), strings.Repeat(" ", cells-full), 100*p.fraction(), numbers)
}
