package bank_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/farshore/farshore/cmd/farshore/internal/bank"
	"github.com/farshore/farshore/cmd/farshore/internal/sqlitevol"
)

var plan = bank.Plan{Seed: 7, Accounts: 10, Customers: 100, Window: 4}

const size = 8 << 20

// databases are two databases on files of a directory.
type databases struct {
	dir                string
	ledger, settlement *sqlite3.Conn
	closers            []func()
}

func open(t *testing.T, dir string) *databases {
	t.Helper()
	d := &databases{dir: dir}
	t.Cleanup(d.close)
	d.ledger = d.open(t, "ledger", "wal")
	d.settlement = d.open(t, "settlement", "delete")
	return d
}

func (d *databases) open(t *testing.T, name, journal string) *sqlite3.Conn {
	t.Helper()
	path := filepath.Join(d.dir, name)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := sqlitevol.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	v, err := sqlitevol.New(f)
	if err != nil {
		t.Fatal(err)
	}
	conn, forget, err := sqlitevol.Open(v, strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))+name, journal)
	if err != nil {
		t.Fatal(err)
	}
	d.closers = append(d.closers, func() { _ = conn.Close(); forget(); _ = f.Close() })
	return conn
}

func (d *databases) close() {
	for _, c := range d.closers {
		c()
	}
	d.closers = nil
}

// worked returns databases with some transfers in them, and the log.
func worked(t *testing.T) (*databases, *bank.Log) {
	t.Helper()
	d, log := open(t, t.TempDir()), bank.NewLog(io.Discard)
	b, err := bank.Create(plan, d.ledger, d.settlement, log, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	work(t, b, func() {
		for log.Acknowledged(bank.Credit) < 50 {
			time.Sleep(time.Millisecond)
		}
	})
	return d, log
}

// work runs the bank until during returns.
func work(t *testing.T, b *bank.Bank, during func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	during()
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func failed(checks []bank.Check) []string {
	var out []string
	for _, c := range checks {
		if !c.OK {
			out = append(out, c.Name)
		}
	}
	return out
}

func TestWorkloadHoldsItsInvariants(t *testing.T) {
	d, log := worked(t)
	c, checks := bank.Inspect(plan, d.ledger, d.settlement)
	if f := failed(checks); f != nil {
		t.Errorf("failed: %q in %+v", f, checks)
	}
	if c.Debits < log.Acknowledged(bank.Debit) || c.Credits < log.Acknowledged(bank.Credit) || c.Customers != 100 {
		t.Errorf("contents %+v, acknowledged %d and %d", c, log.Acknowledged(bank.Debit), log.Acknowledged(bank.Credit))
	}
	if f := failed(c.AtTime(log, time.Now())); f != nil {
		t.Errorf("failed: %q", f)
	}
	if loss := log.Lost(c.Debits, c.Credits); loss != (bank.Loss{}) {
		t.Errorf("lost %+v, want nothing", loss)
	}
}

func TestDeleteWhileWorking(t *testing.T) {
	d, log := open(t, t.TempDir()), bank.NewLog(io.Discard)
	b, err := bank.Create(plan, d.ledger, d.settlement, log, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	work(t, b, func() {
		rows, begun, err := b.DeleteCustomers(t.Context())
		if err != nil || rows != 100 || begun.IsZero() {
			t.Errorf("deleted %d rows, begun %s, %v", rows, begun, err)
		}
	})
	c, checks := bank.Inspect(plan, d.ledger, d.settlement)
	if f := failed(checks); f != nil || c.Customers != 0 {
		t.Errorf("failed: %q, %d customers", f, c.Customers)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := b.DeleteCustomers(ctx); !errors.Is(err, bank.ErrStopped) {
		t.Errorf("delete behind the workload's end: %v, want ErrStopped", err)
	}
}

// Each kind of damage must be seen by the check that is there for it.
func TestInspectSeesDamage(t *testing.T) {
	const (
		credit = "every credit has its debit"
		window = "debits lead by the window at most"
	)
	for name, c := range map[string]struct {
		ledger, settlement string
		want               string
	}{
		"order broken":    {ledger: "DELETE FROM transfers WHERE id > 30", want: credit},
		"left behind":     {settlement: "DELETE FROM credits WHERE id > 30", want: window},
		"gap":             {ledger: "DELETE FROM transfers WHERE id = 20", want: "transfers have no gaps and are as written"},
		"altered":         {settlement: "UPDATE credits SET note = 'x' WHERE id = 20", want: "credits have no gaps and are as written"},
		"balance":         {ledger: "UPDATE accounts SET balance = balance + 1 WHERE id = 3", want: "ledger: balances add up"},
		"account missing": {settlement: "DELETE FROM accounts WHERE id = 10", want: "settlement: balances add up"},
		"half a delete":   {ledger: "DELETE FROM customers WHERE id > 50", want: "customers are all there or none"},
		"no table":        {ledger: "DROP TABLE customers", want: "customers are all there or none"},
	} {
		t.Run(name, func(t *testing.T) {
			d, _ := worked(t)
			for conn, statement := range map[*sqlite3.Conn]string{d.ledger: c.ledger, d.settlement: c.settlement} {
				if err := conn.Exec("PRAGMA foreign_keys=OFF;" + statement); err != nil {
					t.Fatal(err)
				}
			}
			if _, checks := bank.Inspect(plan, d.ledger, d.settlement); !slices.Contains(failed(checks), c.want) {
				t.Errorf("failed: %q, want %q among them", failed(checks), c.want)
			}
		})
	}
}

func TestIntegrityCheckSeesDamage(t *testing.T) {
	d, _ := worked(t)
	d.close()
	path := filepath.Join(d.dir, "settlement")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copy(content[16<<10+3*4096:], strings.Repeat("\xff", 2048)) // a page of the database
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	d = open(t, d.dir)
	_, checks := bank.Inspect(plan, d.ledger, d.settlement)
	if f := failed(checks); !slices.Contains(f, "settlement: PRAGMA integrity_check") {
		t.Errorf("failed: %q, want the settlement's integrity_check among them", f)
	}
}

func TestAtTimeAndLoss(t *testing.T) {
	_, log := worked(t)
	now, n, m := time.Now(), log.Acknowledged(bank.Debit), log.Acknowledged(bank.Credit)
	less := bank.Contents{Debits: n - 3, Credits: m - 2}
	want := []string{"every debit acknowledged by then", "every credit acknowledged by then"}
	if f := failed(less.AtTime(log, now)); !slices.Equal(f, want) {
		t.Errorf("too little: failed %q, want %q", f, want)
	}
	if loss := log.Lost(less.Debits, less.Credits); loss.Debits != 3 || loss.Credits != 2 || loss.Span <= 0 {
		t.Errorf("lost %+v, want 3 debits and 2 credits", loss)
	}
	more := bank.Contents{Debits: n + 1, Credits: m + 1}
	want = []string{"no debit begun after it", "no credit begun after it"}
	if f := failed(more.AtTime(log, time.Time{})); !slices.Equal(f, want) {
		t.Errorf("too much: failed %q, want %q", f, want)
	}
}

// A database that fails ends the workload with its error.
func TestRunReturnsFailure(t *testing.T) {
	d := open(t, t.TempDir())
	b, err := bank.Create(plan, d.ledger, d.settlement, bank.NewLog(io.Discard), 10_000)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.settlement.Exec("INSERT INTO credits VALUES (3, 1, 1, '')"); err != nil {
		t.Fatal(err)
	}
	if err := b.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "credit transfer 3") {
		t.Errorf("got %v, want a failed credit of transfer 3", err)
	}
}
