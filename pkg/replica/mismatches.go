package replica

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/repair"
)

// maxMismatches bounds what is remembered of each volume: the oldest that are healed go first. What is beyond is
// found again by the next scrub.
const maxMismatches = 256

// toldMismatches is how many of a volume's the status names.
const toldMismatches = 16

// healAgain is how long after it was asked for, a healing that did not come is asked for again.
const healAgain = time.Minute

// mismatch is a region that differed from its source.
type mismatch struct {
	region Extent
	at     events.Position // of the hash
	found  time.Time
	left   []Extent  // what was not made equal since
	asked  time.Time // when it was asked for last; zero: not yet
}

func (m *mismatch) healed() bool { return len(m.left) == 0 }

// mismatches are the regions that differed, by volume. Methods may be called concurrently.
type mismatches struct {
	open atomic.Int64 // that are not healed: with none there is nothing to do for what is written

	mu    sync.Mutex
	lists map[string][]*mismatch
	count map[string]uint64
}

func newMismatches() *mismatches {
	return &mismatches{lists: make(map[string][]*mismatch), count: make(map[string]uint64)}
}

// found notes a region that differs; again tells that it was known to.
func (x *mismatches) found(volume string, at events.Position, region Extent, now time.Time) (again bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.count[volume]++
	for _, m := range x.lists[volume] {
		if m.region == region && !m.healed() {
			m.at, m.left = at, []Extent{region}
			return true
		}
	}
	x.add(volume, &mismatch{region: region, at: at, found: now, left: []Extent{region}})
	return false
}

// add appends to a volume's list; x.mu is held.
func (x *mismatches) add(volume string, m *mismatch) {
	list := x.lists[volume]
	if len(list) >= maxMismatches {
		drop := 0
		for i := range list {
			if list[i].healed() {
				drop = i
				break
			}
		}
		if !list[drop].healed() {
			return
		}
		list = append(list[:drop], list[drop+1:]...)
	}
	x.lists[volume] = append(list, m)
	x.open.Add(1)
}

// equal notes that a range holds what the source does, and returns the regions that are healed with it.
func (x *mismatches) equal(volume string, e Extent) (healed []Extent) {
	if x.open.Load() == 0 {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, m := range x.lists[volume] {
		if m.healed() {
			continue
		}
		if m.left = without(m.left, e); m.healed() {
			x.open.Add(-1)
			healed = append(healed, m.region)
		}
	}
	return healed
}

// without returns what is left of extents where one is taken out.
func without(list []Extent, out Extent) []Extent {
	var left []Extent
	for _, e := range list {
		end, outEnd := e.Offset+e.Length, out.Offset+out.Length
		if out.Offset >= end || outEnd <= e.Offset {
			left = append(left, e)
			continue
		}
		if e.Offset < out.Offset {
			left = append(left, Extent{e.Offset, out.Offset - e.Offset})
		}
		if outEnd < end {
			left = append(left, Extent{outEnd, end - outEnd})
		}
	}
	return left
}

// due returns what is to be asked for now, by volume, and notes that it is.
func (x *mismatches) due(now time.Time) map[string][]Extent {
	if x.open.Load() == 0 {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	due := make(map[string][]Extent)
	for volume, list := range x.lists {
		var want extents
		for _, m := range list {
			if !m.healed() && (m.asked.IsZero() || now.Sub(m.asked) > healAgain) {
				m.asked = now
				want.add(m.region.Offset, m.region.Length)
			}
		}
		if len(want.list) > 0 {
			due[volume] = want.merge()
		}
	}
	return due
}

// again makes a volume's regions due once more.
func (x *mismatches) again(volume string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, m := range x.lists[volume] {
		m.asked = time.Time{}
	}
}

// told returns what the status says of a volume: how many regions differed ever, and the newest ones.
func (x *mismatches) told(volume string) (count uint64, open int, newest []group.RegionMismatch) {
	x.mu.Lock()
	defer x.mu.Unlock()
	list := x.lists[volume]
	for i, m := range list {
		if !m.healed() {
			open++
		}
		if i >= len(list)-toldMismatches || !m.healed() && len(newest) < toldMismatches {
			newest = append(newest, group.RegionMismatch{
				Offset: m.region.Offset, Length: m.region.Length, Generation: m.at.Generation, Seq: m.at.Seq,
				Time: m.found, Healed: m.healed(),
			})
		}
	}
	return x.count[volume], open, newest
}

// recall takes over what an earlier process told.
func (x *mismatches) recall(s *group.Status) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, v := range s.Volumes {
		x.count[v.Name] = max(x.count[v.Name], v.RegionMismatches)
		for _, r := range v.Mismatches {
			if region := (Extent{r.Offset, r.Length}); !r.Healed {
				x.add(v.Name, &mismatch{region: region, at: events.Position{Generation: r.Generation, Seq: r.Seq}, found: r.Time, left: []Extent{region}})
			}
		}
	}
}

// noteMismatch names a region that differs.
func (f *Follower) noteMismatch(ctx context.Context, volume string, at events.Position, region Extent) {
	f.metrics.mismatches.Add(context.WithoutCancel(ctx), 1, f.metrics.of(volume))
	again := f.mismatches.found(volume, at, region, time.Now().UTC())
	f.log.Error("a region differs from its source", "volume", volume, "offset", region.Offset, "length", region.Length,
		"generation", at.Generation, "seq", at.Seq, "again", again)
}

// noteEqual notes what makes a region equal to its source again.
func (f *Follower) noteEqual(volume string, e Extent) {
	for _, region := range f.mismatches.equal(volume, e) {
		f.log.Info("a region that differed equals its source again", "volume", volume, "offset", region.Offset, "length", region.Length)
	}
}

// askHeals asks for what differs.
func (f *Follower) askHeals(ctx context.Context) {
	for volume, regions := range f.mismatches.due(time.Now()) {
		attempt, cancel := context.WithTimeout(ctx, askPatience)
		var ranges []repair.Range
		for _, e := range regions {
			ranges = append(ranges, repair.Range{Offset: e.Offset, Length: e.Length})
		}
		err := repair.CaptureOf(f.o.Site.Conn(), f.group, volume).Heal(attempt, ranges)
		cancel()
		message := ""
		if err != nil {
			f.mismatches.again(volume)
			message = fmt.Sprintf("regions of volume %s that differ can't be asked for yet: %v", volume, err)
		} else {
			f.metrics.mended(ctx, mendedRegion, volume)
			f.log.Info("asked for regions that differ", "volume", volume, "ranges", len(ranges))
		}
		f.trouble(group.ConditionVerified, "heal of "+volume, message)
	}
}

// recallMismatches begins with what an earlier process found and what was not healed since.
func (f *Follower) recallMismatches(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	kv, err := f.o.Site.KV(ctx, group.StatusBucket, 0)
	if err != nil {
		f.log.Warn("what was known to differ can't be read", "error", err)
		return
	}
	entry, err := kv.Get(ctx, f.group)
	if err != nil {
		return // nobody ever told anything
	}
	var s group.Status
	if err := json.Unmarshal(entry.Value(), &s); err != nil {
		f.log.Warn("what was known to differ can't be read", "error", err)
		return
	}
	f.mismatches.recall(&s)
}
