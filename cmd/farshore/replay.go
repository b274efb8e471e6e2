package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/farshore/farshore/cmd/farshore/internal/human"
	"github.com/farshore/farshore/cmd/farshore/internal/progress"
	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/replay"
)

const replayHelp = `Replay rebuilds every volume of the group as it was at a recovery point, in files below a new directory, and writes the
Kubernetes objects of the same instant beside them as manifests: DIR/manifests/NAMESPACE/KIND-NAME.yaml, what has no namespace
in DIR/manifests/_cluster. Replication goes on meanwhile, and what exists is not touched. POINT is one of

  latest                          the newest recovery point
  before-upgrade                  a label (where it was given more than once, the newest)
  4711                            a barrier's number, as "farshore points" lists them
  2026-05-04T11:22:33Z            a time: the newest point at or before it

A label that reads like one of the others is reached by its barrier's number.

The manifests are mapped by the document's rules, ready for "kubectl apply -R -f DIR/manifests"; --raw leaves the objects as
the primary had them. Secrets that were encrypted for the group's recipients are named and left out unless --identity opens them.

With --into-namespace the objects are also applied into another namespace of the cluster that --kubeconfig names, with every
reference between them following, beside what runs there: in the form that doesn't act, or, with --live, as they are. What has no
namespace is not applied, nor is what has no manifest; what an earlier replay left in the namespace is replaced, but for what acts.
Where the group has several namespaces say FROM=TO for each that is wanted. It exits with 1 where the API server refuses anything.

A replay begins from whatever leaves least to read: the replicas, where no applier works on them, the base beside them, an archived point,
or nothing but the journal. The archive is used where the document has spec.recovery.archive; it reaches points that the journal has lost,
and instants that the journal still covers behind an archived point. With --from-archive the DR site's NATS servers are not asked at
all: archived points are what there is then. An encrypted archive is opened by --identity, or by the document's identities where they can be read.

A replay that was interrupted is gone on with by the same command: DIR has a file "unfinished.json" until all is there. With --device a
volume goes onto a block device, which is overwritten. --dry-run tells what would be read from where and about how long it takes.`

func replayCommand() *cobra.Command {
	var r reach
	var f format
	var o replayOptions
	cmd := &cobra.Command{
		Use:   "replay --to POINT --into DIR",
		Short: "Recover a group's volumes and objects to any recovery point, into a new directory",
		Long:  replayHelp,
		Example: `  farshore replay --group bank.yaml --to latest --into /srv/recovered
  farshore replay --group bank.yaml --to before-upgrade --into /srv/old --objects-only --identity age.key
  farshore replay --group bank.yaml --to 2026-01-31T12:00:00Z --into /srv/january --from-archive --identity age.key
  farshore replay --group bank.yaml --to latest --into /srv/new --device data=/dev/vg/data --dry-run
  farshore replay --group bank.yaml --to 4711 --into /srv/try --into-namespace bank-try --kubeconfig dr.kubeconfig`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := f.json()
			if err != nil {
				return err
			}
			if err := o.check(cmd); err != nil {
				return err
			}
			g, err := r.load()
			if err != nil {
				return err
			}
			do, err := o.objects(g)
			if err != nil {
				return err
			}
			sources, err := r.sources(cmd, g, o.fromArchive, do.identities)
			if err != nil {
				return err
			}
			defer sources.close()
			if o.dryRun {
				plan, err := o.plan(cmd.Context(), sources, g)
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(cmd.OutOrStdout(), plan)
				}
				return printReading(cmd.OutOrStdout(), plan)
			}
			result, err := o.run(cmd.Context(), sources, g, do)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), result)
			} else {
				err = result.print(cmd.OutOrStdout())
			}
			if err == nil && result.Applied != nil && len(result.Applied.Refused) > 0 {
				err = errRefused
			}
			return err
		},
	}
	r.register(cmd.Flags())
	f.register(cmd)
	o.register(cmd)
	return cmd
}

// replayOptions are the flags of the replay command.
type replayOptions struct {
	to, into            string
	fromArchive, dryRun bool
	deviceValues        []string
	devices             map[string]string // of volumes
	objectOptions
}

