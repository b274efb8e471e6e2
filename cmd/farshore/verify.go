package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/farshore/farshore/cmd/farshore/internal/human"
	"github.com/farshore/farshore/cmd/farshore/internal/progress"
	"github.com/farshore/farshore/cmd/farshore/internal/statusview"
	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/repair"
)

func verifyCommand() *cobra.Command {
	var r reach
	var f format
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "verify [VOLUME...]",
		Short: "Compare volumes with their replicas now, byte for byte",
		Long: `Verify reads the volumes (all of the group, or those named) as fast as their capturers may, sends the hash of every region, and
waits until the DR site has compared all of them with its replicas, each at the very position in the stream that the hash was
taken at: replication and the application go on meanwhile. Regions that differ are sent again by themselves; verify waits a
moment for that and tells. It exits with 0 where everything was equal and with 1 where anything differed.

It asks the capturers through the DR site, so it runs wherever "farshore status" does.`,
		Example: `  farshore verify --group bank.yaml
  farshore verify orders ledger --wait 1h`,
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			return volumesLeft(&r, args), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := f.json()
			if err != nil {
				return err
			}
			if wait < 0 {
				return daemon.Usagef("--wait must not be negative")
			}
			g, err := r.load()
			if err != nil {
				return err
			}
			volumes, err := chosen(g, args)
			if err != nil {
				return err
			}
			site, err := r.site(cmd.Context(), g, daemon.DR)
			if err != nil {
				return err
			}
			defer site.Close()
			ctx := cmd.Context()
			if wait > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, wait)
				defer cancel()
			}
			v := newVerification(site, g.Metadata.Name, volumes, os.Stderr)
			result, err := v.run(ctx)
			if err != nil {
				return v.explain(ctx, err)
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), result)
			} else {
				err = result.print(cmd.OutOrStdout())
			}
			if err == nil && !result.Equal {
				err = errDiffer
			}
			return err
		},
	}
	r.register(cmd.Flags())
	f.register(cmd)
	cmd.Flags().DurationVar(&wait, "wait", 0, "longest wait for the whole comparison; 0: as long as it takes")
	return cmd
}

// errDiffer is the end of a verification that found differences.
var errDiffer = errors.New("replicas differ from their volumes")

// volumesLeft are the document's volumes that were not named yet.
func volumesLeft(r *reach, named []string) (left []string) {
	g, err := r.load()
	if err != nil {
		return nil
	}
	for _, v := range g.Spec.Volumes {
		if !slices.Contains(named, v.Name) {
			left = append(left, v.Name)
		}
	}
	return left
}

