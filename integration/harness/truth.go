package harness

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

// Truth is what every volume holds at each of some commits: the SHA-256 of its content, by barrier and the volume's name.
type Truth map[uint64]map[string][sha256.Size]byte

// ReadTruth reads the group's streams at site, mirrors or origins, from their start, and puts together what the volumes hold at the
// commits of barriers. It relies on the events and their order alone, on nothing that Farshore made of them.
func (p *Pair) ReadTruth(ctx context.Context, site *journal.Site, barriers []uint64) (Truth, error) {
	p.t.Helper()
	history, err := readHistory(ctx, site)
	if err != nil {
		return nil, err
	}
	w := &walker{layout: p.layout(len(p.counted)), size: p.options.Size, whole: true, site: site, history: history, volumes: map[string]*image{}}
	defer w.close()
	control := &place{path: history[journal.Control].path}
	defer control.close()
	truth := make(Truth)
	for len(truth) < len(barriers) {
		m, ok, err := control.next(ctx, site, journal.Control)
		switch {
		case err != nil:
			return nil, err
		case !ok:
			return nil, fmt.Errorf("the control stream has commits of %d of the barriers %v", len(truth), barriers)
		}
		c, ok := m.Event.(*events.Commit)
		if !ok || !slices.Contains(barriers, c.Token.Barrier) {
			continue
		}
		if err := w.advance(ctx, c); err != nil {
			return nil, fmt.Errorf("go to the commit of barrier %d: %w", c.Token.Barrier, err)
		}
		held := make(map[string][sha256.Size]byte)
		for _, e := range c.Vector {
			held[e.Volume] = sha256.Sum256(w.volumes[e.Volume].content)
		}
		truth[c.Token.Barrier] = held
	}
	return truth, nil
}

// ErrWrong tells that something was restored which is not what it should be. A point that is refused is another matter.
var ErrWrong = errors.New("restored wrong")

// check compares the volumes that a replay made with what they should hold.
func (t Truth) check(barrier uint64, into string) error {
	held, ok := t[barrier]
	if !ok {
		return fmt.Errorf("nothing is known of barrier %d", barrier)
	}
	files, err := os.ReadDir(filepath.Join(into, "volumes"))
	if err != nil {
		return err
	}
	images := 0
	for _, f := range files {
		if filepath.Ext(f.Name()) == ".img" {
			images++
		}
	}
	if images != len(held) {
		return fmt.Errorf("%w: %d volumes instead of %d", ErrWrong, images, len(held))
	}
	for volume, want := range held {
		sum, err := sumOf(filepath.Join(into, "volumes", volume+".img"))
		if err != nil {
			return err
		}
		if sum != want {
			return fmt.Errorf("%w: %s is not what was written to it up to barrier %d", ErrWrong, volume, barrier)
		}
	}
	return nil
}

func sumOf(path string) (sum [sha256.Size]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, err
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}
