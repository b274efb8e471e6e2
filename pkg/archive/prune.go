package archive

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// PruneOptions shape a Prune.
type PruneOptions struct {
	Policy Policy
	// Remove are barriers of points to be removed whatever the policy says, and though they may be damaged.
	Remove []uint64
	DryRun bool
	// Unused is the part of a pack, from 0 to 1, that may be unused before it is written anew; 0: 0.3.
	Unused float64
	// Progress is told of bytes; nil: nobody is. Phases are "look" (at what points need), "repack" and "delete".
	Progress func(phase string, done, total int64)
}

// Pruned is what a Prune did, or would do.
type Pruned struct {
	Points        []Kept `json:"points"`
	Removed       int    `json:"removed"`       // points, damaged manifests included
	Packs         int    `json:"packs"`         // deleted
	Repacked      int    `json:"repacked"`      // packs whose needed chunks were written anew
	Condemned     int    `json:"condemned"`     // packs that wait for runs that may still need them
	Freed         int64  `json:"freed"`         // bytes, less those that were written
	BytesBefore   int64  `json:"bytesBefore"`   // of all packs
	UnusedBytes   int64  `json:"unusedBytes"`   // left in packs that stay
	AbandonedRuns int    `json:"abandonedRuns"` // whose leases were removed
}

// errOtherPrune means that the store isn't as this prune left it.
var errOtherPrune = errors.New("another process prunes the archive at the same time, or changes it otherwise; prune again when that has ended")

// usualUnused is how much of a pack may be unused.
const usualUnused = 0.3

// Prune removes the points that the policy doesn't keep, and then what no point needs. It is safe beside runs, and beside restores of points
// that stay; another prune gives a *LockedError. It may die anywhere: the next one goes on. Where a point that stays is damaged it deletes no packs,
// since what the point needs can't be told, and says so in an error that wraps a *DamageError.
func (a *Archive) Prune(ctx context.Context, o PruneOptions) (*Pruned, error) {
	if err := o.Policy.Validate(); err != nil {
		return nil, err
	}
	if o.Unused < 0 || o.Unused > 1 {
		return nil, fmt.Errorf("the unused part of a pack must be from 0 to 1, not %v", o.Unused)
	}
	if o.Unused == 0 {
		o.Unused = usualUnused
	}
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	var lock *lease
	if !o.DryRun {
		var err error
		if lock, err = takeLock(ctx, a.store, a.times); err != nil {
			return nil, err
		}
		defer lock.end(ctx)
	}
	var p *prune
	err := withIndex(func() error {
		p = &prune{a: a, o: o, out: new(Pruned), lock: lock}
		return p.run(ctx)
	})
	if err != nil {
		return nil, err
	}
	return p.out, nil
}

// withIndex does something that begins with a refresh, once more if the index turns out to be damaged: the refresh makes it anew.
func withIndex(do func() error) error {
	err := do()
	if errors.Is(err, errIndex) {
		err = do()
	}
	return err
}

// prune is one Prune as it goes on.
type prune struct {
	a    *Archive
	o    PruneOptions
	out  *Pruned
	lock *lease // nil: nothing is changed

	early    map[string]bool // condemnations whose runs were noted before alive was listed
	alive    []leaseState    // runs
	points   []Point         // that were listed
	stay     []Point
	gone     []Point
	forgiven []*DamageError // manifests that can't be used and are to be removed
	waiting  []*condemnation
	needs    *survey // of the points that stay
	damage   error   // what keeps packs from being deleted
	deleted  int64   // bytes
	written  int64
}

func (p *prune) run(ctx context.Context) error {
	if err := p.look(ctx); err != nil {
		return err
	}
	if err := p.decide(ctx); err != nil {
		return err
	}
	if err := p.mark(ctx); err != nil {
		return err
	}
	if p.damage == nil {
		if err := p.finish(ctx); err != nil {
			return err
		}
	}
	if err := p.forget(ctx); err != nil {
		return err
	}
	if p.damage != nil {
		return fmt.Errorf(`%d points were removed, but no packs deleted: %w; "farshore archive check" tells what is damaged, and a damaged point can be given up with "farshore archive prune --remove BARRIER"`,
			p.out.Removed, p.damage)
	}
	if err := p.condemn(ctx); err != nil {
		return err
	}
	for _, c := range p.waiting {
		p.out.Condemned += len(c.Packs)
	}
	p.out.Freed = p.deleted - p.written
	return nil
}

