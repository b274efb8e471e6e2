package replay

import (
	"errors"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
)

// Origin is what a replay begins from.
type Origin string

// The origins.
const (
	Blank    Origin = "blank"    // volumes that hold nothing
	Replicas Origin = "replicas" // of the group, where no applier works on them
	Base     Origin = "base"     // beside the replicas
	Archived Origin = "archive"  // a point of it
)

// base is a state that leads to a point.
type base struct {
	origin  Origin
	barrier uint64
	set     replica.Checkpoint
	dir     string    // of the set that is copied; "": there is none
	point   *archived // that is restored; nil: none

	copies, fetches, replays uint64 // bytes to read, as far as they are known
}

func (b *base) bytes() uint64 { return b.copies + b.fetches + b.replays }

// leads tells whether the journal leads from a set to a point.
func (h *history) leads(from *replica.Checkpoint, p *Point) bool {
	if p.commit != nil {
		return h.lacks(from, p.commit) == ""
	}
	return from.Whole() && from.Commit.Barrier == p.Barrier && from.Commit.Time.Equal(p.Time)
}

// bases returns the states that lead to a point, the one that leaves least to read first. They stay as they are until they
// are released.
func (r *run) bases(h *history, p *Point) (list []base, release func()) {
	release = func() {}
	if hold, err := replica.Hold(r.o.Dir); err == nil {
		cp, err := replica.ReadCheckpoint(r.o.Dir)
		if err == nil && cp.Commit.Barrier > 0 && h.leads(&cp, p) {
			list = append(list, base{origin: Replicas, barrier: cp.Commit.Barrier, set: cp, dir: r.o.Dir})
		}
		release = func() { _ = hold.Close() } // it was only read
	}
	if h.base.Commit.Barrier > 0 && h.leads(&h.base, p) {
		list = append(list, base{origin: Base, barrier: h.base.Commit.Barrier, set: h.base, dir: replica.BaseDir(r.o.Dir)})
	}
	if blank := (replica.Checkpoint{}); p.commit != nil && h.leads(&blank, p) {
		list = append(list, base{origin: Blank, set: blank})
	}
	if a := h.nearest(p); a != nil {
		a = a.of(p)
		list = append(list, base{origin: Archived, barrier: a.point.Barrier, set: a.set, point: a})
	}
	for i := range list {
		r.measure(h, p, &list[i])
	}
	slices.SortStableFunc(list, func(a, b base) int {
		switch {
		case a.bytes() < b.bytes():
			return -1
		case a.bytes() > b.bytes():
			return 1
		}
		return 0
	})
	return list, release
}

// nearest returns the archived point to begin from; nil: none leads to p.
func (h *history) nearest(p *Point) *archived {
	if p.commit == nil {
		return h.exactly(p)
	}
	a, _ := h.lead(p.commit)
	return a
}

// measure sets what there is to read from a state on. Of an archived point that is what it holds, which its manifest tells: how much less its packs
// take is known only once its trees are read, which is work of its own where volumes are large.
func (r *run) measure(h *history, p *Point, b *base) {
	if b.point != nil {
		for _, part := range b.point.point.Parts {
			b.fetches += uint64(part.Data)
		}
	}
	if b.dir != "" && !r.shares(b.dir) {
		b.copies = occupied(b.dir, &b.set, r.objects)
	}
	if p.commit != nil {
		b.replays = h.estimate(p.commit, b.set)
	}
}

// occupied returns how many bytes there are to copy of a set.
func occupied(dir string, cp *replica.Checkpoint, objectsOnly bool) (bytes uint64) {
	for name, v := range cp.Volumes {
		switch {
		case name == journal.Objects:
			bytes += uint64(v.Log.Length)
		case objectsOnly || v.Seq == 0:
		case v.Device != "":
			bytes += uint64(v.Size)
		default:
			var st unix.Stat_t
			if err := unix.Stat(replica.VolumePath(dir, name), &st); err == nil {
				bytes += min(uint64(st.Blocks)*512, uint64(v.Size))
			}
		}
	}
	return bytes
}

// Magic numbers of file systems whose files can share blocks.
const (
	btrfs = 0x9123683e
	xfs   = 0x58465342
)

// shares tells whether files of dir can be expected to be copied without reading them.
func (r *run) shares(dir string) bool {
	if len(r.o.Devices) > 0 || r.objects {
		return false
	}
	var from, to unix.Stat_t
	var system unix.Statfs_t
	if unix.Stat(dir, &from) != nil || unix.Stat(existing(r.o.Into), &to) != nil || unix.Statfs(dir, &system) != nil {
		return false
	}
	return from.Dev == to.Dev && (system.Type == btrfs || system.Type == xfs)
}

// existing returns the nearest directory above dir that exists.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// extents returns what of an archived point's parts is in its place at the beginning: nothing.
func extents(p *archive.Point) map[string]extent {
	out := make(map[string]extent)
	for _, part := range p.Parts {
		out[part.Name] = extent{Root: part.Root}
	}
	return out
}
