package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/farshore/farshore/cmd/farshore/internal/human"
	"github.com/farshore/farshore/cmd/farshore/internal/progress"
	"github.com/farshore/farshore/cmd/internal/archives"
	"github.com/farshore/farshore/cmd/internal/cluster"
	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
)

func archiveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "archive",
		Short: "List, check, prune and measure the archived recovery points",
		Long: `The archive keeps recovery points in a directory or in S3 for as long as the document's spec.recovery.archive.keep says, longer than
the journal does, and though both sites' NATS servers were lost: none of these commands asks them. An archive is replayed from with
"farshore replay", and "farshore points" lists its points among the others.`,
		Args: noSubcommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(archiveListCommand(), archiveCheckCommand(), archivePruneCommand(), archiveStatsCommand())
	return cmd
}

// vault holds the flags that tell which archive is meant.
type vault struct {
	group      string
	identities []string
	form       format
}

func (v *vault) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&v.group, "group", "", "the ProtectionGroup document `FILE`")
	registerArchiveIdentities(cmd, &v.identities)
	v.form.register(cmd)
}

func registerArchiveIdentities(cmd *cobra.Command, identities *[]string) {
	cmd.Flags().StringArrayVar(identities, "identity", nil, "age identity `FILE` that opens an encrypted archive, beside the document's; may be repeated")
	_ = cmd.MarkFlagFilename("identity")
}

// open opens the archive that the document describes, and tells whether the result is to be JSON.
func (v *vault) open(ctx context.Context) (a *archive.Archive, g *group.Group, asJSON bool, err error) {
	if asJSON, err = v.form.json(); err != nil {
		return nil, nil, false, err
	}
	if g, err = daemon.LoadGroup(v.group); err != nil {
		return nil, nil, false, err
	}
	if g.Spec.Recovery.Archive == nil {
		return nil, nil, false, daemon.Usagef("group %s has no archive: its document has no spec.recovery.archive", g.Metadata.Name)
	}
	identities, err := cluster.Identities(v.identities)
	if err != nil {
		return nil, nil, false, daemon.Usagef("--identity: %w", err)
	}
	a, err = openArchive(ctx, g, identities)
	if errors.Is(err, archive.ErrKey) {
		err = fmt.Errorf("%w; name one with --identity", err)
	}
	return a, g, asJSON, err
}

// use opens the archive for as long as do works with it.
func (v *vault) use(cmd *cobra.Command, do func(ctx context.Context, a *archive.Archive, g *group.Group, asJSON bool) error) error {
	a, g, asJSON, err := v.open(cmd.Context())
	if err != nil {
		return err
	}
	err = do(cmd.Context(), a, g, asJSON)
	return errors.Join(err, a.Close())
}

// storePatience is how long an object store that is out of reach is waited for. Every command can be given again then; a replay goes on.
const storePatience = time.Minute

// openArchive opens the group's archive with identities beside the document's. What is known of its packs is kept in the user's cache directory,
// for each place that a document names.
func openArchive(ctx context.Context, g *group.Group, identities []age.Identity) (*archive.Archive, error) {
	o := archives.Options{Identities: identities, Patience: storePatience}
	place, err := archives.Store(g, o)
	if err != nil {
		return nil, err
	}
	if dir, err := os.UserCacheDir(); err == nil {
		hash := sha256.Sum256([]byte(place.String()))
		o.Cache = filepath.Join(dir, "farshore", "archives", g.Metadata.Name+"-"+hex.EncodeToString(hash[:8]))
	}
	return archives.Open(ctx, g, o)
}

// stages show the progress of something that has several, one display for each.
type stages struct {
	titles  map[string]string // by stage
	stage   string
	printer *progress.Printer
}

func (s *stages) update(stage string, done, total int64) {
	if s.printer == nil || s.stage != stage {
		s.end(nil)
		s.stage, s.printer = stage, progress.New(progress.For(os.Stderr, s.titles[stage]))
	}
	s.printer.Update(done, total)
}

// end ends the display of a stage.
func (s *stages) end(err error) {
	switch {
	case s.printer == nil:
	case err != nil:
		s.printer.Abort()
	default:
		s.printer.Done()
	}
	s.printer = nil
}

