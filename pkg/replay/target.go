package replay

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Latest is the target that means the newest restorable point.
const Latest = "latest"

// ErrUnknownTarget means that no point fits the target.
var ErrUnknownTarget = errors.New("no such recovery point")

// TrimmedError means that a point is known and can't be restored any more. It names the nearest ones left.
type TrimmedError struct {
	Target        string
	Reason        string
	Err           error  // that Reason tells of; nil: there is none
	Before, After *Point // nearest restorable ones; nil where there is none
}

// Error implements error.
func (e *TrimmedError) Error() string {
	var left []string
	for _, p := range []*Point{e.Before, e.After} {
		if p != nil {
			left = append(left, describe(p))
		}
	}
	nearest := "none is left"
	if len(left) > 0 {
		nearest = "the nearest left: " + strings.Join(left, " and ")
	}
	return fmt.Sprintf("%s can't be restored: %s; %s", e.Target, e.Reason, nearest)
}

// Unwrap returns what is behind the reason.
func (e *TrimmedError) Unwrap() error { return e.Err }

func describe(p *Point) string {
	s := fmt.Sprintf("barrier %d of %s", p.Barrier, p.Time.Format(time.RFC3339Nano))
	if p.Label != "" {
		s += fmt.Sprintf(" (%s)", p.Label)
	}
	return s
}

// choose returns the point that target means: Latest, a time in RFC 3339 (the newest point at or before
// it), a barrier's number, or a label (its newest point).
func choose(points []Point, target string) (*Point, error) {
	i, err := find(points, target)
	if err != nil {
		return nil, err
	}
	if points[i].Restorable {
		return &points[i], nil
	}
	e := &TrimmedError{Target: target, Reason: points[i].Reason, Err: points[i].cause}
	for j := i - 1; j >= 0 && e.Before == nil; j-- {
		if points[j].Restorable {
			e.Before = &points[j]
		}
	}
	for j := i + 1; j < len(points) && e.After == nil; j++ {
		if points[j].Restorable {
			e.After = &points[j]
		}
	}
	return nil, e
}

func find(points []Point, target string) (int, error) {
	if target == Latest {
		for i, p := range slices.Backward(points) {
			if p.Restorable {
				return i, nil
			}
		}
		return 0, fmt.Errorf("%w: the DR site has none yet; `farshore status` tells what is missing", ErrUnknownTarget)
	}
	if t, err := time.Parse(time.RFC3339Nano, target); err == nil {
		return findTime(points, target, t)
	}
	n, notNumber := strconv.ParseUint(target, 10, 64)
	for i, p := range slices.Backward(points) {
		if notNumber == nil && p.Barrier == n || target != "" && p.Label == target {
			return i, nil
		}
	}
	if notNumber == nil && n > 0 && len(points) > 0 && n < points[0].Barrier {
		return 0, beforeAll(points, target)
	}
	return 0, fmt.Errorf("%w: %q is no barrier or label of the group that is left, and no time as in %s; `farshore points` lists them",
		ErrUnknownTarget, target, time.Now().UTC().Format(time.RFC3339))
}

func findTime(points []Point, target string, t time.Time) (int, error) {
	for i, p := range slices.Backward(points) {
		if p.Time.After(t) {
			continue
		}
		if i == len(points)-1 && time.Now().Before(t) {
			return 0, fmt.Errorf("%w: %s is in the future; the newest is %s", ErrUnknownTarget, target, describe(&points[i]))
		}
		return i, nil
	}
	if len(points) == 0 {
		return 0, fmt.Errorf("%w: the DR site has none yet", ErrUnknownTarget)
	}
	return 0, beforeAll(points, target)
}

// beforeAll refuses what lies before the first commit that is left.
func beforeAll(points []Point, target string) error {
	e := &TrimmedError{Target: target, Reason: "it is before the oldest point"}
	for i := range points {
		if points[i].Restorable {
			e.After = &points[i]
			break
		}
	}
	return e
}
