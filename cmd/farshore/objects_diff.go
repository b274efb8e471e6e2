package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"github.com/farshore/farshore/cmd/farshore/internal/human"
	"github.com/farshore/farshore/cmd/farshore/internal/statusview"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/rebuild"
	"github.com/farshore/farshore/pkg/release"
	"github.com/farshore/farshore/pkg/replay"
)

// errObjectsDiffer is the end of a comparison that found differences.
var errObjectsDiffer = errors.New("the DR site's objects differ from the point's")

const (
	diffRounds = 3                       // looks at most, where no point is named
	diffPause  = 1500 * time.Millisecond // between two looks: longer than the applier takes to follow a barrier
)

// comparison is one run of the diff command.
type comparison struct {
	from   *sources
	group  *group.Group
	config *rest.Config
	rules  rebuild.Rules
	at     string // "": what the applier has applied
}

// compared is the result of the diff command.
type compared struct {
	Equal    bool         `json:"equal"`
	Point    replay.Point `json:"point"`
	Released bool         `json:"released"` // the form that was compared with
	Objects  int          `json:"objects"`  // at the point
	HeldBack int          `json:"heldBack"`
	// Differences are in the order in which objects are applied.
	Differences []rebuild.Difference `json:"differences"`
}

// run compares. Where no point was named it looks again as long as something differs, and keeps what differed in every look.
func (d *comparison) run(ctx context.Context) (*compared, error) {
	record, err := release.Load(ctx, d.from.site, d.group.Metadata.Name)
	if err != nil {
		return nil, err
	}
	released := record.Mode != rebuild.ModeStandby
	var result *compared
	for round := 1; ; round++ {
		now, err := d.look(ctx, released)
		if err != nil {
			return nil, err
		}
		if result != nil {
			now.keep(result.Differences)
		}
		result = now
		if result.Equal || d.at != "" || round == diffRounds || !sleep(ctx, diffPause) {
			return result, ctx.Err()
		}
	}
}

func (d *comparison) look(ctx context.Context, released bool) (*compared, error) {
	view, point, err := viewAt(ctx, d.from, d.group, d.target(ctx))
	if err != nil {
		return nil, err
	}
	found, err := rebuild.Diff(ctx, rebuild.Options{
		Config: d.config, Group: d.group.Metadata.Name, Rules: d.rules, Log: slog.New(slog.DiscardHandler),
	}, view, released)
	if err != nil {
		return nil, err
	}
	result := &compared{Point: point, Released: released, Objects: view.Len(), Differences: found}
	result.count()
	return result, nil
}

// target is the point to compare with.
func (d *comparison) target(ctx context.Context) string {
	if d.at != "" {
		return d.at
	}
	st, err := statusview.Read(ctx, d.from.site, d.group.Metadata.Name)
	if err == nil && st.Objects != nil && st.Objects.Applied != nil {
		return strconv.FormatUint(st.Objects.Applied.Barrier, 10)
	}
	return replay.Latest // no applier tells anything else
}

func (c *compared) count() {
	if c.Differences == nil {
		c.Differences = []rebuild.Difference{}
	}
	c.HeldBack = 0
	for _, d := range c.Differences {
		if d.Kind == rebuild.DiffBack {
			c.HeldBack++
		}
	}
	c.Equal = c.HeldBack == len(c.Differences)
}

// keep forgets differences that an earlier look didn't find: they were on their way. An object that the DR site had in another
// way then is being followed.
func (c *compared) keep(before []rebuild.Difference) {
	c.Differences = slices.DeleteFunc(c.Differences, func(d rebuild.Difference) bool {
		return d.Kind != rebuild.DiffBack && !slices.ContainsFunc(before, func(b rebuild.Difference) bool {
			return b.Object == d.Object && b.Kind == d.Kind && slices.EqualFunc(b.Fields, d.Fields, func(x, y rebuild.FieldDiff) bool {
				return x.Path == y.Path && x.Have == y.Have
			})
		})
	})
	c.count()
}

// diffTitles are what the kinds of difference are called, in the order in which they are told.
var diffTitles = []struct {
	kind  rebuild.DiffKind
	title string
}{
	{rebuild.DiffMissing, "missing at the DR site"},
	{rebuild.DiffChanged, "other at the DR site (- as it should be, + as it is)"},
	{rebuild.DiffExtra, "at the DR site and not at the point"},
	{rebuild.DiffForeign, "somebody else's at the DR site"},
	{rebuild.DiffBroken, "can't be made at the DR site"},
	{rebuild.DiffBack, "held back until a release"},
}

func (c *compared) print(out io.Writer) error {
	var b strings.Builder
	form := "before a release"
	if c.Released {
		form = "released"
	}
	fmt.Fprintf(&b, "%s objects of %s, as they should be %s\n", human.Count(int64(c.Objects)), describePoint(short(c.Point)), form)
	for _, t := range diffTitles {
		var of []rebuild.Difference
		for _, d := range c.Differences {
			if d.Kind == t.kind {
				of = append(of, d)
			}
		}
		if len(of) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n%s: %s\n", t.title, human.Count(int64(len(of))))
		for _, d := range of {
			printDifference(&b, d)
		}
	}
	if c.Equal {
		b.WriteString("\nnothing differs\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func printDifference(b *strings.Builder, d rebuild.Difference) {
	reason := ""
	if d.Reason != "" {
		reason = ": " + d.Reason
	}
	fmt.Fprintf(b, "  %s%s\n", d.Object, reason)
	for _, f := range d.Fields {
		fmt.Fprintf(b, "    %s\n      - %s\n      + %s\n", f.Path, orDash(f.Want), orDash(f.Have))
	}
}
