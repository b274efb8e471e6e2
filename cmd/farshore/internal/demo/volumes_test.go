package demo

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/farshore/farshore/cmd/farshore/internal/bank"
	"github.com/farshore/farshore/cmd/farshore/internal/sqlitevol"
	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/cdc/nbd"
)

const testSize = 16 << 20

// storage is what two volumes hold, and the one order in which both were written.
type storage struct {
	mu      sync.Mutex
	volumes map[string][]byte
	log     []write
}

type write struct {
	volume string
	off    int64
	data   []byte
	at     time.Time // before it took effect
}

// export is one volume of a storage, as the NBD server sees it.
type export struct {
	*storage
	name string
}

func (e export) Size() int64                 { return testSize }
func (e export) BlockSize() int64            { return 512 }
func (e export) Flush(context.Context) error { return nil }

func (e export) ReadAt(p []byte, off int64) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return copy(p, e.volumes[e.name][off:]), nil
}

func (e export) Write(_ context.Context, p []byte, off int64, _ bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.log = append(e.log, write{e.name, off, slices.Clone(p), time.Now()})
	copy(e.volumes[e.name][off:], p)
	return nil
}

func (e export) Zero(context.Context, int64, int64, cdc.ZeroOptions) error { return nil }
func (e export) Trim(context.Context, int64, int64, bool) error            { return nil }
func (e export) Segments(off, length int64) ([]cdc.Segment, error) {
	return []cdc.Segment{{Offset: off, Length: length}}, nil
}

// serve serves both volumes over NBD and returns their storage and the function that ends it.
func serve(t *testing.T) (*storage, string, context.CancelFunc) {
	t.Helper()
	s := &storage{volumes: map[string][]byte{ledger: make([]byte, testSize), settlement: make([]byte, testSize)}}
	server := nbd.NewServer(nbd.Options{})
	for name := range s.volumes {
		server.AddExport(name, export{s, name}, false)
	}
	dir, err := os.MkdirTemp("", "fsd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "nbd.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s, socket, cancel
}

// Two databases over NBD whose clients die in mid-write, and every cut through both volumes at a
// write: each database is whole, the two fit, and they hold what was acknowledged before the cut.
func TestDatabasesOverNBDAtAnyCut(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	plan := bank.Plan{Seed: seed, Accounts: 20, Customers: 50, Window: 4}
	stored, socket, _ := serve(t)
	source := make(map[string]*database)
	for _, name := range []string{ledger, settlement} {
		db, err := dial(t.Context(), socket, name)
		if err != nil {
			t.Fatal(err)
		}
		source[name] = db
	}
	log := bank.NewLog(io.Discard)
	b, err := bank.Create(plan, source[ledger].Conn, source[settlement].Conn, log, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	stored.mu.Lock()
	created := len(stored.log)
	stored.mu.Unlock()
	ended := make(chan error, 1)
	go func() { ended <- b.Run(t.Context()) }()
	for log.Acknowledged(bank.Credit) < int64(100+random.IntN(100)) {
		time.Sleep(time.Millisecond)
	}
	for _, db := range source {
		db.sever()
	}
	if err := <-ended; err == nil {
		t.Error("the workload did not notice that its volumes are gone")
	}
	for _, db := range source {
		db.close()
	}
	stored.mu.Lock()
	defer stored.mu.Unlock()
	cuts := []int{created, len(stored.log)}
	for range 20 {
		cuts = append(cuts, created+random.IntN(len(stored.log)-created))
	}
	for _, n := range cuts {
		checkCut(t, stored.log, n, plan, log)
	}
}

// checkCut opens what both volumes hold behind the first n writes and checks it.
func checkCut(t *testing.T, log []write, n int, plan bank.Plan, acknowledged *bank.Log) {
	t.Helper()
	content := map[string][]byte{ledger: make([]byte, testSize), settlement: make([]byte, testSize)}
	for _, w := range log[:n] {
		copy(content[w.volume][w.off:], w.data)
	}
	opened := make(map[string]*database)
	for name, c := range content {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, c, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := openRecovered(path, fmt.Sprintf("cut-%d-%s", n, name))
		if err != nil {
			t.Fatalf("cut behind write %d: %v", n, err)
		}
		defer db.close()
		opened[name] = db
	}
	contents, checks := bank.Inspect(plan, opened[ledger].Conn, opened[settlement].Conn)
	if n < len(log) {
		checks = append(checks, contents.AtTime(acknowledged, log[n].at)...)
	}
	for _, c := range checks {
		if !c.OK {
			t.Errorf("cut behind write %d of %d: %s: %s", n, len(log), c.Name, c.Detail)
		}
	}
}

func TestOpenFails(t *testing.T) {
	if _, err := dial(t.Context(), filepath.Join(t.TempDir(), "none.sock"), ledger); err == nil {
		t.Error("dial without a server succeeded")
	}
	_, socket, _ := serve(t)
	if _, err := dial(t.Context(), socket, "unknown"); err == nil {
		t.Error("dial of an unknown export succeeded")
	}
	path := filepath.Join(t.TempDir(), "volume")
	foreign := make([]byte, sqlitevol.MinSize)
	copy(foreign, "not a volume")
	if err := os.WriteFile(path, foreign, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openRecovered(path, "foreign"); err == nil {
		t.Error("a file that is no volume was opened")
	}
}
