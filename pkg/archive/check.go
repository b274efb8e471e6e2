package archive

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/internal/grid"
)

// CheckOptions shape a Check.
type CheckOptions struct {
	ReadData float64 // part of the packs, chosen at random, whose content is read and verified, from 0 to 1
	// Progress is told of bytes; nil: nobody is. Phases are "packs" (whose directories, or all, were read) and "points" (whose trees were).
	Progress func(phase string, done, total int64)
}

// Checked is what a Check found.
type Checked struct {
	Points  int      `json:"points"` // that were checked, without those whose manifests are damaged
	Packs   int      `json:"packs"`
	Read    int      `json:"read"`    // packs whose content was verified
	Bytes   int64    `json:"bytes"`   // of all packs
	Damaged []Damage `json:"damaged"` // empty: all is well
	Orphans int64    `json:"orphans"` // bytes that no point needs
	Whole   []uint64 `json:"-"`       // barriers of points that were found whole, for Quarantine
}

// Damage is something that can't be used, and who needs it.
type Damage struct {
	Object string   `json:"object"` // in the store; of what isn't there, the folder it should be in
	Reason string   `json:"reason"`
	Points []uint64 `json:"points"` // barriers; those alone can't be restored
}

// Check verifies that all points can be restored: every chunk that they need is in a pack that is there, whole in length and directory; of
// a share of the packs, that the content is right. Damage is no error. It changes nothing, trusts the store alone, and is made anew where something
// that was damaged may have been pruned meanwhile.
func (a *Archive) Check(ctx context.Context, o CheckOptions) (*Checked, error) {
	if o.ReadData < 0 || o.ReadData > 1 {
		return nil, fmt.Errorf("the share of packs to be read must be from 0 to 1, not %v", o.ReadData)
	}
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	const attempts = 3
	for n := 1; ; n++ {
		c := &check{a: a, o: o, damages: make(map[string]*Damage), broken: make(map[packName]bool), bad: make(map[packName]bits), badIDs: make(map[ID]string)}
		moved, err := c.run(ctx)
		if err != nil {
			return nil, err
		}
		if !moved || n == attempts {
			return c.result(), nil
		}
	}
}

// check is one look at the archive.
type check struct {
	a   *Archive
	o   CheckOptions
	out Checked

	points []Point
	packs  map[packName]*packState

	mu      sync.Mutex
	damages map[string]*Damage // by object
	broken  map[packName]bool  // packs whose directories can't be used
	bad     map[packName]bits  // records that can't be used, by number
	badIDs  map[ID]string      // chunks of those records, and those that are in no pack: the pack
	missing int                // chunks that are in no pack
}

// missingPacks names packs that are not there.
const missingPacks = packs + "…"

func (c *check) run(ctx context.Context) (moved bool, err error) {
	// An index of its own, made from what is in the store. It is as large as it has to be, on disk.
	fresh := &Archive{
		codec: c.a.codec, store: c.a.store, about: c.a.about, workers: c.a.workers, requests: c.a.requests, slots: c.a.slots,
		times: c.a.times, packTarget: c.a.packTarget, log: c.a.log, manifests: make(map[string]manifest), unusable: make(map[string]error),
	}
	if fresh.index, err = openIndex("", fresh.about.ID); err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, fresh.index.close()) }()
	// What a point needs is in the store when it is listed: points first.
	damaged, err := c.list(ctx, fresh)
	if err != nil {
		return false, err
	}
	for _, d := range damaged {
		c.note(d)
		if barrier, ok := parsePointObject(d.Object); ok {
			c.damages[d.Object].Points = []uint64{barrier}
		}
	}
	if err := c.readPacks(ctx, fresh); err != nil {
		return false, err
	}
	if err := c.walk(ctx, fresh); err != nil {
		return false, err
	}
	if len(c.damages) == 0 {
		return false, nil
	}
	return c.moved(ctx)
}

func (c *check) list(ctx context.Context, fresh *Archive) (damaged []*DamageError, err error) {
	if c.points, damaged, err = fresh.Points(ctx); err != nil {
		return nil, err
	}
	c.packs, err = fresh.listStates(ctx)
	c.out.Points, c.out.Packs = len(c.points), len(c.packs)
	for _, state := range c.packs {
		c.out.Bytes += state.Size
	}
	return damaged, err
}

// note takes note of damage, and returns the object.
func (c *check) note(d *DamageError) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.damages[d.Object] == nil {
		c.damages[d.Object] = &Damage{Object: d.Object, Reason: d.Reason, Points: []uint64{}}
	}
	return d.Object
}

