package archive

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/farshore/farshore/internal/durable"
)

// index knows where chunks lie. It is a cache of the directories of packs: what is lost of it is read from the store again.
//
// Packs have numbers, which are never given twice:
//
//	meta      archive      → the archive's ID, and the index's format
//	packs     number       → name, size
//	names     name         → number
//	chunks    ID, number   → offset, lengths, flags, which of the pack's records it is, CRC-32C of all that and of the pack's name
//
// Chunks of packs that aren't in packs don't count. Methods may be called concurrently.
type index struct {
	name    string // of the file
	archive string
	dir     string    // to be removed in the end; "": none is
	lock    io.Closer // keeps others out of a directory that stays

	mu  sync.RWMutex // held shared by who uses db
	db  *bolt.DB     // nil: it could not be made anew
	bad atomic.Bool  // it turned out to be damaged
	new atomic.Bool  // it was empty when it was opened
}

// place is where a chunk lies.
type place struct {
	entry
	pack   packName
	off    int64 // of the record in the pack
	number int   // of the record, from 0
}

// packed is a pack in the store, and what is in it.
type packed struct {
	name    packName
	size    int64
	entries []entry
}

const (
	indexFile   = "index.db"
	indexLock   = "index.lock"
	indexFormat = "3 "

	chunkValue = 4 + 4 + 4 + 1 + 2 + 4
)

var (
	metaBucket  = []byte("meta")
	packsBucket = []byte("packs")
	namesBucket = []byte("names")
	chunkBucket = []byte("chunks")
	metaKey     = []byte("archive")
)

// errIndex means that the index can't be used; renew makes it anew.
var errIndex = errors.New("the archive's index is damaged")

// errTaken means that another process has the index, or another archive of this one.
var errTaken = errors.New("the index is in use")

// openIndex opens the index of an archive in a directory, and makes it where there is none, or one that can't be used. One that
// is in use is left to who uses it: then the index is in a directory of its own, as it is with no directory.
func openIndex(dir, archive string) (*index, error) {
	if dir != "" {
		if err := durable.MkdirAll(dir); err != nil {
			return nil, err
		}
		lock, err := durable.Lock(filepath.Join(dir, indexLock), false, errTaken)
		if err == nil {
			return openLocked(dir, archive, lock)
		}
		if !errors.Is(err, errTaken) {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp("", "farshore-archive-*")
	if err != nil {
		return nil, err
	}
	x := &index{name: filepath.Join(dir, indexFile), archive: archive, dir: dir}
	if err := x.open(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return x, nil
}

// openLocked opens the index in a directory that nobody else uses. The index closes the lock.
func openLocked(dir, archive string, lock io.Closer) (*index, error) {
	x := &index{name: filepath.Join(dir, indexFile), archive: archive, lock: lock}
	err := unseal(x.name)
	if err == nil {
		err = x.open()
	}
	if err != nil {
		err = x.renew()
	}
	if err != nil {
		return nil, errors.Join(err, x.close())
	}
	return x, nil
}

func (x *index) open() error {
	return guard(func() error {
		db, err := bolt.Open(x.name, 0o600, &bolt.Options{
			Timeout: 500 * time.Millisecond, FreelistType: bolt.FreelistMapType,
			NoSync: x.dir != "", // nobody opens that one again
		})
		if err != nil {
			return err
		}
		x.db = db
		err = db.Update(func(tx *bolt.Tx) error {
			for _, b := range [][]byte{metaBucket, packsBucket, namesBucket, chunkBucket} {
				if _, err := tx.CreateBucketIfNotExists(b); err != nil {
					return err
				}
			}
			want := []byte(indexFormat + x.archive)
			meta := tx.Bucket(metaBucket)
			got := meta.Get(metaKey)
			if k, _ := tx.Bucket(packsBucket).Cursor().First(); !bytes.Equal(got, want) && (got != nil || k != nil) {
				return errIndex // it is of another archive, or format
			}
			x.new.Store(got == nil)
			if got == nil { // numbers of packs that go on from no index before
				if err := tx.Bucket(packsBucket).SetSequence(uint64(time.Now().UnixNano())); err != nil {
					return err
				}
			}
			return meta.Put(metaKey, want)
		})
		return err
	})
}

// renew makes an empty index.
func (x *index) renew() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.db != nil {
		_ = guard(x.db.Close) // it is thrown away
		x.db = nil
	}
	if err := os.Remove(x.name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	x.bad.Store(false)
	return x.open()
}

// guard turns what bbolt makes of a damaged file, panics and faults, into an error.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errIndex, p)
		}
	}()
	return f()
}

