package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/farshore/farshore/internal/grid"
)

var update = flag.Bool("update", false, "write the golden files of formats anew")

// golden compares bytes with a file of hexadecimal digits.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	name = filepath.Join("testdata", name)
	var digits bytes.Buffer
	for line := range slices.Chunk(got, 32) {
		digits.WriteString(hex.EncodeToString(line) + "\n")
	}
	if *update {
		if err := os.WriteFile(name, digits.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(digits.Bytes(), want) {
		t.Errorf("the format of %s changed: archives that are there can't be read any more\n%s", name, digits.Bytes())
	}
}

func secret() []byte {
	s := make([]byte, keyLength)
	for i := range s {
		s[i] = byte(i)
	}
	return s
}

func testCodec(t testing.TB, secret []byte) *codec {
	t.Helper()
	k, err := newKeys(secret)
	if err != nil {
		t.Fatal(err)
	}
	c, err := newCodec(k, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

// testPack is a pack of some chunks, with a header that isn't random.
func testPack(c *codec, chunks ...[]byte) (pack []byte, entries []entry) {
	pack = append([]byte(packMagic), "sixteen bytes..."...)
	for _, chunk := range chunks {
		var e entry
		pack, e = c.sealRecord(pack, c.id(chunk), chunk)
		entries = append(entries, e)
	}
	return appendDirectory(pack, entries, c.keys), entries
}

func testPoint() *Point {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	return &Point{
		Barrier: 42, Time: at, Kind: "manual", Label: "before the upgrade", Created: at.Add(time.Minute), Added: 1 << 20,
		Parts: []Part{
			{Name: "bank-0", Size: 1 << 30, Root: sha256.Sum256([]byte("root")), Data: 1 << 20},
			{Name: "empty", Size: 1 << 20},
		},
		Set: json.RawMessage(`{"vector":{"bank-0":7}}`),
	}
}

func TestFormats(t *testing.T) {
	t.Parallel()
	plain, sealed := testCodec(t, nil), testCodec(t, secret())
	chunk := []byte("a chunk that does not compress")

	pack, entries := testPack(plain, chunk, []byte("x"))
	golden(t, "pack.hex", pack)
	got, err := parseDirectory(pack[len(pack)-trailerBytes-2*entryLength:], int64(len(pack)), plain.keys)
	if err != nil || !slices.Equal(got, entries) {
		t.Errorf("the directory is %+v, %v, want %+v", got, err, entries)
	}
	if object := packName(sha256.Sum256(pack)).object(); len(object) != len("packs/00/")+64 {
		t.Errorf("a pack is named %s", object)
	}

	manifest, err := encodePoint(testPoint(), plain.keys)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "point.hex", manifest)

	// What is sealed has a random nonce; names have none.
	id := sealed.id(chunk)
	golden(t, "id.hex", id[:])
	if id == plain.id(chunk) {
		t.Error("names in an encrypted archive tell what is in it")
	}
	record, err := hex.DecodeString(goldenRecord)
	if err != nil {
		t.Fatal(err)
	}
	e := entry{id: id, stored: uint32(len(record)), raw: uint32(len(chunk))}
	if got, err := sealed.openRecord(nil, record, e); err != nil || !bytes.Equal(got, chunk) {
		t.Errorf("a record is opened to %q, %v", got, err)
	}
}

// goldenRecord is a sealed record, as a version wrote it.
const goldenRecord = "8239238f33e86cc116f5b33236939f4e573bafd701512adf8e521a1ad690f0f74d2d3b19a464b28c782be5875b375031df0b55ec24fea967973ff0451d7f548849ec14e558e4"

// A bit of a pack or a manifest that is another one is noticed, whichever it is.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	for name, secret := range map[string][]byte{"plain": nil, "encrypted": secret()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := testCodec(t, secret)
			chunks := [][]byte{bytes.Repeat([]byte("compresses"), 100), []byte("does not")}
			pack, entries := testPack(c, chunks...)
			directory := len(entries)*entryLength + c.overhead() + trailerBytes
			for bit := range len(pack) * 8 {
				bad := bytes.Clone(pack)
				bad[bit/8] ^= 1 << (bit % 8)
				if bit/8 >= len(pack)-directory {
					if _, err := parseDirectory(bad[len(pack)-directory:], int64(len(pack)), c.keys); err == nil {
						t.Fatalf("nobody notices that bit %d of the directory is another one", bit)
					}
				}
				at := packHeader
				for i, e := range entries {
					got, err := c.openRecord(nil, bad[at:at+int(e.stored)], e)
					if err == nil && !bytes.Equal(got, chunks[i]) {
						t.Fatalf("nobody notices that bit %d of a record is another one", bit)
					}
					at += int(e.stored)
				}
			}
			manifest, err := encodePoint(testPoint(), c.keys)
			if err != nil {
				t.Fatal(err)
			}
			for bit := range len(manifest) * 8 {
				bad := bytes.Clone(manifest)
				bad[bit/8] ^= 1 << (bit % 8)
				if _, err := decodePoint(bad, 42, c.keys); err == nil {
					t.Fatalf("nobody notices that bit %d of a manifest is another one", bit)
				}
			}
			for n := range manifest {
				if _, err := decodePoint(manifest[:n], 42, c.keys); err == nil {
					t.Fatalf("nobody notices that a manifest is %d bytes long", n)
				}
			}
			if _, err := decodePoint(manifest, 43, c.keys); err == nil {
				t.Error("a manifest is taken for another point's")
			}
		})
	}
}

