package progress_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/farshore/farshore/cmd/farshore/internal/progress"
)

const mib = 1 << 20

type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func start(terminal bool, width int) (*progress.Printer, *clock, *bytes.Buffer) {
	c, out := &clock{time.Unix(1_000_000, 0)}, &bytes.Buffer{}
	p := progress.New(progress.Options{
		Out: out, Terminal: terminal, Width: func() int { return width }, Now: c.Now, Title: "replay",
	})
	return p, c, out
}

func TestLines(t *testing.T) {
	p, c, out := start(false, 0)
	for i := range 60 { // six seconds, ten reports each
		c.now = c.now.Add(100 * time.Millisecond)
		p.Update(int64(i+1)*mib, 100*mib)
	}
	p.Done()
	want := `replay:   1 %  1.0 MiB of 100 MiB  10.0 MiB/s  9.90 s left
replay:  21 %  21.0 MiB of 100 MiB  10.0 MiB/s  7.90 s left
replay:  41 %  41.0 MiB of 100 MiB  10.0 MiB/s  5.90 s left
replay: 60.0 MiB in 6.00 s (10.0 MiB/s)
`
	if got := out.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestTotalUnknown(t *testing.T) {
	p, c, out := start(false, 0)
	c.now = c.now.Add(time.Second)
	p.Update(3*mib, 0)
	if got, want := out.String(), "replay: 3.0 MiB  3.0 MiB/s\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestBar(t *testing.T) {
	for _, width := range []int{200, 80, 60, 40, 10, 1, 0} {
		p, c, out := start(true, width)
		for i := range 20 {
			c.now = c.now.Add(50 * time.Millisecond)
			p.Update(int64(i+1)*5*mib, 100*mib)
		}
		drawings := strings.Split(out.String(), "\r\x1b[2K")[1:]
		if len(drawings) != 10 {
			t.Errorf("width %d: %d drawings within a second, want 10", width, len(drawings))
		}
		for _, d := range drawings {
			if n := len([]rune(d)); n >= max(width, 1) {
				t.Errorf("width %d: drawing of %d columns wraps: %q", width, n, d)
			}
		}
		p.Done()
		if got := out.String(); !strings.HasSuffix(got, "\r\x1b[2Kreplay: 100 MiB in 1.00 s (100 MiB/s)\n") {
			t.Errorf("width %d: end is %q", width, got[max(0, len(got)-80):])
		}
	}
	p, c, out := start(true, 100)
	c.now = c.now.Add(time.Second)
	p.Update(50*mib, 100*mib)
	want := "\r\x1b[2Kreplay  [" + strings.Repeat("=", 18) + strings.Repeat(" ", 19) + "]  50 %  50.0 MiB of 100 MiB  50.0 MiB/s  1.00 s left"
	if got := out.String(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	p.Abort()
	if !strings.HasSuffix(out.String(), "left\r\x1b[2K") {
		t.Errorf("Abort leaves the bar: %q", out.String())
	}
}

// A rate is measured over the last seconds, so that a stall shows and the time left is honest.
func TestRateForgets(t *testing.T) {
	p, c, out := start(false, 0)
	for range 10 {
		c.now = c.now.Add(2 * time.Second)
		p.Update(10*mib, 100*mib)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if last := lines[len(lines)-1]; !strings.Contains(last, "0 B/s  - left") {
		t.Errorf("after a stall of 18 s: %q", last)
	}
}
