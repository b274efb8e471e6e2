package replica

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/google/uuid"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica/objects"
)

// DefaultMemory is Options.Memory where that is 0.
const DefaultMemory = 64 << 20

// Names within a set's directory.
const (
	lockFile   = "lock"
	volumesDir = "volumes"
)

// TargetSpec says which target a set wants.
type TargetSpec struct {
	Volume string
	Path   string // of the file, or of the block device
	Device bool   // Path is a block device
	Size   int64  // bytes
	Blank  bool   // nothing that the target holds is wanted
}

// Options shape a Set.
type Options struct {
	Group string

	// Devices names the block devices of volumes that are rebuilt on one; the others are files.
	Devices map[string]string
	// UIDs names the identity that a volume must have, where it is known beforehand.
	UIDs map[string]string
	// Memory is how many bytes of verified content are kept between prepare and apply; what
	// exceeds it is read twice. 0 means DefaultMemory.
	Memory int64

	// ObjectsSlack is objects.Options.Slack of the objects' store.
	ObjectsSlack int64

	FS         FS                               // nil: OS
	OpenTarget func(TargetSpec) (Target, error) // nil: OpenFile and OpenDevice
	Hooks      Hooks
	Log        *slog.Logger // nil: silent
}

// Hooks are called while a set works, from several goroutines at once. Each may be nil.
type Hooks struct {
	// Read is called for each event that was read and found to continue the volume's history;
	// for what is read a second time, not again. The message must not be changed.
	Read func(volume string, m journal.Message)
	// Written is called with the bytes that a frame's writes stored.
	Written func(volume string, bytes int64)
	// Mismatch is called for a region that differs from the hash in the journal, which is at the position.
	Mismatch func(volume string, at events.Position, region Extent)
	// Equal is called for a range that holds what the source does, in the order of the stream: it was written, or
	// compared with its hash.
	Equal func(volume string, region Extent)
	// Objects is called with how many objects were changed by what is in the checkpoint now.
	Objects func(changed uint64)
}

func (h *Hooks) read(volume string, m journal.Message) {
	if h.Read != nil {
		h.Read(volume, m)
	}
}

func (h *Hooks) written(volume string, bytes int64) {
	if h.Written != nil {
		h.Written(volume, bytes)
	}
}

func (h *Hooks) mismatch(volume string, at events.Position, region Extent) {
	if h.Mismatch != nil {
		h.Mismatch(volume, at, region)
	}
}

func (h *Hooks) equal(volume string, region Extent) {
	if h.Equal != nil {
		h.Equal(volume, region)
	}
}

// Set is the replicas of a group at one vector. Advance, Fill and Seed may be called concurrently;
// they wait for each other where they want the same volume.
type Set struct {
	dir    string
	o      Options
	fs     FS
	hooks  Hooks
	log    *slog.Logger
	lock   io.Closer
	memory memory

	advancing sync.Mutex // one Advance or Fill at a time; taken before volume.mu

	mu      sync.Mutex // guards what follows and the checkpoint file; taken last
	cp      Checkpoint // as the file has it
	unsure  bool       // the file may have a later one instead: writing it failed
	volumes map[string]*volume
	store   *objects.Store // nil: not opened, there are no objects yet

	snapshots map[*Snapshot]bool
}

// volume is one volume of a set, or, without a target, its objects.
type volume struct {
	name string

	mu     sync.Mutex // held by whoever works on the volume
	now    Volume     // position; on a first pass it runs ahead of the checkpoint
	target *tap       // nil until it is needed
	whole  bool       // the target holds nothing from behind now: regions can be compared
}

// Open opens the set at dir, or makes a blank one. Another process that has it open gives
// ErrLocked; a checkpoint of another group, or replicas of another set, ErrForeign.
func Open(dir string, o Options) (*Set, error) {
	s := &Set{dir: dir, o: o, fs: o.FS, hooks: o.Hooks, log: o.Log, volumes: make(map[string]*volume), snapshots: make(map[*Snapshot]bool)}
	if s.fs == nil {
		s.fs = OS{}
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.memory.limit = o.Memory
	if s.memory.limit == 0 {
		s.memory.limit = DefaultMemory
	}
	if s.o.OpenTarget == nil {
		s.o.OpenTarget = openTarget
	}
	if err := s.fs.MkdirAll(filepath.Join(dir, volumesDir)); err != nil {
		return nil, fmt.Errorf("open set of replicas: %w", err)
	}
	if err := s.fs.SyncDir(dir); err != nil { // an earlier attempt may have made it and failed
		return nil, fmt.Errorf("open set of replicas: %w", err)
	}
	var err error
	if s.lock, err = s.fs.Lock(filepath.Join(dir, lockFile)); err != nil {
		return nil, fmt.Errorf("open set of replicas: %w", err)
	}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open set of replicas %s: %w", dir, err), s.lock.Close())
	}
	return s, nil
}

func openTarget(t TargetSpec) (Target, error) {
	if t.Device {
		return OpenDevice(t.Path, t.Size)
	}
	return OpenFile(t.Path, t.Size, t.Blank)
}

