package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"

	"github.com/farshore/farshore/cmd/farshore/internal/human"
	"github.com/farshore/farshore/cmd/internal/cluster"
	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/rebuild"
)

// objectOptions are the flags of a replay that are about objects.
type objectOptions struct {
	objectsOnly, raw, live bool
	identities             []string
	namespaces             []string
	cluster                cluster.Flags
}

func (o *objectOptions) register(cmd *cobra.Command) {
	s := cmd.Flags()
	s.BoolVar(&o.objectsOnly, "objects-only", false, "recover the Kubernetes objects and no volume")
	s.BoolVar(&o.raw, "raw", false, "write manifests as the primary had the objects, not mapped by the document's rules")
	registerIdentities(cmd, &o.identities, "else they are left out; and an encrypted archive")
	s.StringArrayVar(&o.namespaces, "into-namespace", nil, "apply the objects into the namespace `[FROM=]TO`; may be repeated")
	s.BoolVar(&o.live, "live", false, "with --into-namespace: let the objects act")
	o.cluster.Register(s, "for --into-namespace: the")
	o.cluster.Complete(cmd)
}

// objectReplay is what a replay does with the objects.
type objectReplay struct {
	raw        bool
	live       bool
	identities []age.Identity
	rules      rebuild.Rules
	group      string
	namespaces map[string]string // to apply into, by the primary's name; nil: nothing is applied
	config     *rest.Config
}

// objects checks the flags against the document; nothing is to be found wrong behind a long replay.
func (o *objectOptions) objects(g *group.Group) (*objectReplay, error) {
	if o.objectsOnly {
		if err := captured(g); err != nil {
			return nil, err
		}
	}
	if o.live && len(o.namespaces) == 0 {
		return nil, daemon.Usagef("--live goes with --into-namespace; \"farshore release\" lets the DR site's own objects act")
	}
	do := &objectReplay{raw: o.raw, live: o.live, group: g.Metadata.Name}
	var err error
	if do.identities, err = cluster.Identities(o.identities); err != nil {
		return nil, daemon.Usagef("--identity: %w", err)
	}
	recovery := g.Spec.Recovery.Objects
	recovery.Identities = nil // Secrets are opened by what the command line names alone
	if len(o.namespaces) > 0 {
		if o.raw {
			return nil, daemon.Usagef("--raw leaves objects as they were, --into-namespace maps them: give one of the two")
		}
		if do.namespaces, err = targets(g, o.namespaces); err != nil {
			return nil, err
		}
		if do.config, err = o.cluster.Need(); err != nil {
			return nil, err
		}
		recovery.Namespaces = do.namespaces
	}
	if do.rules, err = cluster.Rules(recovery); err != nil {
		return nil, err
	}
	do.rules.Identities = do.identities
	return do, nil
}

// targets reads the values of --into-namespace.
func targets(g *group.Group, values []string) (map[string]string, error) {
	if err := captured(g); err != nil {
		return nil, err
	}
	own, out := g.Spec.Objects.Namespaces, make(map[string]string)
	for _, value := range values {
		from, to, both := strings.Cut(value, "=")
		if !both {
			if len(own) > 1 {
				return nil, daemon.Usagef("--into-namespace %s: the group has the namespaces %s: say FROM=TO", value, strings.Join(own, ", "))
			}
			from, to = own[0], value
		}
		if !slices.Contains(own, from) {
			return nil, daemon.Usagef("--into-namespace %s: the group has no namespace %q", value, from)
		}
		if len(validation.IsDNS1123Label(to)) > 0 {
			return nil, daemon.Usagef("--into-namespace %s: %q is no name of a namespace", value, to)
		}
		out[from] = to
	}
	return out, nil
}

// manifestResult tells of the manifests.
type manifestResult struct {
	Path    string    `json:"path"`
	Count   int       `json:"count"`
	Raw     bool      `json:"raw"`     // as the primary had the objects
	LeftOut []leftOut `json:"leftOut"` // what there is no manifest of
}

// appliedResult tells what was applied.
type appliedResult struct {
	Namespaces map[string]string `json:"namespaces"` // by the primary's name
	Live       bool              `json:"live"`       // they act
	Refused    []rebuild.Step    `json:"refused"`
}

// run writes the manifests of view and applies it where that is asked for.
func (o *objectReplay) run(ctx context.Context, into string, view rebuild.State, out *replayed) error {
	var made []rebuild.Manifest
	var without []leftOut
	var err error
	if o.raw {
		made, without, err = rawManifests(o.identities, view)
	} else {
		made, without, err = mappedManifests(o.rules, view)
	}
	if err != nil {
		return err
	}
	dir := filepath.Join(into, manifestsDir)
	if err := writeManifests(dir, made); err != nil {
		return err
	}
	out.Manifests = &manifestResult{Path: dir, Count: len(made), Raw: o.raw, LeftOut: append([]leftOut{}, without...)}
	if o.namespaces == nil {
		return nil
	}
	r, err := rebuild.New(rebuild.Options{Config: o.config, Group: copyName(o.group, o.namespaces), Rules: o.rules, NamespacedOnly: true})
	if err != nil {
		return err
	}
	refused, err := r.Once(ctx, within{view, o.namespaces, without}, o.live)
	if err != nil {
		return fmt.Errorf("apply into %s: %w", names(o.namespaces), err)
	}
	out.Applied = &appliedResult{Namespaces: o.namespaces, Live: o.live, Refused: append([]rebuild.Step{}, refused...)}
	return nil
}

// copyName is what a copy in other namespaces belongs to, other than the group: the applier deletes what carries the group's
// name and isn't wanted, and so does a replay with what an earlier one into the same namespaces left.
func copyName(groupName string, namespaces map[string]string) string {
	name := groupName + "." + strings.ReplaceAll(names(namespaces), ", ", ".")
	if len(name) > validation.LabelValueMaxLength {
		sum := sha256.Sum256([]byte(name))
		name = name[:validation.LabelValueMaxLength-9] + "-" + hex.EncodeToString(sum[:4])
	}
	return name
}

// names lists the namespaces that are applied into.
func names(namespaces map[string]string) string {
	var to []string
	for _, name := range namespaces {
		to = append(to, name)
	}
	slices.Sort(to)
	return strings.Join(to, ", ")
}

func (r *replayed) printObjects(out io.Writer) error {
	var b strings.Builder
	if m := r.Manifests; m != nil && len(m.LeftOut) > 0 {
		fmt.Fprintf(&b, "no manifest of %s:\n", human.Count(int64(len(m.LeftOut))))
		for _, l := range m.LeftOut {
			fmt.Fprintf(&b, "  %s: %s\n", l.Object, l.Reason)
		}
	}
	if a := r.Applied; a != nil {
		form := "in a form that doesn't act"
		if a.Live {
			form = "live"
		}
		fmt.Fprintf(&b, "applied into %s, %s\n", names(a.Namespaces), form)
		for _, s := range a.Refused {
			fmt.Fprintf(&b, "  refused: %s: %s\n", s.Object, s.Refused)
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}
