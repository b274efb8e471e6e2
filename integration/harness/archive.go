package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/farshore/farshore/pkg/replay"
)

// ArchivedPoint is a point as `farshore archive list` tells it.
type ArchivedPoint struct {
	Barrier uint64    `json:"barrier"`
	Time    time.Time `json:"time"`
	Label   string    `json:"label"`
}

// ArchiveStore returns the directory that holds the group's archive, where the document leaves it to the default.
func (p *Pair) ArchiveStore() string { return filepath.Join(p.Recovery, "archive", Group) }

// Archived returns the points that the archive lists, oldest first.
func (p *Pair) Archived() ([]ArchivedPoint, error) {
	out, err := p.Farshore("archive", "list", "-o", "json")
	if err != nil {
		return nil, err
	}
	var list struct {
		Points []ArchivedPoint
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, fmt.Errorf("decode the archive's list: %w", err)
	}
	return list.Points, nil
}

// WaitArchived waits until the archive lists the points of barriers.
func (p *Pair) WaitArchived(limit time.Duration, barriers ...uint64) {
	p.t.Helper()
	Eventually(p.t, limit, fmt.Sprintf("the barriers %v are archived", barriers), func() error {
		points, err := p.Archived()
		if err != nil {
			return err
		}
		for _, b := range barriers {
			if !slices.ContainsFunc(points, func(x ArchivedPoint) bool { return x.Barrier == b }) {
				err = errors.Join(err, fmt.Errorf("barrier %d is not among %v", b, points))
			}
		}
		if err == nil {
			return nil
		}
		if s, statusErr := p.Status(); statusErr == nil {
			err = fmt.Errorf("%w (%s)", err, Describe(s))
		}
		return err
	})
}

// LoseDR takes from the DR site everything but the archive: the server's store with the mirrors, the replicas, the base. The applier
// and the server are killed and not started again.
func (p *Pair) LoseDR() {
	p.t.Helper()
	for _, x := range []*Process{p.Applier, p.DRBus} {
		if x.Running() {
			x.Kill()
		}
	}
	if err := errors.Join(os.RemoveAll(p.options.Stores[1]), os.RemoveAll(filepath.Join(p.Recovery, Group))); err != nil {
		p.t.Fatal(err)
	}
}

// FromArchive recovers the point of a barrier from the archive alone. It returns an error unless every volume holds what the truth
// says, byte for byte, and the whole, where it has all volumes that chains write to, is a consistent cut. Where something was restored that it shouldn't be, the error is ErrWrong.
func (p *Pair) FromArchive(barrier uint64, truth Truth) error {
	return p.compared(barrier, truth, "--from-archive")
}

// FromAnywhere is FromArchive that leaves it to the command where it begins.
func (p *Pair) FromAnywhere(barrier uint64, truth Truth) error { return p.compared(barrier, truth) }

func (p *Pair) compared(barrier uint64, truth Truth, more ...string) error {
	return p.replayed(strconv.FormatUint(barrier, 10), func(into string, r replay.Result) error {
		if r.Point.Barrier != barrier {
			return fmt.Errorf("%w: barrier %d instead of %d", ErrWrong, r.Point.Barrier, barrier)
		}
		if err := truth.check(barrier, into); err != nil {
			return err
		}
		if !p.whole(slices.Collect(maps.Keys(truth[barrier]))) {
			return nil
		}
		if err := p.checkInto(into); err != nil {
			return fmt.Errorf("%w: %w", ErrWrong, err)
		}
		return nil
	}, more...)
}
