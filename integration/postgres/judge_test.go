package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/pkg/replay"
)

// tolerance is by how much the machine's clock may step during a test. The clients and the snapshotter
// read the same clock.
const tolerance = 2 * time.Millisecond

// limit is the longest that judging one point may take.
const limit = 2 * time.Minute

// questions are asked of every recovered database. Each answer is one line.
var questions = strings.Join([]string{
	`SELECT 'client', client, min(n), max(n), count(*), count(*) FILTER (WHERE payload IS DISTINCT FROM repeat(md5(client || '-' || n), 4)) FROM ledger GROUP BY client ORDER BY client`,
	`SELECT 'sum', sum(balance), count(*) FROM accounts`,
	fmt.Sprintf(`SELECT 'unbalanced', count(*) FROM accounts a WHERE balance <> %d
	  - coalesce((SELECT sum(amount) FROM ledger WHERE source = a.id), 0)
	  + coalesce((SELECT sum(amount) FROM ledger WHERE target = a.id), 0)`, opening),
	`SELECT 'churn', sum(v), count(*) FROM churn`,
	`SELECT 'stock', count(*), count(*) FILTER (WHERE payload IS DISTINCT FROM repeat(md5(id::text), 8)) FROM stock`,
}, ";\n")

// judge says whether a recovery point holds what it must.
type judge struct {
	needs
	pair *harness.Pair
	root string          // folder for what is recovered
	log  [][]transaction // what the clients did
}

// verdict is what was found at one point that passed.
type verdict struct {
	replay, recovery, check time.Duration
	redone                  bool // PostgreSQL had something to recover from its write-ahead log
	rows                    int  // of the ledger
	least                   int  // rows that had to be there
	fsck                    []string
}

// point recovers the volumes as they were at p into a folder of their own, lets the file systems and
// PostgreSQL recover from what they find, and checks what the database holds.
func (j *judge) point(ctx context.Context, p replay.Point) (v verdict, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	root := filepath.Join(j.root, fmt.Sprint(p.Barrier))
	if err := os.Mkdir(root, 0o755); err != nil {
		return v, err
	}
	defer os.RemoveAll(root)
	images := filepath.Join(root, "images")
	began := time.Now()
	files, err := j.replay(p, images)
	if err != nil {
		return v, err
	}
	v.replay = time.Since(began)
	for i, volume := range volumes {
		dir := filepath.Join(root, volume)
		if err := mountImage(files[i], dir); err != nil {
			return v, err
		}
		defer func() {
			if e := unmount(dir); err == nil && !errors.Is(e, unix.EINVAL) { // EINVAL: it is unmounted
				err = e
			}
		}()
	}
	s := &server{needs: j.needs, root: root}
	defer s.kill()
	if err := s.recover(ctx); err != nil {
		return v, err
	}
	v.recovery = time.Since(began) - v.replay
	v.redone = s.said("redo done")
	if err := j.database(ctx, s, p, &v); err != nil {
		return v, err
	}
	v.check = time.Since(began) - v.replay - v.recovery
	s.kill()
	for i, volume := range volumes {
		if err := unmount(filepath.Join(root, volume)); err != nil {
			return v, err
		}
		v.fsck = append(v.fsck, fsck(files[i]))
	}
	return v, nil
}

// replay recovers both volumes as they were at p and returns their images.
func (j *judge) replay(p replay.Point, into string) (files []string, err error) {
	out, err := j.pair.Farshore("replay", "--to", fmt.Sprint(p.Barrier), "--into", into, "-o", "json")
	if err != nil {
		return nil, err
	}
	var result replay.Result
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		return nil, fmt.Errorf("decode the result of replay: %w", err)
	}
	if result.Point.Barrier != p.Barrier || len(result.Volumes) != len(volumes) {
		return nil, fmt.Errorf("replay recovered %d volumes at barrier %d", len(result.Volumes), result.Point.Barrier)
	}
	for i := range volumes {
		for _, v := range result.Volumes {
			if v.Name == harness.Volume(i) {
				files = append(files, v.Path)
			}
		}
	}
	return files, nil
}

// recover starts the server on what was recovered, as an operator would on another node.
func (s *server) recover(ctx context.Context) error {
	// It names a process of the lost node; here the number may be somebody else's.
	if err := os.Remove(filepath.Join(s.data(), "postmaster.pid")); err != nil {
		return fmt.Errorf("the server that was running left no lock file: %w", err)
	}
	return s.start(ctx, "-c", "autovacuum=off", "-c", "fsync=off")
}

func (j *judge) database(ctx context.Context, s *server, p replay.Point, v *verdict) error {
	x, err := s.open(ctx, "bank")
	if err != nil {
		return err
	}
	defer x.close()
	answers, err := x.do(questions)
	if err != nil {
		return err
	}
	if err := j.answers(answers, p.Time, v); err != nil {
		return err
	}
	out, err := s.command(ctx, "pg_amcheck", "--all", "--heapallindexed", "--no-strict-names").CombinedOutput()
	if err != nil || len(out) > 0 {
		return fmt.Errorf("pg_amcheck: %v: %s", err, cut(string(out), 600))
	}
	return nil
}

// answers checks what the database says against what the clients did before and after the point's time.
func (j *judge) answers(answers []string, at time.Time, v *verdict) error {
	rows := make([]int, len(j.log))
	var fixed []string
	for _, line := range answers {
		if !strings.HasPrefix(line, "client|") {
			fixed = append(fixed, line)
			continue
		}
		var client, first, last, count, wrong int
		if _, err := fmt.Sscanf(line, "client|%d|%d|%d|%d|%d", &client, &first, &last, &count, &wrong); err != nil {
			return fmt.Errorf("read the answer %q: %w", line, err)
		}
		if first != 0 || count != last+1 {
			return fmt.Errorf("client %d has rows %d to %d and %d of them: there are gaps", client, first, last, count)
		}
		if wrong > 0 {
			return fmt.Errorf("%d rows of client %d hold something else than was written", wrong, client)
		}
		rows[client] = count
	}
	if want := []string{
		fmt.Sprintf("sum|%d|%d", opening*accounts, accounts), "unbalanced|0", fmt.Sprintf("churn|0|%d", churned), fmt.Sprintf("stock|%d|0", stocked),
	}; !slices.Equal(fixed, want) {
		return fmt.Errorf("the sums are %q, want %q", fixed, want)
	}
	for client, log := range j.log {
		have := rows[client]
		least, most := bounds(log, at)
		if have < least {
			return fmt.Errorf("client %d: row %d is missing, acknowledged %v before the point's time", client, have, at.Sub(log[have].acked))
		}
		if have > most {
			return fmt.Errorf("client %d: row %d is there and was issued %v after the point's time, or never", client, have-1, issuedAfter(log, have-1, at))
		}
		v.rows += have
		v.least += least
	}
	return nil
}

// bounds returns how many of a client's rows a point of time at must hold at least, and may at most.
func bounds(log []transaction, at time.Time) (least, most int) {
	for n, x := range log {
		if !x.acked.IsZero() && x.acked.Before(at.Add(-tolerance)) {
			least = n + 1
		}
		if x.issued.Before(at.Add(tolerance)) {
			most = n + 1
		}
	}
	return least, most
}

func issuedAfter(log []transaction, n int, at time.Time) string {
	if n >= len(log) {
		return "(never)"
	}
	return log[n].issued.Sub(at).String()
}

func cut(s string, n int) string {
	if s = strings.TrimSpace(s); len(s) > n {
		return s[:n] + "…"
	}
	return s
}
