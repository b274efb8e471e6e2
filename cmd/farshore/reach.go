package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
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
