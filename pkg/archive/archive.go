// Package archive keeps recovery points of a group in an object store, for as long as their retention says and without
// anything else of the group being left.
//
// A point is a manifest: for each part of the group, a volume or the objects, the root of a tree of 64 KiB chunks, each named by its
// content. Points share what they have in common, and each restores without the others. Chunks lie in packs. A point is
// listed once everything that it needs is stored, and nothing that a listed point needs is deleted.
//
// docs/archive.md has the format.
package archive

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"filippo.io/age"
	"github.com/google/uuid"

	"github.com/farshore/farshore/pkg/archive/store"
)

// Options shape an Archive.
type Options struct {
	Store store.Store // of this archive alone
	Group string
	// Recipients are who can read an archive that Create makes; none: it is not encrypted.
	Recipients []age.Recipient
	// Identities open an encrypted archive.
	Identities []age.Identity
	// Cache is a directory for what can be had from the store again. "": one that is gone after Close.
	Cache string
	// Workers is how many goroutines hash, compress and encrypt at once; 0: half of the processors, at least one.
	Workers int
	// Background lets these goroutines give way to others, as far as the kernel can do that.
	Background bool
	// Requests is how many requests to the store are under way at once; 0: 8.
	Requests int
	Log      *slog.Logger // nil: silent
}

// What can be wrong with an archive as a whole.
var (
	// ErrNone means that there is no archive in the store.
	ErrNone = errors.New("there is no archive here")
	// ErrKey means that the archive is encrypted and no identity opens it.
	ErrKey = errors.New("the archive is encrypted, and none of the identities opens it")
	// ErrGone means that the store has no archive and had one: it has what belongs to one, or the cache that Create was called with knows.
	ErrGone = errors.New("the archive that was here is gone")
	// ErrForeign means that the archive in the store is of another group.
	ErrForeign = errors.New("the archive is of another group")
)

// DamageError says that something in the store can't be used: it is missing, truncated or altered. What else needs it is
// told by Check.
type DamageError struct {
	Object string // in the store
	Reason string
}

// Error implements error.
func (e *DamageError) Error() string { return fmt.Sprintf("%s is damaged: %s", e.Object, e.Reason) }

// LockedError says that another process has the archive's lock.
type LockedError struct {
	Holder string
	Since  time.Time // by the store's clock
}

// Error implements error.
func (e *LockedError) Error() string {
	return fmt.Sprintf("the archive is locked by %s since %s; the lock runs out by itself when its holder is gone", e.Holder, e.Since.Format(time.RFC3339))
}

// Point is a recovery point in an archive. Points are told apart by their barriers.
type Point struct {
	Barrier uint64    `json:"barrier"`
	Time    time.Time `json:"time"` // of the commit
	Kind    string    `json:"kind"`
	Label   string    `json:"label,omitempty"`
	Created time.Time `json:"created"` // when it was archived
	Added   int64     `json:"added"`   // bytes that it put into the store
	Parts   []Part    `json:"parts"`   // by name
	// Set is what its maker needs to go on from the parts; the archive keeps it as it is.
	Set json.RawMessage `json:"set"`
}

// Part is one part of a point.
type Part struct {
	Name string `json:"name"`
	Size int64  `json:"size"` // bytes
	Root ID     `json:"root"`
	Data int64  `json:"data"` // bytes in chunks that are not all zeros
}

// Part returns the part of the given name; nil: there is none.
func (p *Point) Part(name string) *Part {
	for i := range p.Parts {
		if p.Parts[i].Name == name {
			return &p.Parts[i]
		}
	}
	return nil
}

// Archive is the archive of one group in a store. Its methods may be called concurrently, where they don't say otherwise.
type Archive struct {
	*codec
	store      store.Store
	about      about
	index      *index
	background bool // workers give way
	workers    int
	requests   int
	slots      chan struct{} // one for each request to the store under way
	times      leaseTimes
	packTarget int
	log        *slog.Logger

	refreshing sync.Mutex
	doubted    atomic.Bool // the index was made anew because of a chunk that it didn't know

	mu        sync.Mutex
	manifests map[string]manifest // that were read, by object
	unusable  map[string]error    // packs in the store whose directories can't be read, by object
}

// aboutObject names the object that says what archive is in a store: about as JSON.
const aboutObject = "archive.json"

// about is what an archive is.
type about struct {
	Format     int    `json:"format"`
	Group      string `json:"group"`
	ID         string `json:"id"` // unlike every other archive's
	Encryption string `json:"encryption"`
	// Key is an age file for the recipients, with keyLength random bytes.
	Key []byte `json:"key,omitempty"`
}

const (
	format         = 1
	encryptionNone = "none"
	encryptionAge  = "age"
)

// Open opens the archive of a group. Errors are ErrNone, ErrKey, ErrForeign, a *DamageError, or the store's.
func Open(ctx context.Context, o Options) (*Archive, error) {
	b, err := readAbout(ctx, o.Store)
	if err != nil {
		return nil, err
	}
	if b.Group != o.Group {
		return nil, fmt.Errorf("%w: %s is of group %q", ErrForeign, o.Store, b.Group)
	}
	var secret []byte
	if b.Encryption == encryptionAge {
		secret, err = unwrapKey(b.Key, o.Identities)
		if errors.Is(err, ErrKey) {
			return nil, err
		}
		if err != nil {
			return nil, &DamageError{Object: aboutObject, Reason: "its key: " + err.Error()}
		}
	}
	return open(ctx, o, b, secret)
}

