package bank

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ncruces/go-sqlite3"
	"golang.org/x/sync/errgroup"
)

// Bank works on the two databases.
type Bank struct {
	plan       Plan
	ledger     *sqlite3.Conn
	settlement *sqlite3.Conn
	log        *Log
	perSecond  float64
	deletes    chan deletion
	gate       func(ctx context.Context, id int64) error
}

// deletion asks for the customers' deletion.
type deletion struct{ answer chan<- answer }

type answer struct {
	rows  int64
	begun time.Time
	err   error
}

// ErrStopped tells that the workload ended before a request was served.
var ErrStopped = errors.New("the workload has ended")

// Create makes the tables in two empty databases and fills in the accounts and customers.
// perSecond bounds the transfers a second; what is acknowledged goes to log.
func Create(plan Plan, ledger, settlement *sqlite3.Conn, log *Log, perSecond float64) (*Bank, error) {
	if err := create(ledger, "transfers", plan.Accounts, opening); err != nil {
		return nil, fmt.Errorf("create ledger: %w", err)
	}
	if err := create(settlement, "credits", plan.Accounts, 0); err != nil {
		return nil, fmt.Errorf("create settlement: %w", err)
	}
	if err := ledger.Exec("BEGIN; CREATE TABLE customers(id INTEGER PRIMARY KEY, name TEXT NOT NULL)"); err != nil {
		return nil, fmt.Errorf("create customers: %w", err)
	}
	for id := int64(1); id <= int64(plan.Customers); id++ {
		if err := exec(ledger, "INSERT INTO customers VALUES (?, ?)", id, plan.Customer(id)); err != nil {
			return nil, fmt.Errorf("create customers: %w", err)
		}
	}
	if err := ledger.Exec("COMMIT"); err != nil {
		return nil, fmt.Errorf("create customers: %w", err)
	}
	return &Bank{plan: plan, ledger: ledger, settlement: settlement, log: log, perSecond: perSecond, deletes: make(chan deletion)}, nil
}

func create(conn *sqlite3.Conn, transfers string, accounts int, balance int64) error {
	err := conn.Exec(`BEGIN;
		CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
		CREATE TABLE ` + transfers + `(id INTEGER PRIMARY KEY, account INTEGER NOT NULL REFERENCES accounts, amount INTEGER NOT NULL, note TEXT NOT NULL);
		CREATE INDEX by_account ON ` + transfers + `(account)`)
	if err != nil {
		return err
	}
	for id := range int64(accounts) {
		if err := exec(conn, "INSERT INTO accounts VALUES (?, ?)", id+1, balance); err != nil {
			return err
		}
	}
	return conn.Exec("COMMIT")
}

// Ask makes every debit wait until gate has let its transfer pass. Call it before Run.
func (b *Bank) Ask(gate func(ctx context.Context, id int64) error) { b.gate = gate }

// Run makes transfers until ctx is cancelled, which is no error, or a database fails.
func (b *Bank) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	window := make(chan struct{}, b.plan.Window)
	debited := make(chan Transfer, b.plan.Window)
	g.Go(func() error {
		defer close(debited)
		return b.debit(ctx, window, debited)
	})
	g.Go(func() error { return b.credit(ctx, window, debited) })
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (b *Bank) debit(ctx context.Context, window chan<- struct{}, debited chan<- Transfer) error {
	write, err := prepare(b.ledger, "transfers", "-")
	if err != nil {
		return err
	}
	defer write.close()
	pace := time.NewTicker(time.Duration(float64(time.Second) / b.perSecond))
	defer pace.Stop()
	for id := int64(1); ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case d := <-b.deletes:
			d.answer <- b.delete()
			continue
		case <-pace.C:
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case window <- struct{}{}:
		}
		if b.gate != nil {
			if err := b.gate(ctx, id); err != nil {
				return err
			}
		}
		t := b.plan.Transfer(id)
		b.log.begin(Debit, id)
		if err := write.transfer(t); err != nil {
			return fmt.Errorf("debit transfer %d: %w", id, err)
		}
		if err := b.log.done(Debit, id); err != nil {
			return err
		}
		debited <- t // has room for the whole window
		id++
	}
}