func (o *replayOptions) register(cmd *cobra.Command) {
	s := cmd.Flags()
	s.StringVar(&o.to, "to", "", "the `POINT`: latest, a label, a barrier's number or an RFC 3339 time")
	s.StringVar(&o.into, "into", "", "`DIR` to fill; it must be empty, not exist, or hold what the same replay left")
	s.BoolVar(&o.fromArchive, "from-archive", false, "use the archive alone, and ask no NATS server")
	s.StringArrayVar(&o.deviceValues, "device", nil, "recover a volume onto a block device, `VOLUME=/dev/...`; may be repeated")
	s.BoolVar(&o.dryRun, "dry-run", false, "tell what would be read from where, and write nothing")
	_ = cmd.RegisterFlagCompletionFunc("to", cobra.FixedCompletions([]string{replay.Latest}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.MarkFlagDirname("into")
	o.objectOptions.register(cmd)
}

// check checks the flags by themselves.
func (o *replayOptions) check(cmd *cobra.Command) (err error) {
	if o.to == "" || o.into == "" {
		return daemon.Usagef("name the recovery point with --to and a new directory with --into\ntry %q", cmd.CommandPath()+" --help")
	}
	if o.objectsOnly && (o.dryRun || len(o.deviceValues) > 0) {
		return daemon.Usagef("--objects-only recovers no volumes: it goes neither with --dry-run nor with --device")
	}
	o.devices = make(map[string]string)
	for _, value := range o.deviceValues {
		volume, device, ok := strings.Cut(value, "=")
		if !ok || volume == "" || device == "" {
			return daemon.Usagef("--device %s: say VOLUME=/dev/...", value)
		}
		if _, ok := o.devices[volume]; ok {
			return daemon.Usagef("--device %s: volume %s is named twice", value, volume)
		}
		if o.devices[volume], err = filepath.Abs(device); err != nil {
			return err
		}
	}
	o.into, err = filepath.Abs(o.into)
	return err
}

// replayed is the result of the command.
type replayed struct {
	*replay.Result
	Manifests *manifestResult `json:"manifests,omitempty"`
	Applied   *appliedResult  `json:"applied,omitempty"`
}

// options are those of the library.
func (o *replayOptions) options(from *sources, g *group.Group) replay.Options {
	return replay.Options{
		Site: from.site, Archive: from.archive, Group: g.Metadata.Name, Dir: directory(g), Target: o.to, Into: o.into, Devices: o.devices,
		Notice: from.notice,
	}
}

// run replays. What fails behind the volumes leaves them, and says so.
func (o *replayOptions) run(ctx context.Context, from *sources, g *group.Group, do *objectReplay) (*replayed, error) {
	options := o.options(from, g)
	if o.objectsOnly {
		return o.runObjects(ctx, from, options, do)
	}
	p := &phases{out: os.Stderr, began: time.Now()}
	options.Progress = p.update
	out := new(replayed)
	options.Finish = func(result *replay.Result) error {
		*out = replayed{Result: result}
		if result.Objects == nil {
			return nil
		}
		if err := do.run(ctx, o.into, result.Objects.View, out); err != nil {
			return fmt.Errorf("the volumes are recovered in %s, the objects are not: %w", o.into, err)
		}
		return nil
	}
	result, err := replay.Run(ctx, options)
	p.end(err)
	if err != nil {
		return nil, from.failed(err)
	}
	if result.Objects == nil && do.namespaces != nil {
		return nil, fmt.Errorf("replay: the volumes are recovered in %s, but the point has no Kubernetes objects to apply", o.into)
	}
	return out, nil
}

// runObjects replays the objects alone.
func (o *replayOptions) runObjects(ctx context.Context, from *sources, options replay.Options, do *objectReplay) (*replayed, error) {
	began := time.Now()
	entries, err := os.ReadDir(o.into)
	switch {
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("replay: %w", err)
	case len(entries) > 0:
		return nil, daemon.Usagef("--into: %w", replay.ErrNotEmpty)
	}
	view, point, err := replay.Objects(ctx, options)
	if err != nil {
		return nil, from.failed(err)
	}
	out := &replayed{Result: &replay.Result{
		Point: point, Volumes: []replay.Volume{}, Objects: &replay.Replayed{Count: view.Len(), Revision: view.Revision(), View: view},
	}}
	if err := do.run(ctx, o.into, view, out); err != nil {
		return nil, fmt.Errorf("replay: %w", err)
	}
	out.Elapsed = time.Since(began)
	return out, nil
}

// phases shows the progress of a replay, one display for each phase.
type phases struct {
	out     *os.File
	began   time.Time // the phase
	phase   replay.Phase
	printer *progress.Printer
}

func (p *phases) update(now replay.Progress) {
	if p.printer == nil || p.phase != now.Phase {
		p.end(nil)
		if p.printer != nil {
			p.began = time.Now()
		}
		o := progress.For(p.out, string(now.Phase))
		o.Started = p.began
		p.phase, p.printer = now.Phase, progress.New(o)
	}
	p.printer.Update(int64(now.Bytes), int64(now.Total))
}

func (p *phases) end(err error) {
	switch {
	case p.printer == nil:
	case err != nil:
		p.printer.Abort()
	default:
		p.printer.Done()
	}
}

func (r *replayed) print(out io.Writer) error {
	label := ""
	if r.Point.Label != "" {
		label = fmt.Sprintf(" %q", r.Point.Label)
	}
	from := ""
	if len(r.Volumes) > 0 {
		from = " from " + origin(r.From, r.Base)
	}
	fmt.Fprintf(out, "recovered barrier %d (%s%s) of %s%s in %s\n", r.Point.Barrier, r.Point.Kind, label,
		r.Point.Time.UTC().Format(time.RFC3339Nano), from, human.Duration(r.Elapsed))
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	for _, v := range r.Volumes {
		fmt.Fprintf(w, "  %s\t%s\t%s\n", v.Name, human.Bytes(v.Size), v.Path)
	}
	if m := r.Manifests; m != nil {
		fmt.Fprintf(w, "  objects\t%s\t%s\n", human.Count(int64(m.Count)), m.Path)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return r.printObjects(out)
}