func (s *Set) load() error {
	cp, err := readCheckpoint(s.fs, s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		cp = Checkpoint{Replica: uuid.NewString(), Group: s.o.Group, Volumes: make(map[string]Volume)}
		err = writeCheckpoint(s.fs, s.dir, &cp)
	}
	if err != nil {
		return err
	}
	if cp.Group != s.o.Group {
		return fmt.Errorf("%w: the checkpoint is of group %q, not of %q", ErrForeign, cp.Group, s.o.Group)
	}
	s.cp = cp
	for name, v := range cp.Volumes {
		if s.moved(name, v) {
			return fmt.Errorf("%w: volume %s was rebuilt at %q, the document says %q; move it back, or remove the whole set to start again",
				ErrForeign, name, v.Device, s.o.Devices[name])
		}
		if v.Seq == 0 {
			v = s.blank(name)
		}
		s.volumes[name] = &volume{name: name, now: v}
	}
	if _, ok := cp.Volumes[journal.Objects]; ok {
		return s.openObjects()
	}
	return nil
}

// moved tells whether the document has a volume's replica elsewhere. A volume that it doesn't list any more, or that
// it lists with another UID, keeps its replica where it is until another one takes its place.
func (s *Set) moved(name string, v Volume) bool {
	device, listed := s.o.Devices[name]
	uid, known := s.o.UIDs[name]
	if v.Seq == 0 || !listed && !known || known && uid != "" && uid != v.UID {
		return false
	}
	return v.Device != device
}

// Update changes what is known of volumes: Options.Devices and Options.UIDs. It decides about replicas that begin
// from here on, and about none that there is.
func (s *Set) Update(devices, uids map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.o.Devices, s.o.UIDs = devices, uids
}

// Close closes the replicas and unlocks the set. What is not in the checkpoint is not made durable.
// Nothing else may run.
func (s *Set) Close() error {
	var errs []error
	for _, v := range s.volumes {
		if v.target != nil {
			errs = append(errs, v.target.Close())
		}
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

// Checkpoint returns what the set durably holds.
func (s *Set) Checkpoint() Checkpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cp.Clone()
}

// Path returns where a volume's replica is: its file, or its block device.
func (s *Set) Path(volume string) string {
	at, held := s.durable(volume)
	if !held || at.Seq == 0 {
		at = s.blank(volume)
	}
	return s.place(volume, at)
}

func (s *Set) place(volume string, at Volume) string {
	if at.Device != "" {
		return at.Device
	}
	return VolumePath(s.dir, volume)
}

// VolumePath returns where the set at dir has the file of a volume that is not on a block device.
func VolumePath(dir, volume string) string {
	return filepath.Join(dir, volumesDir, volume+".img")
}

func (s *Set) identityPath(volume string) string {
	return filepath.Join(s.dir, volumesDir, volume+".json")
}

// volume returns the volume of the given name, unlocked, made up if it is new.
func (s *Set) volume(name string) *volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.volumes[name]
	if v == nil {
		v = &volume{name: name, now: s.blankLocked(name)}
		s.volumes[name] = v
	}
	return v
}

// blank returns a volume that holds nothing, as the document has it now.
func (s *Set) blank(name string) Volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blankLocked(name)
}

func (s *Set) blankLocked(name string) Volume {
	return Volume{UID: s.o.UIDs[name], State: Joining, Device: s.o.Devices[name]}
}

// record writes a checkpoint that change makes of the present one. After an error the file holds
// either, and nothing was done that only the new one would allow.
func (s *Set) record(change func(*Checkpoint)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	cp := s.cp.Clone()
	change(&cp)
	if err := writeCheckpoint(s.fs, s.dir, &cp); err != nil {
		s.unsure = true
		return err
	}
	s.cp, s.unsure = cp, false
	return nil
}

// settle makes the file say what the set believes, after a write of it failed. Before that nothing may be
// done to a replica, not even making it anew: the file may already promise what it holds.
func (s *Set) settle() error {
	s.mu.Lock()
	unsure := s.unsure
	s.mu.Unlock()
	if !unsure {
		return nil
	}
	return s.record(func(*Checkpoint) {})
}

// durable returns where the checkpoint has a volume, and whether it has it.
func (s *Set) durable(name string) (Volume, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.cp.Volumes[name]
	return v, ok
}

// openVolume opens the volume's target for a size, blank where the volume holds nothing yet.
func (s *Set) openVolume(v *volume, size int64) error {
	if v.target != nil {
		return nil
	}
	id := identity{Replica: s.replicaID(), Volume: v.name, Device: v.now.Device}
	blank := v.now.Seq == 0
	err := checkIdentity(s.fs, s.identityPath(v.name), id, blank)
	if blank && (err == nil || errors.Is(err, errNoIdentity)) {
		// Again where it is there: an attempt that failed may have left it visible, but not durable.
		err = writeIdentity(s.fs, s.identityPath(v.name), id)
	}
	if err != nil {
		return err
	}
	t, err := s.o.OpenTarget(TargetSpec{
		Volume: v.name, Path: s.place(v.name, v.now), Device: v.now.Device != "", Size: size, Blank: blank,
	})
	if err != nil {
		return err
	}
	v.target = s.tapped(t)
	v.whole = blank && v.now.Device == "" || (v.now.State == Member || v.now.State == Left) && s.idle()
	return nil
}

// idle tells whether the members are exactly at the checkpoint's commit.
func (s *Set) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cp.Applying == nil
}

func (s *Set) replicaID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cp.Replica
}

// reset takes a volume back to the checkpoint after a failure: what was written behind it is there
// and will be written again.
func (s *Set) reset(v *volume) {
	at, held := s.durable(v.name)
	if !held || at.Seq == 0 {
		at = s.blank(v.name)
	}
	v.now = at
	v.whole = false
	if v.now.Seq == 0 && v.target != nil {
		// Nothing of it counts: the next attempt starts with a blank one.
		if err := v.target.Close(); err != nil {
			s.log.Warn("closing a replica that holds nothing yet failed", "volume", v.name, "error", err)
		}
		v.target = nil
	}
}
