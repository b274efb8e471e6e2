package sqlitevol_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/farshore/farshore/cmd/farshore/internal/sqlitevol"
)

const size = 4 << 20

// open opens the database of a device; the connection is closed with the test, or before it by the caller.
func open(t *testing.T, dev sqlitevol.Device, journal string) *sqlite3.Conn {
	t.Helper()
	v, err := sqlitevol.New(dev)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.ToLower(strings.NewReplacer("/", "-", "#", "-").Replace(t.Name()))
	conn, forget, err := sqlitevol.Open(v, name, journal)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		forget()
	})
	return conn
}

func run(t *testing.T, conn *sqlite3.Conn, statement string) {
	t.Helper()
	if err := conn.Exec(statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// rows returns the single column of a query, one string a row.
func rows(t *testing.T, conn *sqlite3.Conn, query string) []string {
	t.Helper()
	stmt, _, err := conn.Prepare(query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer stmt.Close()
	var out []string
	for stmt.Step() {
		out = append(out, stmt.ColumnText(0))
	}
	if err := stmt.Err(); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return out
}

func TestDatabaseOnPlainFile(t *testing.T) {
	for _, journal := range []string{"wal", "delete", "truncate", "persist"} {
		t.Run(journal, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "volume")
			if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := sqlitevol.OpenFile(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			t.Run("write", func(t *testing.T) {
				conn := open(t, f, journal)
				if got := rows(t, conn, "PRAGMA journal_mode"); got[0] != journal {
					t.Fatalf("journal mode is %q, want %q", got[0], journal)
				}
				run(t, conn, "CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
				for range 50 {
					run(t, conn, "INSERT INTO t(v) VALUES (randomblob(3000))")
				}
				run(t, conn, "DELETE FROM t WHERE id % 2 = 0")
				run(t, conn, "VACUUM")
			})
			t.Run("read", func(t *testing.T) {
				conn := open(t, f, "")
				if got := rows(t, conn, "SELECT count(*) FROM t"); got[0] != "25" {
					t.Errorf("%s rows, want 25", got[0])
				}
				if got := rows(t, conn, "PRAGMA integrity_check"); got[0] != "ok" {
					t.Errorf("integrity_check: %v", got)
				}
			})
		})
	}
}

// A volume cut at any write opens, is whole, and holds every transaction acknowledged before the
// cut: what a replica at a recovery point is.
func TestEveryPrefix(t *testing.T) {
	for _, journal := range []string{"wal", "delete"} {
		t.Run(journal, func(t *testing.T) {
			dev, acked := record(t, journal)
			for n := range len(dev.log) + 1 {
				verify(t, dev.prefix(n), n, acked)
			}
		})
	}
}

// A power cut keeps any part of what was not flushed, in sectors. What was flushed stays.
func TestPowerLoss(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for _, journal := range []string{"wal", "delete"} {
		t.Run(journal, func(t *testing.T) {
			dev, acked := record(t, journal)
			for range 150 {
				n := r.IntN(len(dev.log) + 1)
				verify(t, dev.powerLoss(n, r), n, acked)
			}
		})
	}
}

// record runs transactions that each add one row, some of them large, and one that rewrites all. It returns
// the device and for each transaction the length of its log when the transaction was acknowledged.
func record(t *testing.T, journal string) (*memory, []int) {
	t.Helper()
	dev := newMemory(size)
	conn := open(t, dev, journal)
	run(t, conn, "PRAGMA wal_autocheckpoint=20")
	run(t, conn, "CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB, w INTEGER)")
	run(t, conn, "CREATE INDEX i ON t(w)")
	acked := []int{len(dev.log)}
	for i := range 14 {
		run(t, conn, fmt.Sprintf("BEGIN; INSERT INTO t VALUES (%d, randomblob(%d), random()); UPDATE t SET w = w + 1 WHERE id %% 3 = %d; COMMIT",
			i+1, 10+(i%5)*2500, i%3))
		acked = append(acked, len(dev.log))
	}
	return dev, acked
}

func verify(t *testing.T, dev *memory, n int, acked []int) {
	t.Helper()
	least := -1 // transactions acknowledged before the cut, -1: not even the table
	for i, at := range acked {
		if at <= n {
			least = i
		}
	}
	t.Run(fmt.Sprint(n), func(t *testing.T) {
		conn := open(t, dev, "")
		if got := rows(t, conn, "PRAGMA integrity_check"); len(got) != 1 || got[0] != "ok" {
			t.Fatalf("integrity_check behind write %d: %v", n, got)
		}
		if least < 0 {
			return
		}
		count := rows(t, conn, "SELECT count(*) FROM t")[0]
		if got := rows(t, conn, "SELECT count(*) FROM t WHERE id <= "+count)[0]; got != count {
			t.Errorf("behind write %d: rows have gaps: %s of the first %s", n, got, count)
		}
		var have int
		fmt.Sscan(count, &have)
		if have < least || have > least+1 {
			t.Errorf("behind write %d: %d rows, acknowledged are %d", n, have, least)
		}
	})
}

func TestFull(t *testing.T) {
	dev := newMemory(sqlitevol.MinSize)
	conn := open(t, dev, "delete")
	run(t, conn, "CREATE TABLE t(v BLOB)")
	var err error
	for range 200 {
		if err = conn.Exec("INSERT INTO t VALUES (randomblob(10000))"); err != nil {
			break
		}
	}
	if !errors.Is(err, sqlite3.FULL) {
		t.Errorf("writing beyond the slot's room: %v, want SQLITE_FULL", err)
	}
	if got := rows(t, conn, "PRAGMA integrity_check"); got[0] != "ok" {
		t.Errorf("integrity_check: %v", got)
	}
}

func TestRefused(t *testing.T) {
	if _, err := sqlitevol.New(newMemory(sqlitevol.MinSize - 1)); err == nil {
		t.Error("a device that is too small was taken")
	}
	for name, damage := range map[string]func([]byte){
		"foreign":  func(b []byte) { copy(b, "LABELONE") },
		"checksum": func(b []byte) { b[20]++ },
		"journal":  func(b []byte) { b[4096+5] = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			dev := newMemory(size)
			t.Run("fill", func(t *testing.T) { run(t, open(t, dev, "wal"), "CREATE TABLE t(v)") })
			damage(dev.content)
			if _, err := sqlitevol.New(dev); !errors.Is(err, sqlitevol.ErrDamaged) {
				t.Errorf("got %v, want ErrDamaged", err)
			}
		})
	}
}

// A write beyond the end leaves zeros in between, whatever an earlier file left there.
func TestGapReadsAsZero(t *testing.T) {
	dev := newMemory(size)
	v, err := sqlitevol.New(dev)
	if err != nil {
		t.Fatal(err)
	}
	const create = 4 | 2 | 0x100 // SQLITE_OPEN_CREATE, _READWRITE, _MAIN_DB
	f, _, err := v.Open("/main.db", create)
	if err != nil {
		t.Fatal(err)
	}
	ones := []byte(strings.Repeat("\x01", 8192))
	if _, err := f.WriteAt(ones, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(10); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{2}, 5000); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5001)
	if _, err := f.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	want := strings.Repeat("\x01", 10) + strings.Repeat("\x00", 4990) + "\x02"
	if string(got) != want {
		t.Error("the gap does not read as zero")
	}
}
