package replica

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica/objects"
)

// CheckpointFile is the name of a set's checkpoint in its directory.
const CheckpointFile = "checkpoint.json"

// The versions of the checkpoint's format; a newer one is refused. An applier that knows the first one only would forget
// where the objects are.
const (
	formatVolumes = 1
	formatObjects = 2 // there are objects
)

// Commit names one commit of a group.
type Commit struct {
	Barrier uint64    `json:"barrier"` // 0: none; the blank state
	Time    time.Time `json:"time"`
	Kind    string    `json:"kind,omitempty"` // crash, app or labeled
	Label   string    `json:"label,omitempty"`
}

// CommitOf returns the name of c.
func CommitOf(c *events.Commit) Commit {
	return Commit{Barrier: c.Token.Barrier, Time: c.Time, Kind: KindName(c.Type), Label: c.Label}
}

// KindName is what people call a kind of barrier.
func KindName(k events.BarrierKind) string {
	switch k {
	case events.Crash:
		return "crash"
	case events.App:
		return "app"
	case events.Labeled:
		return "labeled"
	}
	return fmt.Sprintf("kind %d", k)
}

// VolumeState is where a volume of a set stands.
type VolumeState string

// The states of a volume.
const (
	Joining VolumeState = "joining" // on its first pass: at a position of its own, in no commit
	Seeded  VolumeState = "seeded"  // its first pass is complete: waits there for its first commit
	Member  VolumeState = "member"  // at the set's commit
	Left    VolumeState = "left"    // no longer in the commits: stays at its last one
)

// Volume is where one volume of a set stands, or its objects.
type Volume struct {
	UID        string      `json:"uid"`
	State      VolumeState `json:"state"`
	Generation uint32      `json:"generation"`
	Seq        uint64      `json:"seq"`              // last sequence that the replica holds; 0: none
	Barrier    uint64      `json:"barrier"`          // of the mark at Seq; 0: the event there is none
	Epoch      uint64      `json:"epoch"`            // of the writer at Seq
	Size       int64       `json:"size"`             // bytes
	Time       time.Time   `json:"time"`             // source time of the event at Seq
	Device     string      `json:"device,omitempty"` // block device; empty: a file of the set

	// Of the objects, which are one more part of the set, under the name journal.Objects.
	Log      objects.Place `json:"log,omitzero"`
	Revision string        `json:"revision,omitempty"` // resourceVersion that was proven at Barrier
}

// Checkpoint is what a set durably holds. It is a file beside the replicas, written after their data.
type Checkpoint struct {
	Format  int               `json:"format"`
	Replica string            `json:"replica"` // UUID of the set
	Group   string            `json:"group"`
	Commit  Commit            `json:"commit"` // that all members are at
	Volumes map[string]Volume `json:"volumes"`

	// Applying is the commit that the set is being advanced to, nil when idle. While it is set the
	// members hold a mixture, and only an Advance to it or to a later commit makes them whole.
	Applying *Commit `json:"applying,omitempty"`

	// Without names the members of Commit whose replicas were begun anew since, by a history that has no
	// base: the set does not hold that commit any more, and is whole at the next one.
	Without []string `json:"without,omitempty"`
}

// Whole tells whether the set holds its commit.
func (c *Checkpoint) Whole() bool {
	return c.Commit.Barrier > 0 && c.Applying == nil && len(c.Without) == 0
}

// discard forgets what a volume holds.
func (c *Checkpoint) discard(name string, blank Volume) {
	if c.Volumes[name].State == Member {
		c.Without = append(c.Without, name)
	}
	c.Volumes[name] = blank
}

// Floor is the oldest barrier that the set can be, or be made, whole at.
func (c *Checkpoint) Floor() uint64 {
	if c.Applying != nil {
		return c.Applying.Barrier
	}
	return c.Commit.Barrier
}

// Clone returns a copy that shares nothing with c.
func (c Checkpoint) Clone() Checkpoint {
	c.Volumes, c.Without = maps.Clone(c.Volumes), slices.Clone(c.Without)
	if c.Applying != nil {
		a := *c.Applying
		c.Applying = &a
	}
	return c
}

// sealed is a checkpoint as the file holds it.
type sealed struct {
	Checkpoint json.RawMessage `json:"checkpoint"`
	CRC        uint32          `json:"crc32c"` // of the checkpoint's compact JSON
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ReadCheckpoint reads the checkpoint of the set at dir without opening the set. A directory
// without one gives an error that wraps fs.ErrNotExist.
func ReadCheckpoint(dir string) (Checkpoint, error) { return readCheckpoint(OS{}, dir) }

func readCheckpoint(fsys FS, dir string) (Checkpoint, error) {
	name := filepath.Join(dir, CheckpointFile)
	data, err := fsys.ReadFile(name)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("read checkpoint: %w", err)
	}
	var s sealed
	if err := json.Unmarshal(data, &s); err != nil {
		return Checkpoint{}, fmt.Errorf("read checkpoint %s: %w; restore it or remove the whole set to start again", name, err)
	}
	if got := crc32.Checksum(s.Checkpoint, castagnoli); got != s.CRC {
		return Checkpoint{}, fmt.Errorf("read checkpoint %s: checksum %08x, want %08x; restore it or remove the whole set to start again", name, got, s.CRC)
	}
	var c Checkpoint
	if err := json.Unmarshal(s.Checkpoint, &c); err != nil {
		return Checkpoint{}, fmt.Errorf("read checkpoint %s: %w", name, err)
	}
	if c.Format > formatObjects {
		return Checkpoint{}, fmt.Errorf("read checkpoint %s: format %d is newer than %d; use a newer applier", name, c.Format, formatObjects)
	}
	if c.Volumes == nil {
		c.Volumes = make(map[string]Volume)
	}
	for name, v := range c.Volumes {
		if v.State == Member && v.Barrier == 0 { // written before volumes had one
			v.Barrier = c.Commit.Barrier
			c.Volumes[name] = v
		}
	}
	return c, nil
}

func writeCheckpoint(fsys FS, dir string, c *Checkpoint) error {
	c.Format = formatVolumes
	if _, ok := c.Volumes[journal.Objects]; ok {
		c.Format = formatObjects
	}
	body, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	data, err := json.Marshal(sealed{Checkpoint: body, CRC: crc32.Checksum(body, castagnoli)})
	if err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	if err := replaceFile(fsys, filepath.Join(dir, CheckpointFile), append(data, '\n')); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	return nil
}

// identity marks a replica as part of one set; it lies beside the replica, or, for a block device,
// where a file would.
type identity struct {
	Replica string `json:"replica"`
	Volume  string `json:"volume"`
	Device  string `json:"device,omitempty"`
}

var errNoIdentity = fmt.Errorf("%w: the replica's identity is missing; restore it with its replica, or remove the whole set to start again", ErrForeign)

// checkIdentity compares. A blank replica may have been elsewhere before.
func checkIdentity(fsys FS, name string, want identity, blank bool) error {
	data, err := fsys.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s: %w", name, errNoIdentity)
	}
	if err != nil {
		return err
	}
	var got identity
	if err := json.Unmarshal(data, &got); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if blank {
		got.Device = want.Device
	}
	if got != want {
		return fmt.Errorf("%w: %s says replica %s, volume %s, device %q; the checkpoint says %s, %s, %q",
			ErrForeign, name, got.Replica, got.Volume, got.Device, want.Replica, want.Volume, want.Device)
	}
	return nil
}

func writeIdentity(fsys FS, name string, id identity) error {
	data, err := json.Marshal(id)
	if err != nil {
		return err
	}
	return replaceFile(fsys, name, append(data, '\n'))
}