func (b *Bank) credit(ctx context.Context, window <-chan struct{}, debited <-chan Transfer) error {
	write, err := prepare(b.settlement, "credits", "+")
	if err != nil {
		return err
	}
	defer write.close()
	for t := range debited {
		if err := ctx.Err(); err != nil {
			return err
		}
		b.log.begin(Credit, t.ID)
		if err := write.transfer(t); err != nil {
			return fmt.Errorf("credit transfer %d: %w", t.ID, err)
		}
		if err := b.log.done(Credit, t.ID); err != nil {
			return err
		}
		<-window
	}
	return nil
}

// DeleteCustomers is the mistake that a recovery point undoes: it deletes every customer, between
// two transfers of a running workload. It returns how many rows are gone and when that began.
func (b *Bank) DeleteCustomers(ctx context.Context) (rows int64, begun time.Time, err error) {
	reply := make(chan answer, 1)
	select {
	case b.deletes <- deletion{reply}:
	case <-ctx.Done():
		return 0, time.Time{}, fmt.Errorf("delete customers: %w", errors.Join(ErrStopped, ctx.Err()))
	}
	a := <-reply
	return a.rows, a.begun, a.err
}

func (b *Bank) delete() answer {
	begun := time.Now()
	if err := b.ledger.Exec("DELETE FROM customers"); err != nil {
		return answer{err: fmt.Errorf("delete customers: %w", err)}
	}
	return answer{rows: b.ledger.Changes(), begun: begun}
}

// writer holds the statements of one database.
type writer struct {
	begin, insert, update, commit *sqlite3.Stmt
}

func prepare(conn *sqlite3.Conn, table, sign string) (*writer, error) {
	w := &writer{}
	for _, s := range []struct {
		to  **sqlite3.Stmt
		sql string
	}{
		{&w.begin, "BEGIN IMMEDIATE"},
		{&w.insert, "INSERT INTO " + table + " VALUES (?, ?, ?, ?)"},
		{&w.update, "UPDATE accounts SET balance = balance " + sign + " ? WHERE id = ?"},
		{&w.commit, "COMMIT"},
	} {
		stmt, _, err := conn.Prepare(s.sql)
		if err != nil {
			w.close()
			return nil, fmt.Errorf("prepare %q: %w", s.sql, err)
		}
		*s.to = stmt
	}
	return w, nil
}

// transfer commits one transfer. When it returns nil, the database says that it is durable.
func (w *writer) transfer(t Transfer) error {
	if err := w.begin.Exec(); err != nil {
		return err
	}
	if err := bind(w.insert, t.ID, t.Account, t.Amount, t.Note); err != nil {
		return err
	}
	if err := bind(w.update, t.Amount, t.Account); err != nil {
		return err
	}
	return w.commit.Exec()
}

func (w *writer) close() {
	for _, s := range []*sqlite3.Stmt{w.begin, w.insert, w.update, w.commit} {
		if s != nil {
			_ = s.Close() // repeats the error of its last use, which was returned
		}
	}
}

// bind runs a prepared statement with arguments.
func bind(s *sqlite3.Stmt, args ...any) error {
	for i, a := range args {
		var err error
		switch a := a.(type) {
		case int64:
			err = s.BindInt64(i+1, a)
		case string:
			err = s.BindText(i+1, a)
		default:
			err = fmt.Errorf("argument %d is a %T", i+1, a)
		}
		if err != nil {
			return err
		}
	}
	return s.Exec()
}

// exec runs one statement with arguments.
func exec(conn *sqlite3.Conn, sql string, args ...any) error {
	stmt, _, err := conn.Prepare(sql)
	if err != nil {
		return err
	}
	return errors.Join(bind(stmt, args...), stmt.Close())
}
