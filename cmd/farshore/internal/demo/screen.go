package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/farshore/farshore/cmd/farshore/internal/bank"
	"github.com/farshore/farshore/cmd/farshore/internal/human"
	"github.com/farshore/farshore/cmd/farshore/internal/statusview"
	"github.com/farshore/farshore/pkg/group"
)

// screen tells the demo's story: lines, and under them, while the load runs, how the sites stand. On a
// terminal that part is redrawn in place, elsewhere it is a line every two seconds.
type screen struct {
	out      io.Writer
	terminal bool
	width    func() int
	started  time.Time

	mu    sync.Mutex
	drawn int       // lines of the live part that stand on the terminal
	told  time.Time // when progress last wrote a line where there is no terminal
}

func newScreen(out io.Writer) *screen {
	s := &screen{out: out, started: time.Now(), width: func() int { return 80 }}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		s.terminal = true
		s.width = func() int {
			if w, _, err := term.GetSize(int(f.Fd())); err == nil {
				return w
			}
			return 80
		}
	}
	return s
}

// say writes a line of the story with the time since the start.
func (s *screen) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	fmt.Fprintf(s.out, "%5.1f s  %s\n", time.Since(s.started).Seconds(), fmt.Sprintf(format, args...))
}

// progress shows how far something long is: one line that is redrawn, or where there is no terminal a line now and then.
func (s *screen) progress(text string) {
	const every = 15 * time.Second
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.terminal {
		if time.Since(s.told) >= every {
			s.told = time.Now()
			fmt.Fprintf(s.out, "%5.1f s  %s\n", time.Since(s.started).Seconds(), text)
		}
		return
	}
	s.erase()
	line := []rune("         " + text)
	fmt.Fprintln(s.out, string(line[:min(len(line), max(0, s.width()-1))]))
	s.drawn = 1
}

// print writes text as it is.
func (s *screen) print(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	fmt.Fprint(s.out, text)
}

func (s *screen) erase() {
	if s.drawn > 0 {
		fmt.Fprintf(s.out, "\x1b[%dA\x1b[J", s.drawn)
		s.drawn = 0
	}
}

// live shows how things stand until ctx ends.
func (s *screen) live(ctx context.Context, w *witness, log *bank.Log) {
	every := 2 * time.Second
	if s.terminal {
		every = 250 * time.Millisecond
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	before := view{at: time.Now()}
	for {
		select {
		case <-ctx.Done():
			s.mu.Lock()
			s.erase()
			s.mu.Unlock()
			return
		case <-tick.C:
		}
		v := view{at: time.Now(), debits: log.Acknowledged(bank.Debit), credits: log.Acknowledged(bank.Credit)}
		v.point, v.any = w.newest()
		v.status, _ = statusview.Read(ctx, w.site, w.group) // without one the lags show as unknown
		v.rate = float64(v.credits-before.credits) / v.at.Sub(before.at).Seconds()
		before = v
		if ctx.Err() == nil {
			s.draw(v)
		}
	}
}

func (s *screen) draw(v view) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.terminal {
		fmt.Fprintf(s.out, "%5.1f s  %s\n", v.at.Sub(s.started).Seconds(), v.line())
		return
	}
	s.erase()
	lines := v.lines()
	width := s.width() - 1
	for _, line := range lines {
		runes := []rune(line)
		fmt.Fprintln(s.out, string(runes[:min(len(runes), max(0, width))]))
	}
	s.drawn = len(lines)
}

// view is how things stand at one moment.
type view struct {
	at              time.Time
	debits, credits int64
	rate            float64 // credits per second
	point           arrival
	any             bool // there is a point
	status          *group.Status
}

func (v view) rpo() string {
	if !v.any {
		return "-"
	}
	return human.Duration(v.at.Sub(v.point.committed))
}

func (v view) lags() group.Lags {
	if v.status == nil {
		return group.Lags{}
	}
	return v.status.Lags
}

func (v view) line() string {
	l := v.lags()
	return fmt.Sprintf("%s transfers (%.0f/s), recovery point #%d, RPO %s, transit lag %s, replay debt %s, capture debt %s",
		human.Count(v.credits), v.rate, v.point.barrier, v.rpo(), statusview.Seconds(l.TransitLagSeconds),
		statusview.Debt(l.ReplayDebt), statusview.Debt(l.CaptureDebt))
}

func (v view) lines() []string {
	point := "none yet"
	if v.any {
		point = fmt.Sprintf("#%d of %s", v.point.barrier, v.point.committed.Local().Format("15:04:05.000"))
	}
	out := []string{
		"",
		fmt.Sprintf("         transfers        %s debits, %s credits acknowledged, %.0f/s", human.Count(v.debits), human.Count(v.credits), v.rate),
		fmt.Sprintf("         recovery point   %s, recoverable RPO %s", point, v.rpo()),
	}
	if v.status == nil {
		return out
	}
	if o := v.status.Objects; o != nil {
		out = append(out, "         "+objectsLine(o))
	}
	if a := v.status.Archive; a != nil {
		out = append(out, "         "+archiveLine(a))
	}
	out = append(out, fmt.Sprintf("         %-16s %-14s %-34s %s", "volume", "transit lag", "replay debt", "capture debt"))
	for _, vol := range v.status.Volumes {
		out = append(out, strings.TrimRight(fmt.Sprintf("         %-16s %-14s %-34s %s", vol.Name,
			statusview.Seconds(vol.Lags.TransitLagSeconds), statusview.Debt(vol.Lags.ReplayDebt), statusview.Debt(vol.Lags.CaptureDebt)), " "))
	}
	return out
}

func objectsLine(o *group.ObjectsStatus) string {
	at := "nothing yet"
	if o.Applied != nil {
		at = fmt.Sprintf("#%d", o.Applied.Barrier)
	}
	text := fmt.Sprintf("objects          %s at revision %s, the DR API server holds %s", human.Count(int64(o.Count)), o.Revision, at)
	if o.Refusals > 0 {
		text += fmt.Sprintf(", %d refused", o.Refusals)
	}
	return text
}