func (x *index) view(f func(tx *bolt.Tx) error) error {
	return x.use(func() error { return x.db.View(f) })
}

// update is durable when it returns.
func (x *index) update(f func(tx *bolt.Tx) error) error {
	return x.use(func() error { return x.db.Update(f) })
}

func (x *index) use(f func() error) error {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.db == nil {
		return errIndex
	}
	err := guard(f)
	if errors.Is(err, errIndex) {
		x.bad.Store(true)
	}
	return err
}

// close closes the index. One that is whole is sealed, one that is damaged is removed.
func (x *index) close() (err error) {
	if x.db != nil {
		err = guard(x.db.Close)
	}
	if x.dir != "" {
		return errors.Join(err, os.RemoveAll(x.dir))
	}
	switch {
	case err != nil || x.bad.Load():
		_ = os.Remove(x.name) // the next one finds what is wrong with it too
	case x.db != nil:
		_ = seal(x.name) // without a seal it is as after a kill
	}
	return errors.Join(err, x.lock.Close())
}

func packKey(number uint64) []byte { return binary.BigEndian.AppendUint64(nil, number) }

func packValue(name packName, size int64) []byte {
	return binary.LittleEndian.AppendUint64(bytes.Clone(name[:]), uint64(size))
}

func parsePackValue(v []byte) (name packName, size int64, err error) {
	if len(v) != len(name)+8 {
		return name, 0, errIndex
	}
	return packName(v[:32]), int64(binary.LittleEndian.Uint64(v[32:])), nil
}

// indexBatch is how many chunks are added at once. They are anywhere in the index: each may take a page of it, in memory until the
// transaction is durable; four times as many took 179 MiB at the peak of an archived 8 GiB, instead of 152.
const indexBatch = 1 << 10

// add makes the chunks of packs known, durably. Packs that are known stay as they are.
func (x *index) add(packs ...packed) error {
	for len(packs) > 0 {
		n, chunks := 1, len(packs[0].entries)
		for n < len(packs) && chunks+len(packs[n].entries) <= indexBatch {
			chunks += len(packs[n].entries)
			n++
		}
		if err := x.addAtOnce(packs[:n]); err != nil {
			return err
		}
		packs = packs[n:]
	}
	return nil
}

func (x *index) addAtOnce(packs []packed) error {
	type record struct{ key, value []byte }
	return x.update(func(tx *bolt.Tx) error {
		names, numbers, chunks := tx.Bucket(namesBucket), tx.Bucket(packsBucket), tx.Bucket(chunkBucket)
		var records []record
		for _, p := range packs {
			if names.Get(p.name[:]) != nil {
				continue
			}
			number, err := numbers.NextSequence()
			if err != nil {
				return err
			}
			key := packKey(number)
			if err := errors.Join(numbers.Put(key, packValue(p.name, p.size)), names.Put(p.name[:], key)); err != nil {
				return err
			}
			off := uint32(packHeader)
			for i, e := range p.entries {
				v := make([]byte, 0, chunkValue)
				v = binary.LittleEndian.AppendUint32(v, off)
				v = binary.LittleEndian.AppendUint32(v, e.stored)
				v = binary.LittleEndian.AppendUint32(v, e.raw)
				v = binary.LittleEndian.AppendUint16(append(v, e.flags), uint16(i)) // there are no more than packRecords
				k := slices.Concat(e.id[:], key)
				records = append(records, record{k, binary.LittleEndian.AppendUint32(v, placeSum(k, v, p.name))})
				off += e.stored
			}
		}
		slices.SortFunc(records, func(a, b record) int { return bytes.Compare(a.key, b.key) })
		for _, r := range records {
			if err := chunks.Put(r.key, r.value); err != nil {
				return err
			}
		}
		return nil
	})
}

// placeSum is what the key of a chunk's place, its value before the checksum and the pack's name add up to: what prunes delete depends on them.
func placeSum(key, value []byte, pack packName) uint32 {
	return crc32.Update(crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value), castagnoli, pack[:])
}

