package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"filippo.io/age"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/internal/s3rig"
	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/archive/store"
)

// What a s3load does at the moment.
const (
	resting = iota
	uploading
	restoring
)

const s3Size = 48<<20 + 12345 // bytes of the volume

// s3load archives a volume again and again, half of it changed between two points, and restores what it archived.
type s3load struct {
	archive *archive.Archive
	random  *rand.Rand
	image   []byte
	points  []archive.Point
	sums    map[uint64][sha256.Size]byte // of the image, by barrier

	phase atomic.Int32
	bytes atomic.Int64 // that passed in this phase
	stop  atomic.Bool  // after this round
}

func (l *s3load) begin(phase int32) {
	l.bytes.Store(0)
	l.phase.Store(phase)
}

// run goes on until stop is set. Nothing it does fails: a store that is away is waited for.
func (l *s3load) run(ctx context.Context) error {
	for barrier := uint64(1); !l.stop.Load(); barrier++ {
		if err := l.put(ctx, barrier); err != nil {
			return fmt.Errorf("archive point %d: %w", barrier, err)
		}
		for _, p := range []archive.Point{l.points[len(l.points)-1], l.points[l.random.IntN(len(l.points))]} {
			if err := l.get(ctx, p); err != nil {
				return fmt.Errorf("restore point %d: %w", p.Barrier, err)
			}
		}
	}
	return nil
}

func (l *s3load) put(ctx context.Context, barrier uint64) (err error) {
	source := archive.Source{Name: "ledger", Size: int64(len(l.image)), Image: bytes.NewReader(l.image), Progress: func(n int64) { l.bytes.Add(n) }}
	if len(l.points) > 0 {
		source.Before = l.points[len(l.points)-1].Part("ledger")
		source.Changed = grid.New(source.Size)
		for range len(l.image) / 2 / grid.Chunk {
			off := l.random.IntN(len(l.image))
			n := min(1+l.random.IntN(2*grid.Chunk), len(l.image)-off)
			fill(l.random, l.image[off:off+n])
			source.Changed.Mark(int64(off), int64(n))
		}
	}
	l.begin(uploading)
	defer l.begin(resting)
	run, err := l.archive.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, run.Close()) }()
	part, err := run.Add(ctx, source)
	if err != nil {
		return err
	}
	p, err := run.Commit(ctx, archive.Point{Barrier: barrier, Time: time.Now(), Kind: "test", Parts: []archive.Part{part}, Set: []byte("{}")})
	if err != nil {
		return err
	}
	l.points = append(l.points, p)
	l.sums[barrier] = sha256.Sum256(l.image)
	return nil
}

func (l *s3load) get(ctx context.Context, p archive.Point) error {
	l.begin(restoring)
	defer l.begin(resting)
	sum, err := restored(ctx, l.archive, p, func(n int64) { l.bytes.Add(n) })
	if err == nil && sum != l.sums[p.Barrier] {
		err = harness.ErrWrong
	}
	return err
}

func fill(random *rand.Rand, b []byte) {
	for i := range b {
		if i%8 == 0 {
			for j, r := 0, random.Uint64(); j < 8 && i+j < len(b); j++ {
				b[i+j] = byte(r >> (8 * j))
			}
		}
	}
}

// memorySink is a volume in memory that was never written.
type memorySink []byte

// WriteAt implements archive.Sink.
func (m memorySink) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

// Zero implements archive.Sink.
func (m memorySink) Zero(off, length int64) error {
	clear(m[off : off+length])
	return nil
}

func restored(ctx context.Context, a *archive.Archive, p archive.Point, progress func(int64)) (sum [sha256.Size]byte, err error) {
	part := p.Part("ledger")
	into := make(memorySink, part.Size)
	fill(rand.New(rand.NewPCG(0, 0)), into) // what isn't restored shows
	if err := a.Restore(ctx, *part, archive.RestoreOptions{Sink: into, Progress: progress}); err != nil {
		return sum, err
	}
	return sha256.Sum256(into), nil
}

// killed kills the server in the middle of uploads and of restores, as often each, and starts it again.
func (l *s3load) killed(t *testing.T, server *s3rig.Server, times int, ended <-chan error) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	hit := make(map[int32]int)
	for hit[uploading] < times || hit[restoring] < times {
		phase := int32(uploading)
		if hit[uploading] > hit[restoring] {
			phase = restoring
		}
		for at := l.random.Int64N(s3Size / 3); l.phase.Load() != phase || l.bytes.Load() < at; {
			select {
			case err := <-ended:
				t.Fatalf("it ended before the server was killed: %v", err)
			case <-tick.C:
			}
		}
		server.Kill()
		if l.phase.Load() == phase {
			hit[phase]++
		}
		<-time.After(upTo(l.random, 500*time.Millisecond)) // how long it is away is the fault itself
		server.Restart()
	}
}