// chosen are the volumes that were named; none means all.
func chosen(g *group.Group, names []string) ([]string, error) {
	if len(names) == 0 {
		for _, v := range g.Spec.Volumes {
			names = append(names, v.Name)
		}
		return names, nil
	}
	for _, name := range names {
		if _, ok := g.Volume(name); !ok {
			return nil, daemon.Usagef("group %s has no volume %q", g.Metadata.Name, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// verified is the result of the verify command.
type verified struct {
	Equal   bool             `json:"equal"`
	Volumes []verifiedVolume `json:"volumes"`
}

// verifiedVolume is one volume as it was compared.
type verifiedVolume struct {
	Name       string `json:"name"`
	Bytes      int64  `json:"bytes"`
	Generation uint32 `json:"generation"` // of the stream, with Seq: up to where it was compared
	Seq        uint64 `json:"seq"`
	// Differed is how many regions differed; Differences names the newest of them.
	Differed    uint64                 `json:"differed"`
	Differences []group.RegionMismatch `json:"differences"`
}

func (v *verified) print(out io.Writer) error {
	var b strings.Builder
	for _, volume := range v.Volumes {
		what := "equal"
		if volume.Differed > 0 {
			what = fmt.Sprintf("%s regions differed", human.Count(int64(volume.Differed)))
		}
		fmt.Fprintf(&b, "%s: %s compared up to message %d of generation %d: %s\n", volume.Name, human.Bytes(volume.Bytes), volume.Seq, volume.Generation, what)
		for _, d := range volume.Differences {
			healed := "not sent again yet"
			if d.Healed {
				healed = "healed"
			}
			fmt.Fprintf(&b, "  %d bytes at %d, as of message %d of generation %d: %s\n", d.Length, d.Offset, d.Seq, d.Generation, healed)
		}
		if more := volume.Differed - uint64(len(volume.Differences)); more > 0 && volume.Differed > 0 {
			fmt.Fprintf(&b, "  and %s more\n", human.Count(int64(more)))
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

const (
	verifyEvery = 200 * time.Millisecond // between two looks
	verifySlack = 20 * time.Second       // that a capturer or the applier may be silent for
	healSlack   = 30 * time.Second       // that is waited for differences to be healed
)

// verification is one run of the command.
type verification struct {
	site    *journal.Site
	group   string
	volumes []string
	errs    *os.File
	slack   time.Duration
	heal    time.Duration

	scrubs map[string]repair.Scrub
	before map[string]group.VolumeStatus // as the applier told before
	phase  string                        // what is waited for, for people
}

func newVerification(site *journal.Site, name string, volumes []string, errs *os.File) *verification {
	return &verification{
		site: site, group: name, volumes: volumes, errs: errs, slack: verifySlack, heal: healSlack,
		scrubs: make(map[string]repair.Scrub), before: make(map[string]group.VolumeStatus),
	}
}

// explain adds to an error of run what was waited for when the time was up.
func (v *verification) explain(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("verify: the time is up while %s", v.phase)
	}
	return fmt.Errorf("verify: %w", err)
}

func (v *verification) run(ctx context.Context) (*verified, error) {
	v.phase = "asking the applier how the group stands"
	st, err := statusview.Read(ctx, v.site, v.group)
	if err != nil {
		return nil, err
	}
	for _, volume := range st.Volumes {
		v.before[volume.Name] = volume
	}
	if err := v.scrub(ctx); err != nil {
		return nil, err
	}
	if st, err = v.compared(ctx); err != nil {
		return nil, err
	}
	return v.healed(ctx, st)
}

// scrub lets every capturer send its hashes, and shows how far they are.
func (v *verification) scrub(ctx context.Context) error {
	v.phase = "the capturers read the volumes"
	for _, name := range v.volumes {
		s, err := repair.CaptureOf(v.site.Conn(), v.group, name).Scrub(ctx)
		if err != nil {
			return v.silent(name, err)
		}
		v.scrubs[name] = s
	}
	p := progress.New(progress.For(v.errs, "reading"))
	heard := time.Now()
	for {
		var done, total int64
		open := ""
		for _, name := range v.volumes {
			s := v.scrubs[name]
			if s.Seq == 0 {
				now, err := repair.CaptureOf(v.site.Conn(), v.group, name).Scrubbed(ctx, s.Number)
				switch {
				case err == nil:
					s, heard = now, time.Now()
					v.scrubs[name] = s
				case ctx.Err() != nil, !errors.Is(err, repair.ErrUnavailable), time.Since(heard) > v.slack:
					p.Abort()
					return v.silent(name, err)
				}
			}
			if s.Seq == 0 {
				open = name
			}
			done, total = done+s.Done, total+s.Total
		}
		p.Update(done, total)
		if open == "" {
			p.Done()
			return nil
		}
		if !sleep(ctx, verifyEvery) {
			p.Abort()
			return ctx.Err()
		}
	}
}

// silent tells what an operator can do about a capturer that doesn't scrub.
func (v *verification) silent(volume string, err error) error {
	switch {
	case errors.Is(err, repair.ErrUnavailable):
		return fmt.Errorf("no capturer answers for volume %s: check that it runs, and that the DR site reaches the primary: %w", volume, err)
	case errors.Is(err, repair.ErrBusy):
		return fmt.Errorf("volume %s is not being recorded now, so there is nothing to compare: see the log of its capturer: %w", volume, err)
	case errors.Is(err, repair.ErrGone):
		return fmt.Errorf("the capturer of volume %s was started again meanwhile: verify again: %w", volume, err)
	}
	return fmt.Errorf("volume %s: %w", volume, err)
}

// compared waits until the DR site has applied, and so compared, everything up to the ends of the scrubs.
func (v *verification) compared(ctx context.Context) (*group.Status, error) {
	fmt.Fprintln(v.errs, "waiting until the DR site has compared everything")
	var last time.Time
	alive := time.Now()
	for {
		st, err := statusview.Read(ctx, v.site, v.group)
		if err == nil {
			if !st.Time.Equal(last) {
				last, alive = st.Time, time.Now()
			}
			behind := v.behind(st)
			if behind == "" {
				return st, nil
			}
			v.phase = "the DR site compares: " + behind
		}
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case time.Since(alive) > v.slack && err != nil:
			return nil, err
		case time.Since(alive) > v.slack:
			return nil, fmt.Errorf("the applier has told nothing for %s: check that it runs", human.Duration(time.Since(alive).Round(time.Second)))
		}
		if !sleep(ctx, verifyEvery) {
			return nil, ctx.Err()
		}
	}
}

// behind tells which volume the DR site has not compared to the end; "": none.
func (v *verification) behind(st *group.Status) string {
	for _, name := range v.volumes {
		s, volume := v.scrubs[name], volumeOf(st, name)
		if volume.Generation < s.Generation || volume.Generation == s.Generation && volume.AppliedSeq < s.Seq {
			why := ""
			if len(st.MissingVotes) > 0 {
				why = "; nothing new is applied without the votes of " + strings.Join(st.MissingVotes, ", ")
			}
			return fmt.Sprintf("volume %s is at message %d of generation %d, the comparison ends at %d of generation %d%s",
				name, volume.AppliedSeq, volume.Generation, s.Seq, s.Generation, why)
		}
	}
	return ""
}

// healed gathers what differed, and gives it a moment to be sent again.
func (v *verification) healed(ctx context.Context, st *group.Status) (*verified, error) {
	v.phase = "what differs is sent again"
	for until := time.Now().Add(v.heal); ; {
		result := v.result(st)
		open := slices.ContainsFunc(result.Volumes, func(volume verifiedVolume) bool {
			return slices.ContainsFunc(volume.Differences, func(d group.RegionMismatch) bool { return !d.Healed })
		})
		if !open || time.Now().After(until) || !sleep(ctx, verifyEvery) {
			return result, nil
		}
		if now, err := statusview.Read(ctx, v.site, v.group); err == nil {
			st = now
		}
	}
}

// result is what differs between the status before and st.
func (v *verification) result(st *group.Status) *verified {
	result := &verified{Equal: true}
	for _, name := range v.volumes {
		s, before, now := v.scrubs[name], v.before[name], volumeOf(st, name)
		volume := verifiedVolume{Name: name, Bytes: s.Total, Generation: s.Generation, Seq: s.Seq, Differences: []group.RegionMismatch{}}
		for _, m := range now.Mismatches {
			if !slices.ContainsFunc(before.Mismatches, func(old group.RegionMismatch) bool {
				return old.Generation == m.Generation && old.Seq == m.Seq && old.Offset == m.Offset
			}) {
				volume.Differences = append(volume.Differences, m)
			}
		}
		volume.Differed = uint64(len(volume.Differences))
		if now.RegionMismatches > before.RegionMismatches { // an applier that was started again counts anew
			volume.Differed = max(volume.Differed, now.RegionMismatches-before.RegionMismatches)
		}
		result.Equal = result.Equal && volume.Differed == 0
		result.Volumes = append(result.Volumes, volume)
	}
	return result
}

func volumeOf(st *group.Status, name string) group.VolumeStatus {
	for _, v := range st.Volumes {
		if v.Name == name {
			return v
		}
	}
	return group.VolumeStatus{}
}

// sleep waits; it returns false where ctx ended meanwhile.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