// readPacks reads the directories of all packs into the index, and the content of some.
func (c *check) readPacks(ctx context.Context, fresh *Archive) error {
	names := slices.SortedFunc(maps.Keys(c.packs), func(a, b packName) int { return slices.Compare(a[:], b[:]) })
	chosen := make(map[packName]bool)
	for _, i := range rand.Perm(len(names))[:int(math.Ceil(c.o.ReadData*float64(len(names))))] {
		chosen[names[i]] = true
	}
	c.out.Read = len(chosen)
	var done int64
	const batch = 64
	for some := range slices.Chunk(names, batch) {
		read := make([]packed, len(some))
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(fresh.requests)
		for i, name := range some {
			g.Go(func() (err error) {
				read[i] = packed{name: name, size: c.packs[name].Size}
				if chosen[name] {
					read[i].entries, err = c.readPack(gctx, fresh, name)
				} else {
					read[i].entries, err = fresh.readDirectory(gctx, name, read[i].size)
				}
				if damage := new(DamageError); errors.As(err, &damage) {
					c.note(damage)
					read[i].entries = nil
					return nil
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for _, p := range read {
			done += p.size
			if p.entries == nil {
				c.broken[p.name] = true
				c.out.Orphans += p.size
				delete(c.packs, p.name)
			}
		}
		c.o.Progress("packs", done, c.out.Bytes)
		read = slices.DeleteFunc(read, func(p packed) bool { return p.entries == nil })
		if err := fresh.index.add(read...); err != nil {
			return err
		}
	}
	return nil
}

// readPack reads all of a pack, notes which of its records are bad, and returns what is in it.
func (c *check) readPack(ctx context.Context, fresh *Archive, name packName) ([]entry, error) {
	damage := func(format string, args ...any) *DamageError {
		return &DamageError{Object: name.object(), Reason: fmt.Sprintf(format, args...)}
	}
	data, err := fresh.readPack(ctx, name, 0, -1)
	if err != nil {
		return nil, err
	}
	if len(data) < packHeader+trailerBytes {
		return nil, damage("no pack has %d bytes", len(data))
	}
	n, err := directoryLength(data[len(data)-trailerBytes:], int64(len(data)), fresh.keys)
	var entries []entry
	if err == nil {
		entries, err = parseDirectory(data[int64(len(data))-trailerBytes-n:], int64(len(data)), fresh.keys)
	}
	if err != nil {
		return nil, damage("%v", err)
	}
	var bad bits
	count, at := 0, packHeader
	buf := make([]byte, 0, grid.Chunk)
	for i, e := range entries {
		if _, err := fresh.openRecord(buf, data[at:at+int(e.stored)], e); err != nil {
			bad.set(i)
			count++
			c.mu.Lock()
			c.badIDs[e.id] = name.object()
			c.mu.Unlock()
		}
		at += int(e.stored)
	}
	if count > 0 {
		c.note(damage("%d of its %d records are altered", count, len(entries)))
		c.mu.Lock()
		c.bad[name] = bad
		c.mu.Unlock()
	} else if sha256.Sum256(data) != [32]byte(name) {
		c.note(damage("its content doesn't give its name, but no record is altered"))
	}
	return entries, nil
}

// walk looks for what the points need.
func (c *check) walk(ctx context.Context, fresh *Archive) error {
	var done, total int64
	for _, p := range c.points {
		for _, part := range p.Parts {
			total += part.Size
		}
	}
	s := &survey{
		a: fresh, packs: c.packs,
		skip:  func(p place) bool { return c.bad[p.pack].has(p.number) },
		blame: func(id ID, why error) string { return c.blame(id, why) },
		progress: func(bytes int64) {
			done += bytes
			c.o.Progress("points", done, total)
		},
	}
	damaged, err := s.points(ctx, c.points)
	if err != nil {
		return err
	}
	for i, p := range c.points {
		for _, object := range damaged[i] {
			d := c.damages[object]
			d.Points = append(d.Points, p.Barrier)
		}
		if len(damaged[i]) == 0 {
			c.out.Whole = append(c.out.Whole, p.Barrier)
		}
	}
	for _, state := range c.packs {
		c.out.Orphans += state.unused()
	}
	return nil
}

// blame finds the pack that a chunk should be in.
func (c *check) blame(id ID, why error) string {
	if damage := new(DamageError); errors.As(why, &damage) {
		return c.note(damage)
	}
	if object := c.badIDs[id]; object != "" {
		return object
	}
	// What was known when the pack was whole helps.
	object := ""
	_ = c.a.index.find([]ID{id}, func(_ int, p place) bool {
		if c.broken[p.pack] {
			object = p.pack.object()
		}
		return object == ""
	})
	switch {
	case object != "":
		return object
	case len(c.broken) == 1:
		for name := range c.broken {
			return name.object()
		}
	}
	c.missing++
	c.badIDs[id] = missingPacks
	return c.note(&DamageError{Object: missingPacks})
}

// moved tells whether something that was there has gone meanwhile.
func (c *check) moved(ctx context.Context) (bool, error) {
	for _, p := range c.points {
		if there, err := there(ctx, c.a.store, pointObject(p.Barrier)); err != nil || !there {
			return !there, err
		}
	}
	now, err := c.a.listStates(ctx)
	if err != nil {
		return false, err
	}
	for name := range c.packs {
		if now[name] == nil {
			return true, nil
		}
	}
	for name := range c.broken {
		if now[name] == nil {
			return true, nil
		}
	}
	return false, nil
}

func (c *check) result() *Checked {
	if d := c.damages[missingPacks]; d != nil {
		d.Reason = fmt.Sprintf("%d chunks and nodes are in no pack: packs were deleted", c.missing)
		if len(c.broken) > 0 {
			d.Reason = fmt.Sprintf("%d chunks and nodes are in none of the packs that can be read", c.missing)
		}
	}
	c.out.Damaged = []Damage{}
	for _, object := range slices.Sorted(maps.Keys(c.damages)) {
		c.out.Damaged = append(c.out.Damaged, *c.damages[object])
	}
	return &c.out
}
