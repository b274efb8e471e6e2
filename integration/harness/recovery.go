package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replay"
)

// Farshore runs the operator's command and returns its standard output.
func (p *Pair) Farshore(args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(p.binaries, "farshore"), append(args, "--group", p.Document)...)
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+filepath.Join(p.Dir, "cache"))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("farshore %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

// Status returns the group's status as its applier told it last. It doesn't wait for a server that is away.
func (p *Pair) Status() (*group.Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	kv, err := p.drSite().JetStream().KeyValue(ctx, group.StatusBucket)
	if err != nil {
		return nil, fmt.Errorf("read status: %w", err)
	}
	entry, err := kv.Get(ctx, Group)
	if err != nil {
		return nil, fmt.Errorf("read status: %w", err)
	}
	s := new(group.Status)
	if err := json.Unmarshal(entry.Value(), s); err != nil {
		return nil, fmt.Errorf("decode status: %w", err)
	}
	return s, nil
}

// drSite returns a connection to the DR site that lasts as long as the test.
func (p *Pair) drSite() *journal.Site {
	if p.dr == nil {
		p.dr = p.DRSite(p.t.Context())
	}
	return p.dr
}

// Describe tells of a status what a failed test wants to know.
func Describe(s *group.Status) string {
	var b strings.Builder
	fmt.Fprintf(&b, "phase %s, applied %+v, point %+v, missing votes %v", s.Phase, s.Applied, s.RecoveryPoint, s.MissingVotes)
	for _, c := range s.Conditions {
		if !c.OK {
			fmt.Fprintf(&b, "; %s: %s", c.Type, c.Message)
		}
	}
	for _, v := range s.Volumes {
		fmt.Fprintf(&b, "; %s %s g%d stored %d applied %d", v.Name, v.State, v.Generation, v.StoredSeq, v.AppliedSeq)
		if v.Pass != nil {
			fmt.Fprintf(&b, " %s %d/%d", v.Pass.Kind, v.Pass.Done, v.Pass.Total)
		}
	}
	if o := s.Objects; o != nil {
		fmt.Fprintf(&b, "; objects %s g%d: %d at revision %s, stored %d applied %d, API server at %+v, %d refused %+v, %d held back %s",
			o.State, o.Generation, o.Count, o.Revision, o.StoredSeq, o.AppliedSeq, o.Applied, o.Refusals, o.Refused, o.HeldBack, o.Problem)
	}
	return b.String()
}

// Mark makes a labelled recovery point, trying until it succeeds within limit, and returns its barrier.
func (p *Pair) Mark(label string, limit time.Duration) uint64 {
	p.t.Helper()
	var made struct {
		Barrier uint64 `json:"barrier"`
	}
	Eventually(p.t, limit, "mark "+label, func() error {
		out, err := p.Farshore("mark", "--label", label, "--wait", "5s", "-o", "json")
		if err == nil {
			return json.Unmarshal([]byte(out), &made)
		}
		if s, statusErr := p.Status(); statusErr == nil {
			err = fmt.Errorf("%w (%s)", err, Describe(s))
		}
		return err
	})
	return made.Barrier
}

// Recovered makes a labelled point, trying until limit, and waits as long again until the DR site has applied it.
// It returns the point's barrier.
func (p *Pair) Recovered(label string, limit time.Duration) uint64 {
	p.t.Helper()
	barrier := p.Mark(label, limit)
	Eventually(p.t, limit, "the DR site applied "+label, func() error {
		s, err := p.Status()
		if err != nil {
			return err
		}
		if s.Applied == nil || s.Applied.Barrier < barrier {
			return fmt.Errorf("barrier %d is not applied: %s", barrier, Describe(s))
		}
		return nil
	})
	return barrier
}

// Drained makes a labelled point behind everything acknowledged so far, waits until the DR site
// has applied it, and fails unless every replica equals its source byte for byte. Nobody may
// write meanwhile.
func (p *Pair) Drained(label string) {
	p.t.Helper()
	p.Recovered(label, 90*time.Second)
	for _, i := range p.volumes {
		if err := SameBytes(p.Source(i), p.Replica(i)); err != nil {
			p.t.Errorf("%s at %s: %v", Volume(i), label, err)
		}
	}
}

// NewPoint waits until a point is applied that was made later than now.
func (p *Pair) NewPoint(limit time.Duration) {
	p.t.Helper()
	from := time.Now()
	Eventually(p.t, limit, "a new recovery point is applied", func() error {
		s, err := p.Status()
		if err != nil {
			return err
		}
		if s.Applied == nil || s.Applied.Time.Before(from) {
			return fmt.Errorf("%s", Describe(s))
		}
		return nil
	})
}

// Points returns every recovery point that the DR site lists, oldest first.
func (p *Pair) Points() []replay.Point {
	p.t.Helper()
	points, err := replay.Points(p.t.Context(), replay.Options{Site: p.drSite(), Group: Group, Dir: filepath.Join(p.Recovery, Group)}, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	return points
}

// CheckPoints recovers n of the points that are listed as restorable and hold all volumes, the newest and
// the oldest among them, and checks the cut that each is. At least one must be there.
func (p *Pair) CheckPoints(n int, random *rand.Rand) {
	p.t.Helper()
	var points []replay.Point
	for _, x := range p.Points() {
		if x.Restorable && p.whole(x.Volumes) {
			points = append(points, x)
		}
	}
	if len(points) == 0 {
		p.t.Error("no point can be recovered")
		return
	}
	chosen := []replay.Point{points[len(points)-1], points[0]}
	for len(chosen) < n {
		chosen = append(chosen, points[random.IntN(len(points))])
	}
	for _, x := range chosen[:n] {
		if err := p.checkPoint(strconv.FormatUint(x.Barrier, 10)); err != nil {
			p.t.Errorf("barrier %d of %s is listed as restorable: %v", x.Barrier, x.Time, err)
		}
	}
}

// Replay recovers a point into a new directory and checks the cut that it is.
func (p *Pair) Replay(point string) {
	p.t.Helper()
	if err := p.checkPoint(point); err != nil {
		p.t.Errorf("point %s: %v", point, err)
	}
}

// RecoveredBarrier recovers a point and returns the barrier that was chosen.
func (p *Pair) RecoveredBarrier(point string) uint64 {
	p.t.Helper()
	var result replay.Result
	err := p.replayed(point, func(_ string, r replay.Result) error { result = r; return nil })
	if err != nil {
		p.t.Errorf("point %s: %v", point, err)
	}
	return result.Point.Barrier
}

func (p *Pair) checkPoint(point string) error {
	return p.replayed(point, func(into string, _ replay.Result) error { return p.checkInto(into) })
}

// checkInto checks the cut that the volumes of a replay are.
func (p *Pair) checkInto(into string) error {
	var paths []string
	for i := range p.options.Volumes {
		paths = append(paths, filepath.Join(into, "volumes", Volume(i)+".img"))
	}
	return p.checkImages(paths)
}

// replayed recovers a point into a directory that is gone after use.
func (p *Pair) replayed(point string, use func(into string, r replay.Result) error, more ...string) error {
	into, err := os.MkdirTemp(p.Dir, "replayed-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(into)
	out, err := p.Farshore(append([]string{"replay", "--to", point, "--into", into, "-o", "json"}, more...)...)
	if err != nil {
		return err
	}
	var result replay.Result
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		return fmt.Errorf("decode the replay's result: %w", err)
	}
	return use(into, result)
}

// SameBytes compares two files and tells the first difference.
func SameBytes(want, got string) error {
	a, err := os.Open(want)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.Open(got)
	if err != nil {
		return err
	}
	defer b.Close()
	bufA, bufB := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); ; {
		n, errA := io.ReadFull(a, bufA)
		m, errB := io.ReadFull(b, bufB)
		for i := range min(n, m) {
			if bufA[i] != bufB[i] {
				return fmt.Errorf("%s and %s differ at byte %d", want, got, off+int64(i))
			}
		}
		if n != m {
			return fmt.Errorf("%s and %s differ in size near byte %d", want, got, off)
		}
		off += int64(n)
		if errA != nil || errB != nil {
			return nil // both ended: ReadFull gives an error only at the end of a file
		}
	}
}