// look lists what there is, in the order that P2 asks for.
func (p *prune) look(ctx context.Context) (err error) {
	early, err := condemnations(ctx, p.a.store)
	if err != nil {
		return err
	}
	p.early = make(map[string]bool)
	for _, c := range early {
		p.early[c.name] = c.Runs != nil
	}
	if p.lock == nil {
		p.alive, err = leases(ctx, p.a.store, runLeases)
	} else {
		p.alive, p.out.AbandonedRuns, err = bury(ctx, p.a.store, runLeases, p.lock.now(), p.a.times.dead)
	}
	if err != nil {
		return err
	}
	var damaged []*DamageError
	if p.points, damaged, err = p.a.Points(ctx); err != nil {
		return err
	}
	for _, d := range damaged {
		barrier, ok := parsePointObject(d.Object)
		if ok && slices.Contains(p.o.Remove, barrier) {
			p.forgiven = append(p.forgiven, d)
		} else if p.damage == nil {
			p.damage = d
		}
	}
	if p.waiting, err = condemnations(ctx, p.a.store); err != nil {
		return err
	}
	p.needs = &survey{a: p.a, doomed: make(map[ID]bool)}
	if p.needs.packs, err = p.a.listStates(ctx); err != nil {
		return err
	}
	for _, state := range p.needs.packs {
		p.out.BytesBefore += state.Size
	}
	p.sentence(p.waiting...)
	return p.a.refresh(ctx)
}

// sentence notes which packs are condemned.
func (p *prune) sentence(all ...*condemnation) {
	for _, c := range all {
		for _, object := range c.Packs {
			if name, ok := parsePack(object); ok && p.needs.packs[name] != nil {
				p.needs.packs[name].condemned = true
			}
		}
	}
}

// decide tells points that stay from those that go.
func (p *prune) decide(context.Context) error {
	for _, barrier := range p.o.Remove {
		if !slices.ContainsFunc(p.points, func(point Point) bool { return point.Barrier == barrier }) &&
			!slices.ContainsFunc(p.forgiven, func(d *DamageError) bool { return d.Object == pointObject(barrier) }) {
			return fmt.Errorf("there is no archived point at barrier %d", barrier)
		}
	}
	left := slices.DeleteFunc(slices.Clone(p.points), func(point Point) bool { return slices.Contains(p.o.Remove, point.Barrier) })
	// Barriers may begin anew in a group that was lost, times don't.
	slices.SortStableFunc(left, func(a, b Point) int { return a.Time.Compare(b.Time) })
	kept := make(map[uint64]Kept)
	for _, k := range p.o.Policy.Apply(left) {
		kept[k.Point.Barrier] = k
	}
	p.out.Points = make([]Kept, 0, len(p.points))
	for _, point := range p.points {
		decision := Kept{Point: point, Reasons: []string{}}
		if k, ok := kept[point.Barrier]; ok {
			decision = k
		}
		p.out.Points = append(p.out.Points, decision)
		if len(decision.Reasons) > 0 {
			p.stay = append(p.stay, point)
		} else {
			p.gone = append(p.gone, point)
		}
	}
	p.out.Removed = len(p.gone) + len(p.forgiven)
	return nil
}

// mark finds out what is needed, and copies what is in condemned packs alone.
func (p *prune) mark(ctx context.Context) error {
	if err := p.survey(ctx, p.needs, p.stay); err != nil {
		return err
	}
	saved := maps.Clone(p.needs.doomed)
	if err := p.save(ctx, p.needs.doomed); err != nil {
		return err
	}
	if len(p.waiting) == 0 || len(p.gone) == 0 {
		return nil
	}
	// A run may build on a point that goes (P3). Of one that is damaged nobody can expect more than of itself.
	damage := p.damage
	also := p.needs.clone()
	also.doomed = make(map[ID]bool)
	if err := p.survey(ctx, also, p.gone); err != nil {
		return err
	}
	maps.DeleteFunc(also.doomed, func(id ID, _ bool) bool { _, ok := saved[id]; return ok })
	if err := p.save(ctx, also.doomed); err != nil {
		return err
	}
	p.damage = damage
	return nil
}

