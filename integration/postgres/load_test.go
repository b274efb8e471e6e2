package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farshore/farshore/integration/harness"
)

const (
	accounts = 200
	opening  = 1000 // of each account
	churned  = 4000 // rows of the table churn; even
	stocked  = 60000

	think = 5 * time.Millisecond // between two transactions of a client
)

// schema: every transaction moves an amount between two accounts and says so in the ledger, as
// row n of its client. churn keeps the sum 0. stock is written once: what is lost of it isn't healed by
// a later write.
var schema = fmt.Sprintf(`
CREATE EXTENSION amcheck;
CREATE TABLE ledger (client int, n int, source int, target int, amount int, payload text, PRIMARY KEY (client, n));
CREATE INDEX ledger_source ON ledger (source);
CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL);
INSERT INTO accounts SELECT i, %d FROM generate_series(1, %d) i;
CREATE TABLE churn (id int PRIMARY KEY, v int NOT NULL, payload text);
CREATE INDEX churn_payload ON churn (payload);
INSERT INTO churn SELECT i, 0, md5(i::text) FROM generate_series(1, %d) i;
CREATE TABLE stock (id int PRIMARY KEY, payload text);
INSERT INTO stock SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, %d) i;
CHECKPOINT`, opening, accounts, churned, stocked)

// transaction is row n of a client: when it was sent, and when its commit was acknowledged, if it was.
type transaction struct {
	issued, acked time.Time
}

// load is clients that commit all the time, and one that checkpoints, vacuums and rebuilds indexes.
// What they did is kept in the test's memory, outside of the volumes.
type load struct {
	server  *server
	clients int
	random  *rand.Rand

	mu   sync.Mutex
	log  [][]transaction // by client
	errs []error

	stop context.CancelFunc
	wg   sync.WaitGroup
}

func (l *load) start(ctx context.Context) {
	ctx, l.stop = context.WithCancel(ctx)
	if l.log == nil {
		l.log = make([][]transaction, l.clients)
	}
	for c := range l.clients {
		seed := l.random.Uint64()
		l.wg.Go(func() { l.note(ctx, l.client(ctx, c, rand.New(rand.NewPCG(seed, 0)))) })
	}
	l.wg.Go(func() { l.note(ctx, l.keepHouse(ctx)) })
}

// end lets every transaction under way finish.
func (l *load) end() {
	l.stop()
	l.wg.Wait()
}

// note keeps what went wrong.
func (l *load) note(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.errs = append(l.errs, err)
	}
}

// unnoticed fails the test if a client saw an error.
func (l *load) unnoticed(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.errs) > 0 {
		t.Fatalf("PostgreSQL's clients noticed: %v", errors.Join(l.errs...))
	}
}

// acked counts acknowledged commits.
func (l *load) acked() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, log := range l.log {
		n += len(log)
		if len(log) > 0 && log[len(log)-1].acked.IsZero() {
			n--
		}
	}
	return n
}

// progress waits until n further commits are acknowledged, and fails if a client saw an error.
func (l *load) progress(t *testing.T, n int) {
	t.Helper()
	from := l.acked()
	harness.Eventually(t, 90*time.Second, fmt.Sprintf("%d more commits", n), func() error {
		l.unnoticed(t)
		if now := l.acked(); now < from+n {
			return fmt.Errorf("%d so far", now-from)
		}
		return nil
	})
}

func (l *load) client(ctx context.Context, c int, random *rand.Rand) error {
	s, err := l.server.open(context.WithoutCancel(ctx), "bank")
	if err != nil {
		return err
	}
	l.mu.Lock()
	n := len(l.log[c])
	l.mu.Unlock()
	for ; ctx.Err() == nil; n++ {
		from := 1 + random.IntN(accounts)
		to := 1 + (from+random.IntN(accounts-1))%accounts
		amount := 1 + random.IntN(50)
		add := map[int]int{from: -amount, to: amount}
		sql := fmt.Sprintf(`BEGIN \; INSERT INTO ledger VALUES (%d, %d, %d, %d, %d, repeat(md5('%d-%d'), 4))`, c, n, from, to, amount, c, n)
		for _, id := range []int{min(from, to), max(from, to)} { // in order, against deadlocks
			sql += fmt.Sprintf(` \; UPDATE accounts SET balance = balance + %d WHERE id = %d`, add[id], id)
		}
		issued := time.Now()
		l.mu.Lock()
		l.log[c] = append(l.log[c], transaction{issued: issued})
		l.mu.Unlock()
		if _, err := s.do(sql + ` \; COMMIT`); err != nil {
			return fmt.Errorf("client %d, row %d: %w", c, n, err)
		}
		acked := time.Now()
		l.mu.Lock()
		l.log[c][n].acked = acked
		l.mu.Unlock()
		<-time.After(think) // so that every point's journal is short enough to be replayed often
	}
	s.close()
	return nil
}

// keepHouse does what makes PostgreSQL write, rename, truncate and remove files.
func (l *load) keepHouse(ctx context.Context) error {
	s, err := l.server.open(context.WithoutCancel(ctx), "bank")
	if err != nil {
		return err
	}
	chores := []string{
		"CHECKPOINT",
		"CREATE INDEX IF NOT EXISTS churn_v ON churn (v, payload)",
		"VACUUM churn",
		"REINDEX INDEX ledger_source",
		"DROP INDEX IF EXISTS churn_v",
		"CHECKPOINT",
		"VACUUM ledger",
		"VACUUM FULL churn",
		"", // give back to the volumes what is free
	}
	for i := 0; ctx.Err() == nil; i++ {
		first := 1 + (i*400)%churned
		sql := fmt.Sprintf("UPDATE churn SET v = v + 2 * (id %% 2) - 1, payload = md5(payload) WHERE id >= %d AND id < %d", first, first+400)
		if _, err := s.do(sql); err != nil {
			return err
		}
		chore := chores[i%len(chores)]
		if chore == "" {
			for _, volume := range volumes {
				if out, err := exec.Command("fstrim", filepath.Join(l.server.root, volume)).CombinedOutput(); err != nil {
					return fmt.Errorf("fstrim %s: %w: %s", volume, err, strings.TrimSpace(string(out)))
				}
			}
		} else if _, err := s.do(chore); err != nil {
			return fmt.Errorf("%s: %w", chore, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond): // the load is to be the clients'
		}
	}
	s.close()
	return nil
}

// longestStall returns the longest time between two acknowledgements of any clients since from.
func (l *load) longestStall(from time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	var longest time.Duration
	for _, log := range l.log {
		for _, x := range log {
			if x.acked.After(from) {
				longest = max(longest, x.acked.Sub(x.issued))
			}
		}
	}
	return longest
}
