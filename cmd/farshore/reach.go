package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replay"
)

// reach holds the flags that tell which group is meant and where its sites are.
type reach struct {
	group   string
	nats    string
	timeout time.Duration
}

func (r *reach) register(set *pflag.FlagSet) {
	set.StringVar(&r.group, "group", "", "the ProtectionGroup document `FILE`")
	set.StringVar(&r.nats, "nats", "", "`URL` of the site's NATS servers instead of the document's")
	set.DurationVar(&r.timeout, "timeout", 5*time.Second, "longest wait for a connection")
}

func (r *reach) load() (*group.Group, error) {
	if r.timeout <= 0 {
		return nil, daemon.Usagef("--timeout must be more than 0")
	}
	return daemon.LoadGroup(r.group)
}

// loadObjects is load for a group that has Kubernetes objects.
func (r *reach) loadObjects() (*group.Group, error) {
	g, err := r.load()
	if err == nil {
		err = captured(g)
	}
	return g, err
}

// captured refuses a group without objects.
func captured(g *group.Group) error {
	if g.Spec.Objects == nil {
		return daemon.Usagef("group %s captures no Kubernetes objects: its document has no spec.objects", g.Metadata.Name)
	}
	return nil
}

// site connects to a site of the group within the time limit.
func (r *reach) site(ctx context.Context, g *group.Group, which daemon.Site) (*journal.Site, error) {
	o := daemon.SiteOptions(g, which)
	if r.nats != "" {
		o.URL = r.nats
	}
	o.Name = "farshore"
	limited, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	s, err := journal.Connect(limited, o)
	if err != nil {
		name := "primary"
		if which == daemon.DR {
			name = "DR"
		}
		return nil, fmt.Errorf("%s site: %w", name, err)
	}
	return s, nil
}

// sources are what points are read from.
type sources struct {
	site     *journal.Site    // nil: it is not asked
	archive  *archive.Archive // nil: there is none that could be used
	unopened error            // why not; nil: the group has none, or nothing was ever archived
	notice   func(string)
}

// sources connects to the DR site and opens the group's archive, where it has one; with fromArchive the archive alone. An archive that
// can't be opened is done without: that is told.
func (r *reach) sources(cmd *cobra.Command, g *group.Group, fromArchive bool, identities []age.Identity) (*sources, error) {
	s := &sources{notice: func(text string) { fmt.Fprintln(cmd.ErrOrStderr(), text) }}
	if g.Spec.Recovery.Archive == nil && fromArchive {
		return nil, daemon.Usagef("--from-archive: group %s has no archive: its document has no spec.recovery.archive", g.Metadata.Name)
	}
	if g.Spec.Recovery.Archive != nil {
		var err error
		s.archive, err = openArchive(cmd.Context(), g, identities)
		switch {
		case err != nil && fromArchive:
			return nil, fmt.Errorf("--from-archive: %w", err)
		case err != nil && !errors.Is(err, archive.ErrNone):
			s.unopened = err
		}
	}
	if fromArchive {
		return s, nil
	}
	var err error
	if s.site, err = r.site(cmd.Context(), g, daemon.DR); err != nil {
		if s.archive != nil {
			err = fmt.Errorf("%w\n--from-archive does without it, for points that are archived", err)
		}
		s.close()
		return nil, err
	}
	if s.unopened != nil {
		s.notice(fmt.Sprintf("going on without the archive: %v", s.unopened))
	}
	return s, nil
}

// sourcesAt is sources for what looks at a point: the archive is opened where one is named, which may be an old one.
func (r *reach) sourcesAt(cmd *cobra.Command, g *group.Group, at string, identities []age.Identity) (*sources, error) {
	if at == "" || at == replay.Latest {
		site, err := r.site(cmd.Context(), g, daemon.DR)
		return &sources{site: site, notice: func(string) {}}, err
	}
	return r.sources(cmd, g, false, identities)
}

// close releases what was opened; it was only read.
func (s *sources) close() {
	if s.site != nil {
		s.site.Close()
	}
	if s.archive != nil {
		_ = s.archive.Close()
	}
}

// format is the form of a command's result.
type format struct{ name string }

func (f *format) register(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.name, "output", "o", "text", "`FORM` of the result: text or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

func (f *format) json() (bool, error) {
	switch f.name {
	case "text":
		return false, nil
	case "json":
		return true, nil
	}
	return false, daemon.Usagef("--output: %q is not one of text and json", f.name)
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