// survey adds what points need to s.
func (p *prune) survey(ctx context.Context, s *survey, points []Point) error {
	var done, total int64
	for _, point := range points {
		for _, part := range point.Parts {
			total += part.Size
		}
	}
	s.progress = func(bytes int64) {
		done += bytes
		p.o.Progress("look", done, total)
	}
	var damage error
	s.blame = func(id ID, why error) string {
		if damage == nil {
			damage = chunkDamage(id, why)
		}
		return damage.Error()
	}
	damaged, err := s.points(ctx, points)
	if err != nil {
		return err
	}
	for i, point := range points {
		if len(damaged[i]) > 0 && p.damage == nil {
			p.damage = fmt.Errorf("the point at barrier %d: %w", point.Barrier, damage)
		}
	}
	return nil
}

// chunkDamage says what is wrong with a chunk, if nothing says so yet.
func chunkDamage(id ID, why error) error {
	if isDamage(why) {
		return why
	}
	return &DamageError{Object: "chunk " + id.String(), Reason: why.Error()}
}

// finish deletes condemned packs that no run can need any more (P2).
func (p *prune) finish(ctx context.Context) error {
	var ready, waiting []*condemnation
	for _, c := range p.waiting {
		// A run that began after alive was listed may be one that a later note waits for.
		if c.ready(p.alive) && (p.early[c.name] || len(c.Runs) == 0) {
			ready = append(ready, c)
			continue
		}
		waiting = append(waiting, c)
		if c.Runs == nil && p.lock != nil {
			// Who condemned them died over it. The points would have to be listed behind this once more.
			if err := p.wait(ctx, c); err != nil {
				return err
			}
		}
	}
	var total, done int64
	for _, c := range ready {
		for _, state := range p.states(c) {
			total += state.Size
		}
	}
	for _, c := range ready {
		var names []packName
		for _, state := range p.states(c) {
			names = append(names, state.name)
			delete(p.needs.packs, state.name)
			p.out.Packs++
			done += state.Size
			p.deleted += state.Size
		}
		if p.lock == nil {
			continue
		}
		if err := p.delete(ctx, c); err != nil {
			return err
		}
		if err := p.a.index.drop(names); err != nil {
			return err
		}
		p.o.Progress("delete", done, total)
	}
	p.waiting = waiting
	return nil
}

// states are the packs of a condemnation that are there still.
func (p *prune) states(c *condemnation) (out []*packState) {
	for _, object := range c.Packs {
		if name, ok := parsePack(object); ok && p.needs.packs[name] != nil {
			out = append(out, p.needs.packs[name])
		}
	}
	return out
}

// wait notes which runs the deletion of condemned packs waits for.
func (p *prune) wait(ctx context.Context, c *condemnation) error {
	if err := p.held(); err != nil {
		return err
	}
	return c.await(ctx, p.a.store)
}

// put stores a condemnation.
func (p *prune) put(ctx context.Context, c *condemnation) error {
	if err := p.held(); err != nil {
		return err
	}
	return c.put(ctx, p.a.store)
}

