package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"filippo.io/age"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/farshore/farshore/cmd/internal/cluster"
	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/rebuild"
	"github.com/farshore/farshore/pkg/release"
	"github.com/farshore/farshore/pkg/replica/objects"
	"github.com/farshore/farshore/pkg/transform"
)

const objectsScope = "github.com/farshore/farshore/pkg/rebuild"

// applied is the group's objects at the DR site's API server. It answers what the operator asks about their release.
type applied struct {
	site    *journal.Site
	group   string
	env     *daemon.Env
	rebuild *rebuild.Rebuilder
	asked   chan struct{} // a release was asked for and is durable
}

// newApplied returns nil where the document wants no API server.
func newApplied(env *daemon.Env, site *journal.Site, flags cluster.Flags) (*applied, error) {
	g := env.Group
	if !g.AppliesObjects() {
		return nil, nil
	}
	config, err := flags.Config()
	if errors.Is(err, cluster.ErrNone) {
		return nil, daemon.Usagef("%w; or set spec.recovery.objects.apply to false: then only the durable copy is kept", err)
	}
	if err != nil {
		return nil, err
	}
	rules, err := rulesOf(g)
	if err != nil {
		return nil, err
	}
	a := &applied{site: site, group: g.Metadata.Name, env: env, asked: make(chan struct{}, 1)}
	a.rebuild, err = rebuild.New(rebuild.Options{
		Config: config, Group: g.Metadata.Name, Rules: rules,
		Log: env.Log, Meter: env.Telemetry.Meter(objectsScope),
	})
	return a, err
}

// rulesOf reads what the document says about the objects, and the files that it names.
func rulesOf(g *group.Group) (rebuild.Rules, error) {
	o := g.Spec.Recovery.Objects
	t, problems := transform.Compile(o.Rules)
	if len(problems) > 0 {
		return rebuild.Rules{}, daemon.Usagef("spec.recovery.objects.%s: %s", problems[0].Path, problems[0].Message)
	}
	rules := rebuild.Rules{Transform: t}
	for _, kind := range o.Inert {
		rules.Inert = append(rules.Inert, schema.GroupResource{Group: kind.Group, Resource: kind.Resource})
	}
	for i, path := range o.Identities {
		identities, err := readIdentities(path)
		if err != nil {
			return rebuild.Rules{}, daemon.Usagef("spec.recovery.objects.identities[%d]: %w", i, err)
		}
		rules.Identities = append(rules.Identities, identities...)
	}
	return rules, nil
}

// readIdentities reads age identities. Its errors quote nothing of the file.
func readIdentities(path string) ([]age.Identity, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	identities, err := age.ParseIdentities(f)
	if err != nil {
		return nil, fmt.Errorf("%s holds no age identities, as age-keygen writes them", path)
	}
	return identities, nil
}

// want is called by the follower with each newer commit.
func (a *applied) want(view *objects.View) { a.rebuild.Want(view) }

// update follows a changed document. What can't be used leaves what was before in force.
func (a *applied) update(g *group.Group) {
	rules, err := rulesOf(g)
	if err != nil {
		a.env.Log.Error("changed rules for the objects are not used, the ones before stay in force", "error", err)
		return
	}
	a.rebuild.Update(rules)
}

// run keeps the API server at the newest commit and serves the operator until ctx ends. It is called once this applier is
// the one that works: what another one has released is known then.
func (a *applied) run(ctx context.Context) error {
	record, err := a.record(ctx)
	if err != nil {
		return nil // ctx has ended
	}
	a.rebuild.Resume(record.Progress())
	if record.Mode == rebuild.ModeReleasing {
		a.env.Log.Info("going on with the release of the objects", "since", record.Since)
		a.asked <- struct{}{}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.rebuild.Run(ctx) })
	g.Go(func() error { return release.Serve(ctx, a.site.Conn(), a.group, a) })
	g.Go(func() error { return a.releases(ctx) })
	return g.Wait()
}

// record reads what is durable about a release. Without it nothing may be held: it is tried until ctx ends.
func (a *applied) record(ctx context.Context) (release.Record, error) {
	for {
		record, err := release.Load(ctx, a.site, a.group)
		if err == nil || ctx.Err() != nil {
			return record, ctx.Err()
		}
		a.env.Log.Warn("objects wait: whether they were released can't be read", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(recordEvery):
		}
	}
}

// recordEvery is the time between two tries to read or write the record of a release.
const recordEvery = 2 * time.Second

// releases carries out what is asked for, one release after the other, and makes its end durable. An end that isn't durable yet is
// found again at the next start: everything is released then.
func (a *applied) releases(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.asked:
		}
		end, err := a.rebuild.Release(ctx, nil)
		if err != nil {
			if ctx.Err() == nil {
				a.env.Log.Error("release can't begin", "error", err)
			}
			continue
		}
		a.env.Log.Info("objects are released", "objects", end.Done, "refused", len(end.Failed))
		for {
			err := release.Save(ctx, a.site, a.group, release.RecordOf(end))
			if err == nil || ctx.Err() != nil {
				break
			}
			a.env.Log.Warn("end of the release is not durable yet", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(recordEvery):
			}
		}
	}
}

// Plan implements release.Applier.
func (a *applied) Plan(ctx context.Context) (*rebuild.Plan, error) { return a.rebuild.Plan(ctx) }

// Begin implements release.Applier.
func (a *applied) Begin(ctx context.Context) error {
	p := a.rebuild.Progress()
	switch {
	case p.Mode == rebuild.ModeReleasing, p.Mode == rebuild.ModeReleased && len(p.Failed) == 0:
		return nil
	case p.Mode == rebuild.ModeStandby && !a.rebuild.Known():
		return rebuild.ErrNoState
	}
	record := release.RecordOf(p)
	record.Mode = rebuild.ModeReleasing
	if p.Mode == rebuild.ModeStandby {
		record.Since = time.Now().UTC()
	}
	if err := release.Save(ctx, a.site, a.group, record); err != nil {
		return err
	}
	a.env.Log.Info("release of the objects was asked for")
	select {
	case a.asked <- struct{}{}:
	default: // it is on its way
	}
	return nil
}

// Progress implements release.Applier.
func (a *applied) Progress(context.Context) (rebuild.Progress, error) {
	return a.rebuild.Progress(), nil
}

// noObjects answers for an applier that applies to no API server.
type noObjects struct{ why string }

// Plan implements release.Applier.
func (n noObjects) Plan(context.Context) (*rebuild.Plan, error) { return nil, n.err() }

// Begin implements release.Applier.
func (n noObjects) Begin(context.Context) error { return n.err() }

// Progress implements release.Applier.
func (n noObjects) Progress(context.Context) (rebuild.Progress, error) {
	return rebuild.Progress{}, n.err()
}

func (n noObjects) err() error { return fmt.Errorf("%w: %s", release.ErrNone, n.why) }