// The object store is killed with SIGKILL in the middle of uploads and restores and started again. Nothing fails: the archive waits. In the
// end every point restores to what was archived, also for one who comes with nothing but an identity, and none of it can be read in the bucket.
func TestObjectStoreKilled(t *testing.T) {
	for _, name := range s3rig.Stores() {
		t.Run(name, func(t *testing.T) {
			const kills = 4 // in uploads, and as many in restores
			random := harness.Seeded(t)
			identity, err := age.GenerateX25519Identity()
			if err != nil {
				t.Fatal(err)
			}
			server := s3rig.Start(t, name)
			o := server.Bucket("archive")
			said := new(bytes.Buffer)
			options := archive.Options{
				Store: waiting(t, o, slog.New(slog.NewTextHandler(said, nil))), Group: "bank", Cache: t.TempDir(),
				Recipients: []age.Recipient{identity.Recipient()}, Identities: []age.Identity{identity},
			}
			l := &s3load{random: rand.New(rand.NewPCG(random.Uint64(), 0)), image: make([]byte, s3Size), sums: make(map[uint64][sha256.Size]byte)}
			if l.archive, err = archive.Create(t.Context(), options); err != nil {
				t.Fatal(err)
			}
			fill(random, l.image[:s3Size/2]) // the rest are zeros
			ended := make(chan error, 1)
			go func() { ended <- l.run(t.Context()) }()
			l.killed(t, server, kills, ended)
			l.stop.Store(true)
			if err := errors.Join(<-ended, l.archive.Close()); err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(said.Bytes(), []byte("waiting for the store")) || !bytes.Contains(said.Bytes(), []byte("the store is back")) {
				t.Errorf("nobody was told that the store was away:\n%s", said)
			}
			t.Logf("%d points", len(l.points))
			options.Cache = ""
			l.check(t, options)
			l.hidden(t, options.Store)
		})
	}
}

// waiting is a group's store in a bucket, as the programs open it.
func waiting(t *testing.T, o store.S3Options, log *slog.Logger) store.Store {
	t.Helper()
	s3, err := store.NewS3(o)
	if err != nil {
		t.Fatal(err)
	}
	return store.Sub(store.NewRetry(s3, store.RetryOptions{Log: log}), "bank")
}

// check opens the archive anew: every point is there and right, and it opens for nobody else.
func (l *s3load) check(t *testing.T, o archive.Options) {
	t.Helper()
	a, err := archive.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}()
	points, damaged, err := a.Points(t.Context())
	if err != nil || len(damaged) > 0 || len(points) != len(l.points) {
		t.Fatalf("%d points of %d, damaged %v, error %v", len(points), len(l.points), damaged, err)
	}
	for _, p := range points {
		if sum, err := restored(t.Context(), a, p, nil); err != nil || sum != l.sums[p.Barrier] {
			t.Errorf("point %d: restored right %t, error %v", p.Barrier, sum == l.sums[p.Barrier], err)
		}
	}
	checked, err := a.Check(t.Context(), archive.CheckOptions{ReadData: 1})
	if err != nil || len(checked.Damaged) > 0 || checked.Points != len(points) || checked.Read != checked.Packs {
		t.Errorf("checked: %+v, error %v", checked, err)
	}
	stranger, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	o.Identities = []age.Identity{stranger}
	if _, err := archive.Open(t.Context(), o); !errors.Is(err, archive.ErrKey) {
		t.Errorf("opened with another identity: %v", err)
	}
}

// hidden fails if content of the volume can be read in the store.
func (l *s3load) hidden(t *testing.T, s store.Store) {
	t.Helper()
	n := 0
	for info, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		data, err := s.Get(t.Context(), info.Name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		for off := 0; off < len(l.image)/2; off += 5 * grid.Chunk {
			if bytes.Contains(data, l.image[off:off+32]) {
				t.Errorf("%s has what the volume has at %d", info.Name, off)
			}
		}
		n++
	}
	if n < len(l.points) {
		t.Errorf("the store lists %d objects", n)
	}
}

// What somebody has to do something about ends an operation at once, however long a store is waited for.
func TestObjectStoreRefuses(t *testing.T) {
	for _, name := range s3rig.Stores() {
		t.Run(name, func(t *testing.T) {
			server := s3rig.Start(t, name)
			good := server.Bucket("archive")
			good.Region = "us-east-1"
			refused := func(what string, o store.S3Options, want error) {
				t.Helper()
				options := archive.Options{Store: waiting(t, o, nil), Group: "bank"}
				for how, open := range map[string]func(context.Context, archive.Options) (*archive.Archive, error){"open": archive.Open, "create": archive.Create} {
					if a, err := open(t.Context(), options); !errors.Is(err, want) {
						t.Errorf("%s, %s: %v, error %v, want %v", what, how, a, err, want)
					}
				}
			}
			o := good
			o.Credentials = s3rig.WriteKeys(t, s3rig.AccessKey, "another secret")
			refused("wrong secret", o, store.ErrDenied)
			o = good
			o.Bucket = "another"
			refused("no bucket", o, store.ErrNoBucket)
			if _, err := archive.Open(t.Context(), archive.Options{Store: waiting(t, good, nil), Group: "bank"}); !errors.Is(err, archive.ErrNone) {
				t.Errorf("an empty bucket: %v", err)
			}
			synctest.Test(t, func(t *testing.T) { // here it is the year 2000, and requests are signed for it
				_, err := archive.Open(t.Context(), archive.Options{Store: waiting(t, good, nil), Group: "bank"})
				if !errors.Is(err, store.ErrClockSkew) {
					t.Errorf("a clock that is off: %v", err)
				}
				server.Kill() // connections end, and with them what would outlive the bubble
			})
		})
	}
}
