package archive

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/farshore/farshore/internal/grid"
)

// A pack is one object of the store:
//
//	packMagic     8 bytes, the last one is the version
//	nonce         16 random bytes: no two packs have one name, even if they have the same records; who deletes packs relies on that
//	records       each a chunk, compressed if that makes it shorter, sealed if the archive is encrypted, bound to its ID
//	directory     an entry for each record, in their order; sealed as a whole, bound to packMagic
//	trailer       length of the directory (4 bytes), its CRC-32C (4), both as stored; packMagic (8)
//
// An entry is the ID (32 bytes), the record's length (4), the chunk's length (4) and flags (1). Numbers are little-endian.
// The pack's name is its SHA-256.
const (
	packMagic    = "FSHPACK\x01"
	packHeader   = len(packMagic) + 16
	entryLength  = 32 + 4 + 4 + 1
	trailerBytes = 4 + 4 + 8

	// A pack is closed when it would be longer than packTarget, or have more than packRecords: it has at least 8 MiB then.
	packTarget  = 8<<20 + 2*grid.Chunk
	packRecords = 1 << 14
	packLimit   = 16 << 20 // a longer one is no pack

	flagZstd = 1 // the chunk is compressed
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// packName is the SHA-256 of a pack.
type packName [32]byte

// packs is what the names of packs begin with in the store.
const packs = "packs/"

// object is the pack's name in the store.
func (n packName) object() string {
	s := hex.EncodeToString(n[:])
	return packs + s[:2] + "/" + s
}

// parsePack is object's inverse.
func parsePack(object string) (n packName, ok bool) {
	i := strings.LastIndexByte(object, '/')
	if raw, err := hex.DecodeString(object[i+1:]); err == nil && len(raw) == len(n) {
		n = packName(raw)
	}
	return n, n.object() == object
}

// entry tells of one record of a pack.
type entry struct {
	id     ID
	stored uint32 // bytes of the record
	raw    uint32 // bytes of the chunk
	flags  uint8
}

// valid tells whether there can be such a record.
func (e entry) valid(overhead int) error {
	switch {
	case e.id.IsZero():
		return errors.New("a record has no name")
	case e.raw == 0 || e.raw > grid.Chunk:
		return fmt.Errorf("a chunk of %d bytes", e.raw)
	case e.stored > grid.Chunk+uint32(overhead) || e.stored <= uint32(overhead):
		return fmt.Errorf("a record of %d bytes", e.stored)
	case e.flags&^flagZstd != 0:
		return fmt.Errorf("a record with flags %#x; it may be of a newer version of Farshore", e.flags)
	case e.flags == 0 && e.stored != e.raw+uint32(overhead):
		return fmt.Errorf("a record of %d bytes for %d that are not compressed", e.stored, e.raw)
	}
	return nil
}

func appendEntry(dst []byte, e entry) []byte {
	dst = append(dst, e.id[:]...)
	dst = binary.LittleEndian.AppendUint32(dst, e.stored)
	dst = binary.LittleEndian.AppendUint32(dst, e.raw)
	return append(dst, e.flags)
}

// appendHeader begins a pack.
func appendHeader(dst []byte) []byte {
	dst = append(dst, packMagic...)
	n := len(dst)
	dst = append(dst, make([]byte, packHeader-len(packMagic))...)
	_, _ = rand.Read(dst[n:]) // never fails, as crypto/rand says
	return dst
}

// appendDirectory ends a pack whose header and records are in dst.
func appendDirectory(dst []byte, entries []entry, k *keys) []byte {
	plain := make([]byte, 0, len(entries)*entryLength)
	for _, e := range entries {
		plain = appendEntry(plain, e)
	}
	n := len(dst)
	dst = k.seal(dst, plain, []byte(packMagic))
	dir := dst[n:]
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(dir)))
	dst = binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dir, castagnoli))
	return append(dst, packMagic...)
}

// directoryLength tells from a pack's last trailerBytes how long its directory is, as stored.
func directoryLength(trailer []byte, size int64, k *keys) (int64, error) {
	if len(trailer) != trailerBytes || size > packLimit {
		return 0, errors.New("it is no pack")
	}
	if got := trailer[8:]; string(got) != packMagic {
		if bytes.HasPrefix(got, []byte(packMagic[:7])) {
			return 0, fmt.Errorf("it is a pack of version %d, which this version of Farshore doesn't know", got[7])
		}
		return 0, errors.New("its end is not a pack's")
	}
	n := int64(binary.LittleEndian.Uint32(trailer))
	if n > packRecords*entryLength+int64(k.overhead()) || n > size-trailerBytes-int64(packHeader) {
		return 0, fmt.Errorf("its directory has %d bytes", n)
	}
	return n, nil
}

// parseDirectory decodes the end of a pack of size bytes: directory and trailer.
func parseDirectory(end []byte, size int64, k *keys) ([]entry, error) {
	if len(end) < trailerBytes {
		return nil, errors.New("it is no pack")
	}
	dir, trailer := end[:len(end)-trailerBytes], end[len(end)-trailerBytes:]
	n, err := directoryLength(trailer, size, k)
	if err != nil {
		return nil, err
	}
	if n != int64(len(dir)) || crc32.Checksum(dir, castagnoli) != binary.LittleEndian.Uint32(trailer[4:]) {
		return nil, errors.New("its directory is altered")
	}
	plain, err := k.open(nil, dir, []byte(packMagic))
	if err != nil {
		return nil, fmt.Errorf("its directory: %w", err)
	}
	if len(plain)%entryLength != 0 {
		return nil, fmt.Errorf("its directory has %d bytes", len(plain))
	}
	entries := make([]entry, 0, len(plain)/entryLength)
	at := int64(packHeader)
	for ; len(plain) > 0; plain = plain[entryLength:] {
		e := entry{
			id:     ID(plain[:32]),
			stored: binary.LittleEndian.Uint32(plain[32:]),
			raw:    binary.LittleEndian.Uint32(plain[36:]),
			flags:  plain[40],
		}
		if err := e.valid(k.overhead()); err != nil {
			return nil, err
		}
		at += int64(e.stored)
		entries = append(entries, e)
	}
	if at+n+trailerBytes != size {
		return nil, fmt.Errorf("it has %d bytes, and its directory tells of %d", size, at+n+trailerBytes)
	}
	return entries, nil
}