// allocated tells how many bytes a function allocates; other tests' are among them, so it is a little too much.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// bounded fails where decoding allocates much more than it was given.
func bounded(t *testing.T, given int, f func()) {
	t.Helper()
	if n := allocated(f); n > 1<<20+uint64(given)*64 {
		t.Fatalf("%d bytes are decoded to %d", given, n)
	}
}

func FuzzDirectory(f *testing.F) {
	plain, sealed := testCodec(f, nil), testCodec(f, secret())
	for _, c := range []*codec{plain, sealed} {
		pack, _ := testPack(c, []byte("one"), bytes.Repeat([]byte("two"), 100))
		f.Add(pack[len(pack)-trailerBytes-2*entryLength-c.overhead():], int64(len(pack)))
	}
	f.Fuzz(func(t *testing.T, end []byte, size int64) {
		for _, c := range []*codec{plain, sealed} {
			bounded(t, len(end), func() {
				entries, err := parseDirectory(end, size, c.keys)
				if err != nil {
					return
				}
				for _, e := range entries {
					if e.raw > grid.Chunk || e.id.IsZero() || int64(e.stored) > size {
						t.Errorf("there can't be such a record: %+v", e)
					}
				}
			})
		}
	})
}

func FuzzPoint(f *testing.F) {
	plain, sealed := testCodec(f, nil), testCodec(f, secret())
	for _, c := range []*codec{plain, sealed} {
		manifest, err := encodePoint(testPoint(), c.keys)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(manifest)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, c := range []*codec{plain, sealed} {
			bounded(t, len(raw), func() {
				p, err := decodePoint(raw, 42, c.keys)
				if err == nil && (p.Barrier != 42 || p.valid() != nil) {
					t.Errorf("there can't be such a point: %+v", p)
				}
			})
		}
	})
}

func FuzzAbout(f *testing.F) {
	f.Add([]byte(`{"format":1,"group":"bank","id":"x","encryption":"none"}`))
	f.Add([]byte(`{"format":1,"group":"bank","id":"x","encryption":"age","key":"AAAA"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		bounded(t, len(raw), func() {
			b, err := parseAbout(raw)
			if err == nil && (b.ID == "" || b.Format != format) {
				t.Errorf("there can't be such an archive: %+v", b)
			}
			if err == nil {
				_, _ = unwrapKey(b.Key, nil)
			}
		})
	})
}

func FuzzNode(f *testing.F) {
	ids := make([]ID, fanout)
	ids[3] = ID{1}
	f.Add(encodeNode(nil, ids), int64(100))
	f.Add([]byte("short"), int64(1))
	f.Fuzz(func(t *testing.T, raw []byte, count int64) {
		bounded(t, len(raw), func() {
			got, err := parseNode(raw, 1, 0, count)
			if err != nil {
				return
			}
			for i, id := range got {
				if int64(i) >= count && !id.IsZero() {
					t.Error("a node has chunks behind the end")
				}
			}
			if !bytes.Equal(encodeNode(nil, got), raw) {
				t.Error("a node is encoded to something else")
			}
		})
	})
}

func FuzzRecord(f *testing.F) {
	plain, sealed := testCodec(f, nil), testCodec(f, secret())
	chunk := bytes.Repeat([]byte("chunk"), 1000)
	for _, c := range []*codec{plain, sealed} {
		record, e := c.sealRecord(nil, c.id(chunk), chunk)
		f.Add(record, e.raw, e.flags)
	}
	f.Fuzz(func(t *testing.T, record []byte, raw uint32, flags uint8) {
		for _, c := range []*codec{plain, sealed} {
			bounded(t, len(record), func() {
				e := entry{id: c.id(chunk), stored: uint32(len(record)), raw: raw, flags: flags}
				if got, err := c.openRecord(nil, record, e); err == nil && !bytes.Equal(got, chunk) {
					t.Error("a record is opened to other bytes than its name says")
				}
			})
		}
	})
}