func archiveListCommand() *cobra.Command {
	var v vault
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the archived points: time, label, size, what each added",
		Long: `List lists the archived points, oldest first. The size is what is restored, without zeros; "added" is what the point put into the store when
it was archived: what it didn't share with what was there.`,
		Example: `  farshore archive list --group bank.yaml
  farshore archive list --group bank.yaml --identity age.key -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return v.use(cmd, func(ctx context.Context, a *archive.Archive, _ *group.Group, asJSON bool) error {
				list, err := listArchive(ctx, a)
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(cmd.OutOrStdout(), list)
				}
				for _, d := range list.Damaged {
					fmt.Fprintf(cmd.ErrOrStderr(), "not a point any more: %s: %s\n", d.Object, d.Reason)
				}
				return list.print(cmd.OutOrStdout())
			})
		},
	}
	v.register(cmd)
	return cmd
}

// archiveList is the result of the list command.
type archiveList struct {
	Points  []archivedPoint `json:"points"`
	Damaged []badManifest   `json:"damaged"`
}

type archivedPoint struct {
	Barrier uint64         `json:"barrier"`
	Time    time.Time      `json:"time"`
	Kind    string         `json:"kind"`
	Label   string         `json:"label,omitempty"`
	Created time.Time      `json:"created"`
	Data    int64          `json:"data"`  // bytes to be restored, without zeros
	Added   int64          `json:"added"` // bytes in the store
	Parts   []archivedPart `json:"parts"`
}

type archivedPart struct {
	Name string `json:"name"`
	Size int64  `json:"size"` // bytes
	Data int64  `json:"data"` // as above
}

type badManifest struct {
	Object string `json:"object"`
	Reason string `json:"reason"`
}

func listArchive(ctx context.Context, a *archive.Archive) (*archiveList, error) {
	points, damaged, err := a.Points(ctx)
	if err != nil {
		return nil, err
	}
	list := &archiveList{Points: []archivedPoint{}, Damaged: []badManifest{}}
	for _, p := range points {
		list.Points = append(list.Points, pointOf(p))
	}
	for _, d := range damaged {
		list.Damaged = append(list.Damaged, badManifest{d.Object, d.Reason})
	}
	return list, nil
}

func pointOf(p archive.Point) archivedPoint {
	out := archivedPoint{
		Barrier: p.Barrier, Time: p.Time.UTC(), Kind: p.Kind, Label: p.Label, Created: p.Created.UTC(), Added: p.Added, Parts: []archivedPart{},
	}
	for _, part := range p.Parts {
		out.Data += part.Data
		out.Parts = append(out.Parts, archivedPart{part.Name, part.Size, part.Data})
	}
	return out
}

// volumes names the point's volumes.
func (p archivedPoint) volumes() string {
	var names []string
	for _, part := range p.Parts {
		if part.Name != journal.Objects {
			names = append(names, part.Name)
		}
	}
	return dash(strings.Join(names, ","))
}

// objects tells whether the point has Kubernetes objects.
func (p archivedPoint) objects() string {
	for _, part := range p.Parts {
		if part.Name == journal.Objects {
			return "yes"
		}
	}
	return "-"
}

// dash is what a table says for nothing.
func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// seconds is a time as tables of archived points have it.
func seconds(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (l *archiveList) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "BARRIER\tTIME (UTC)\tKIND\tLABEL\tSIZE\tADDED\tVOLUMES\tOBJECTS\tARCHIVED")
	for _, p := range l.Points {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Barrier, seconds(p.Time), p.Kind, dash(p.Label),
			human.Bytes(p.Data), human.Bytes(p.Added), p.volumes(), p.objects(), seconds(p.Created))
	}
	return w.Flush()
}

func archiveStatsCommand() *cobra.Command {
	var v vault
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Tell how large the archive is, and what it saves",
		Long: `Stats tells how much all archived points would restore to, how much of that is different, and what it takes in the store. It reads
the points' trees, no data.`,
		Example: `  farshore archive stats --group bank.yaml`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return v.use(cmd, func(ctx context.Context, a *archive.Archive, _ *group.Group, asJSON bool) error {
				s := &stages{titles: map[string]string{"": "reading the points' trees"}}
				stats, err := a.Stats(ctx, func(done, total int64) { s.update("", done, total) })
				s.end(err)
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(cmd.OutOrStdout(), stats)
				}
				return printStats(cmd.OutOrStdout(), stats)
			})
		},
	}
	v.register(cmd)
	return cmd
}

func printStats(out io.Writer, s *archive.Stats) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	points := human.Count(int64(s.Points))
	if s.Points > 0 {
		points += fmt.Sprintf(", from %s to %s", seconds(s.Oldest), seconds(s.Newest))
	}
	fmt.Fprintf(w, "points\t%s\n", points)
	fmt.Fprintf(w, "restorable\t%s, of which %s are not zeros\n", human.Bytes(s.Restorable), human.Bytes(s.Data))
	fmt.Fprintf(w, "different\t%s%s\n", human.Bytes(s.Unique), saved(s.Data, s.Unique))
	fmt.Fprintf(w, "in the store\t%s in %s packs%s\n", human.Bytes(s.Stored), human.Count(int64(s.Packs)), saved(s.Data, s.Stored))
	fmt.Fprintf(w, "unused\t%s\n", human.Bytes(s.Unused))
	encrypted := "no"
	if s.Encrypted {
		encrypted = "yes"
	}
	fmt.Fprintf(w, "encrypted\t%s\n", encrypted)
	return w.Flush()
}

// saved tells how many times smaller something is.
func saved(from, to int64) string {
	if to <= 0 || from <= to {
		return ""
	}
	return fmt.Sprintf(" (%.1f times smaller)", float64(from)/float64(to))
}