// readAbout reads what archive is in a store.
func readAbout(ctx context.Context, s store.Store) (b about, err error) {
	raw, err := s.Get(ctx, aboutObject, 0, -1)
	if errors.Is(err, store.ErrNotFound) {
		return b, fmt.Errorf("%w: %s", ErrNone, s)
	}
	if err != nil {
		return b, err
	}
	if b, err = parseAbout(raw); err != nil {
		return b, &DamageError{Object: aboutObject, Reason: err.Error()}
	}
	return b, nil
}

// present returns an error unless the store still has the archive that was opened. Where its file system isn't mounted any more, or its bucket was
// made anew, points would otherwise be written that nobody can open.
func (a *Archive) present(ctx context.Context) error {
	b, err := readAbout(ctx, a.store)
	if err == nil && b.ID != a.about.ID {
		err = fmt.Errorf("%w: %s has another one now", ErrNone, a.store)
	}
	if err != nil {
		return fmt.Errorf("the archive that was opened: %w: look whether its file system is mounted, its bucket the right one", err)
	}
	return nil
}

func parseAbout(raw []byte) (b about, err error) {
	if err := json.Unmarshal(raw, &b); err != nil {
		return b, err
	}
	switch {
	case b.Format != format:
		return b, fmt.Errorf("it is of format %d, and this version of Farshore knows %d", b.Format, format)
	case b.ID == "":
		return b, errors.New("it has no ID")
	case b.Encryption != encryptionNone && b.Encryption != encryptionAge:
		return b, fmt.Errorf("this version of Farshore doesn't know encryption %q", b.Encryption)
	}
	return b, nil
}

// storeFile is a file of the cache that names the store with the archive that Create opened last.
const storeFile = "store"

// Create opens the archive of a group, or makes it where there is none. Where there was one, as the cache knows, it makes none: the error is
// ErrGone. A disk that isn't mounted looks like that.
func Create(ctx context.Context, o Options) (*Archive, error) {
	a, err := Open(ctx, o)
	if errors.Is(err, ErrNone) {
		a, err = o.create(ctx)
	}
	if err == nil && o.Cache != "" {
		if err := os.WriteFile(filepath.Join(o.Cache, storeFile), []byte(o.Store.String()), 0o600); err != nil {
			return nil, errors.Join(fmt.Errorf("note where the archive is: %w", err), a.Close())
		}
	}
	return a, err
}

// create makes an archive where there is none.
func (o Options) create(ctx context.Context) (_ *Archive, err error) {
	if o.Cache != "" {
		if last, err := os.ReadFile(filepath.Join(o.Cache, storeFile)); err == nil && string(last) == o.Store.String() {
			return nil, fmt.Errorf("%w: %s; is its disk mounted? To begin a new one remove %s", ErrGone, o.Store, o.Cache)
		}
	}
	for info, err := range o.Store.List(ctx, "") { // a key that something was encrypted with must not be replaced
		if err != nil {
			return nil, fmt.Errorf("make the archive: %w", err)
		}
		return nil, fmt.Errorf("%w: %s has no %s, but %s; is its disk mounted? To begin a new one name another place", ErrGone, o.Store, aboutObject, info.Name)
	}
	b := about{Format: format, Group: o.Group, ID: uuid.NewString(), Encryption: encryptionNone}
	if len(o.Recipients) > 0 {
		secret := make([]byte, keyLength)
		_, _ = rand.Read(secret) // never fails, as crypto/rand says
		b.Encryption = encryptionAge
		if b.Key, err = wrapKey(secret, o.Recipients); err != nil {
			return nil, fmt.Errorf("encrypt the archive's key: %w", err)
		}
	}
	raw, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := o.Store.Put(ctx, aboutObject, raw); err != nil {
		return nil, fmt.Errorf("make the archive: %w", err)
	}
	return Open(ctx, o) // as everybody else will
}

func open(ctx context.Context, o Options, b about, secret []byte) (_ *Archive, err error) {
	a := &Archive{
		store: o.Store, about: b, log: o.Log, times: usualTimes, packTarget: packTarget,
		workers: o.Workers, background: o.Background, requests: o.Requests,
		manifests: make(map[string]manifest), unusable: make(map[string]error),
	}
	if a.workers <= 0 {
		a.workers = max(1, runtime.NumCPU()/2)
	}
	if a.requests <= 0 {
		a.requests = 8
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	a.slots = make(chan struct{}, a.requests)
	k, err := newKeys(secret)
	if err != nil {
		return nil, err
	}
	if a.codec, err = newCodec(k, a.workers); err != nil {
		return nil, err
	}
	if a.index, err = openIndex(o.Cache, b.ID); err != nil {
		return nil, fmt.Errorf("open the archive's index: %w", err)
	}
	if err := a.refresh(ctx); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// Close releases the archive. Nothing else may run.
func (a *Archive) Close() error {
	a.codec.close()
	return a.index.close()
}

// Encrypted tells whether the archive is.
func (a *Archive) Encrypted() bool { return a.about.Encryption != encryptionNone }

// get reads from the store, as soon as fewer requests than the limit are under way.
func (a *Archive) get(ctx context.Context, object string, off, length int64) ([]byte, error) {
	if err := a.acquire(ctx); err != nil {
		return nil, err
	}
	defer a.release()
	return a.store.Get(ctx, object, off, length)
}

// put writes to the store, as soon as fewer requests than the limit are under way.
func (a *Archive) put(ctx context.Context, object string, data []byte) error {
	if err := a.acquire(ctx); err != nil {
		return err
	}
	defer a.release()
	return a.store.Put(ctx, object, data)
}

func (a *Archive) acquire(ctx context.Context) error {
	select {
	case a.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (a *Archive) release() { <-a.slots }