// delete deletes condemned packs, and then the condemnation.
func (p *prune) delete(ctx context.Context, c *condemnation) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(p.a.requests)
	for _, object := range c.Packs {
		g.Go(func() error { return p.remove(gctx, object) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return p.remove(ctx, c.name)
}

func (p *prune) remove(ctx context.Context, object string) error {
	if err := p.held(); err != nil {
		return err
	}
	return p.a.store.Delete(ctx, object)
}

// held tells whether nobody can have taken over the lock.
func (p *prune) held() error {
	if err := p.lock.alive(); err != nil {
		return fmt.Errorf("the lock of the archive: %w; the next prune goes on", err)
	}
	return nil
}

// forget removes the points that go.
func (p *prune) forget(ctx context.Context) error {
	if p.lock == nil {
		return nil
	}
	for _, point := range p.gone {
		if err := p.remove(ctx, pointObject(point.Barrier)); err != nil {
			return err
		}
	}
	for _, d := range p.forgiven {
		if err := p.remove(ctx, d.Object); err != nil {
			return err
		}
	}
	if len(p.gone) == 0 {
		return nil
	}
	// Of packs that were condemned meanwhile nothing was copied for the points that are gone (P3). A run that builds on one of those, and
	// knows the packs as condemned, is waited for.
	now, err := condemnations(ctx, p.a.store)
	if err != nil {
		return err
	}
	for _, c := range now {
		if !slices.ContainsFunc(p.waiting, func(w *condemnation) bool { return w.name == c.name }) {
			if err := p.wait(ctx, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// condemn chooses packs that are to go, copies what is needed of them, condemns them, and deletes them if no run is alive.
func (p *prune) condemn(ctx context.Context) error {
	useless, wasteful, err := p.choose(ctx)
	if err != nil {
		return err
	}
	if wasteful, err = p.repack(ctx, wasteful); err != nil {
		return err
	}
	c := new(condemnation)
	for _, state := range append(useless, wasteful...) {
		c.Packs = append(c.Packs, state.name.object())
	}
	slices.Sort(c.Packs)
	if len(c.Packs) == 0 {
		return nil
	}
	p.waiting = append(p.waiting, c)
	p.sentence(c)
	if p.lock == nil {
		c.Runs = []string{}
		for _, l := range p.alive {
			c.Runs = append(c.Runs, l.id)
		}
		return p.finish(ctx)
	}
	if err := p.put(ctx, c); err != nil {
		return err
	}
	if err := p.wait(ctx, c); err != nil || len(c.Runs) > 0 {
		return err
	}
	if err := p.lookAgain(ctx); err != nil {
		return err
	}
	if p.damage != nil {
		return fmt.Errorf("packs are condemned, but not deleted: %w", p.damage)
	}
	return p.finish(ctx)
}

// choose returns packs of which nothing is needed, and those of which too little is, oldest first. While a run is alive, what is younger than it may be
// its own: it would be copied only to be deleted.
func (p *prune) choose(ctx context.Context) (useless, wasteful []*packState, err error) {
	var spared time.Time // packs from then on
	for _, l := range p.alive {
		said, err := l.said(ctx, p.a.store)
		if err != nil {
			return nil, nil, err
		}
		if !said.Since.IsZero() && (spared.IsZero() || said.Since.Before(spared)) {
			spared = said.Since
		}
	}
	for _, state := range p.needs.packs {
		unused := state.unused()
		switch {
		case state.condemned:
			continue
		case !spared.IsZero() && !state.Modified.Before(spared):
			p.out.UnusedBytes += unused
		case state.used == 0:
			useless = append(useless, state)
		case float64(unused) > p.o.Unused*float64(state.Size):
			wasteful = append(wasteful, state)
		default:
			p.out.UnusedBytes += unused
		}
	}
	slices.SortFunc(wasteful, func(a, b *packState) int { return a.Modified.Compare(b.Modified) })
	return useless, wasteful, nil
}

// lookAgain does what P2 asks for once more, for what was added since look. Anything else that changed is another prune's doing.
func (p *prune) lookAgain(ctx context.Context) error {
	points, damaged, err := p.a.Points(ctx)
	if err != nil {
		return err
	}
	for _, d := range damaged {
		p.damage = d
	}
	now, err := condemnations(ctx, p.a.store)
	if err != nil {
		return err
	}
	for _, c := range now {
		if !slices.ContainsFunc(p.waiting, func(mine *condemnation) bool { return mine.name == c.name }) {
			return errOtherPrune
		}
	}
	packs, err := p.a.listStates(ctx)
	if err != nil {
		return err
	}
	for name, state := range p.needs.packs {
		if packs[name] == nil && !state.condemned {
			return errOtherPrune
		}
	}
	for name, state := range packs {
		if p.needs.packs[name] == nil {
			p.needs.packs[name] = state
		}
	}
	if err := p.a.refresh(ctx); err != nil {
		return err
	}
	points = slices.DeleteFunc(points, func(point Point) bool {
		return slices.ContainsFunc(p.points, func(old Point) bool { return old.Barrier == point.Barrier && old.Created.Equal(point.Created) })
	})
	if err := p.survey(ctx, p.needs, points); err != nil {
		return err
	}
	return p.save(ctx, p.needs.doomed)
}
