package bank

import (
	"fmt"
	"strings"
	"time"

	"github.com/ncruces/go-sqlite3"
)

// Check is one thing that must hold.
type Check struct {
	Name   string
	OK     bool
	Detail string // numbers; where not OK, what is wrong
}

// Contents is what two recovered databases hold.
type Contents struct {
	Debits, Credits int64 // numbers of rows
	Customers       int64
}

// Inspect reads both databases and checks each by itself and the two against each other.
func Inspect(plan Plan, ledger, settlement *sqlite3.Conn) (Contents, []Check) {
	i := inspection{plan: plan}
	i.integrity("ledger", ledger)
	i.integrity("settlement", settlement)
	c := Contents{
		Debits:    i.rows(ledger, "transfers"),
		Credits:   i.rows(settlement, "credits"),
		Customers: i.customers(ledger),
	}
	i.add("every credit has its debit", c.Credits <= c.Debits, "%d debits, %d credits", c.Debits, c.Credits)
	i.add("debits lead by the window at most", c.Debits-c.Credits <= int64(plan.Window), "by %d of %d", c.Debits-c.Credits, plan.Window)
	i.balances("ledger", ledger, c.Debits, opening, -1)
	i.balances("settlement", settlement, c.Credits, 0, 1)
	return c, i.checks
}

// AtTime checks that the databases hold what a cut at time t holds: everything acknowledged up to
// it, nothing begun behind it.
func (c Contents) AtTime(log *Log, t time.Time) []Check {
	var i inspection
	for _, s := range []struct {
		side Side
		have int64
	}{{Debit, c.Debits}, {Credit, c.Credits}} {
		least, most := log.before(s.side, t)
		i.add(fmt.Sprintf("every %s acknowledged by then", s.side), s.have >= least, "%d of %d", min(s.have, least), least)
		i.add(fmt.Sprintf("no %s begun after it", s.side), s.have <= most, "%d of %d begun", s.have, most)
	}
	return i.checks
}

// inspection gathers checks.
type inspection struct {
	plan   Plan
	checks []Check
}

func (i *inspection) add(name string, ok bool, format string, args ...any) {
	i.checks = append(i.checks, Check{name, ok, fmt.Sprintf(format, args...)})
}

func (i *inspection) integrity(name string, conn *sqlite3.Conn) {
	var lines []string
	err := query(conn, "PRAGMA integrity_check", func(s *sqlite3.Stmt) error {
		lines = append(lines, s.ColumnText(0))
		return nil
	})
	detail := strings.Join(lines, "; ")
	if err != nil {
		detail = err.Error()
	}
	i.add(name+": PRAGMA integrity_check", err == nil && detail == "ok", "%s", detail)
}

// rows checks that a table holds the transfers 1 to n as planned and returns n.
func (i *inspection) rows(conn *sqlite3.Conn, table string) int64 {
	var n int64
	err := query(conn, "SELECT id, account, amount, note FROM "+table+" ORDER BY id", func(s *sqlite3.Stmt) error {
		got := Transfer{s.ColumnInt64(0), s.ColumnInt64(1), s.ColumnInt64(2), s.ColumnText(3)}
		if got.ID != n+1 {
			return fmt.Errorf("row %d follows row %d", got.ID, n)
		}
		if got != i.plan.Transfer(got.ID) {
			return fmt.Errorf("row %d is not the one written", got.ID)
		}
		n++
		return nil
	})
	if err != nil {
		i.add(table+" have no gaps and are as written", false, "%v", err)
		return n
	}
	i.add(table+" have no gaps and are as written", true, "1 to %d", n)
	return n
}

func (i *inspection) customers(conn *sqlite3.Conn) int64 {
	var n int64
	err := query(conn, "SELECT id, name FROM customers ORDER BY id", func(s *sqlite3.Stmt) error {
		if n++; s.ColumnInt64(0) != n || s.ColumnText(1) != i.plan.Customer(n) {
			return fmt.Errorf("customer %d is not the one written", n)
		}
		return nil
	})
	if err == nil && n != 0 && n != int64(i.plan.Customers) {
		err = fmt.Errorf("%d of %d: a part of one DELETE", n, i.plan.Customers)
	}
	if err != nil {
		i.add("customers are all there or none", false, "%v", err)
		return n
	}
	i.add("customers are all there or none", true, "%d", n)
	return n
}

// balances checks each account against the first n transfers.
func (i *inspection) balances(name string, conn *sqlite3.Conn, n, start, sign int64) {
	want := make([]int64, i.plan.Accounts+1)
	var total int64
	for id := int64(1); id <= n; id++ {
		t := i.plan.Transfer(id)
		want[t.Account] += t.Amount
		total += t.Amount
	}
	var next int64
	err := query(conn, "SELECT id, balance FROM accounts ORDER BY id", func(s *sqlite3.Stmt) error {
		next++
		id, got := s.ColumnInt64(0), s.ColumnInt64(1)
		if id != next || id >= int64(len(want)) {
			return fmt.Errorf("account %d stands where %d should", id, next)
		}
		if expected := start + sign*want[id]; got != expected {
			return fmt.Errorf("account %d holds %d, its transfers make %d", id, got, expected)
		}
		return nil
	})
	if err == nil && next != int64(i.plan.Accounts) {
		err = fmt.Errorf("%d of %d accounts", next, i.plan.Accounts)
	}
	if err != nil {
		i.add(name+": balances add up", false, "%v", err)
		return
	}
	i.add(name+": balances add up", true, "%d.%02d moved", total/100, total%100)
}

func query(conn *sqlite3.Conn, sql string, row func(*sqlite3.Stmt) error) error {
	stmt, _, err := conn.Prepare(sql)
	if err != nil {
		return err
	}
	defer stmt.Close()
	for stmt.Step() {
		if err := row(stmt); err != nil {
			return err
		}
	}
	return stmt.Err()
}