// find gives every place of each ID, until give returns false for it.
func (x *index) find(ids []ID, give func(i int, p place) bool) error {
	return x.view(func(tx *bolt.Tx) error {
		numbers, c := tx.Bucket(packsBucket), tx.Bucket(chunkBucket).Cursor()
		for i, id := range ids {
			for k, v := c.Seek(id[:]); bytes.HasPrefix(k, id[:]); k, v = c.Next() {
				if len(k) != len(id)+8 || len(v) != chunkValue {
					return errIndex
				}
				pack := numbers.Get(k[len(id):])
				if pack == nil {
					continue
				}
				name, _, err := parsePackValue(pack)
				if err != nil {
					return err
				}
				p := place{pack: name, off: int64(binary.LittleEndian.Uint32(v)), number: int(binary.LittleEndian.Uint16(v[13:])), entry: entry{
					id:     id,
					stored: binary.LittleEndian.Uint32(v[4:]),
					raw:    binary.LittleEndian.Uint32(v[8:]),
					flags:  v[12],
				}}
				if sum := v[chunkValue-4:]; placeSum(k, v[:chunkValue-4], name) != binary.LittleEndian.Uint32(sum) {
					return errIndex
				}
				if !give(i, p) {
					break
				}
			}
		}
		return nil
	})
}

// difference compares the index with what packs there are in the store, by ascending names: missing are those that it doesn't
// know, or knows with another size; gone are those that it alone knows, among those with numbers up to newest.
func (x *index) difference(there []packed, newest uint64) (missing []packed, gone []packName, err error) {
	err = x.view(func(tx *bolt.Tx) error {
		numbers, c := tx.Bucket(packsBucket), tx.Bucket(namesBucket).Cursor()
		k, v := c.First()
		step := func() error { // past what is in the index alone
			if number := binary.BigEndian.Uint64(v); number <= newest {
				gone = append(gone, packName(k))
			}
			k, v = c.Next()
			return nil
		}
		for _, p := range there {
			for k != nil && bytes.Compare(k, p.name[:]) < 0 {
				if err := step(); err != nil {
					return err
				}
			}
			if !bytes.Equal(k, p.name[:]) {
				missing = append(missing, p)
				continue
			}
			_, size, err := parsePackValue(numbers.Get(v))
			if err != nil {
				return err
			}
			if size != p.size {
				missing, gone = append(missing, p), append(gone, p.name)
			}
			k, v = c.Next()
		}
		for k != nil {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
	return missing, gone, err
}

// newest is the last number that was given to a pack.
func (x *index) newest() (n uint64, err error) {
	err = x.view(func(tx *bolt.Tx) error {
		n = tx.Bucket(packsBucket).Sequence()
		return nil
	})
	return n, err
}

// drop forgets packs, and what is known of their chunks.
func (x *index) drop(names []packName) error {
	if len(names) == 0 {
		return nil
	}
	gone := make(map[string]bool)
	err := x.update(func(tx *bolt.Tx) error {
		numbers, byName := tx.Bucket(packsBucket), tx.Bucket(namesBucket)
		for _, n := range names {
			key := bytes.Clone(byName.Get(n[:]))
			if key == nil {
				continue
			}
			gone[string(key)] = true
			if err := errors.Join(numbers.Delete(key), byName.Delete(n[:])); err != nil {
				return err
			}
		}
		return nil
	})
	var from []byte
	for err == nil && len(gone) > 0 {
		if from, err = x.sweep(gone, from); from == nil {
			break
		}
	}
	return err
}

// sweep removes some chunks of packs that are gone, from a key on, and returns the key to go on from; nil: that was all.
func (x *index) sweep(gone map[string]bool, from []byte) (next []byte, err error) {
	const looked, removed = 1 << 20, 1 << 14 // at most, in one transaction
	var keys [][]byte
	err = x.view(func(tx *bolt.Tx) error {
		c, n := tx.Bucket(chunkBucket).Cursor(), 0
		for k, _ := c.Seek(from); k != nil; k, _ = c.Next() {
			if n++; n > looked || len(keys) == removed {
				next = bytes.Clone(k)
				return nil
			}
			if len(k) == 40 && gone[string(k[32:])] {
				keys = append(keys, bytes.Clone(k))
			}
		}
		return nil
	})
	if err != nil || len(keys) == 0 {
		return next, err
	}
	err = x.update(func(tx *bolt.Tx) error {
		b := tx.Bucket(chunkBucket)
		for _, k := range keys {
			if err := b.Delete(k); err != nil {
				return err
			}
		}
		return nil
	})
	return next, err
}
