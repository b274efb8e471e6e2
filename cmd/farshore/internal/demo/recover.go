package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/farshore/farshore/cmd/farshore/internal/bank"
	"github.com/farshore/farshore/pkg/replay"
)

// recovered is a point, brought back and looked at.
type recovered struct {
	target    string
	alone     bool          // it was brought back from the archive alone
	origin    replay.Origin // what the replay began from
	point     replay.Point
	bytes     uint64         // of the journal, or of the archive where that was alone
	sums      map[string]sum // of the volumes' contents, before anybody opened them
	replay    time.Duration  // from the command's start to its end
	open      time.Duration  // until both databases are open: their own recovery
	contents  bank.Contents
	manifests *manifests // nil: the point has no objects
	checks    []bank.Check
}

// recover replays a point with the real command into a directory of the given name, opens both databases in the volumes and checks them.
func (s *sites) recover(ctx context.Context, stderr io.Writer, target, into string, plan bank.Plan, log *bank.Log, more ...string) (*recovered, error) {
	into = filepath.Join(s.dir, "recovered", into)
	begun := time.Now()
	args := append([]string{"replay", "--group", s.document, "--to", target, "--into", into, "-o", "json"}, more...)
	out, err := s.nursery.output(ctx, stderr, "farshore replay", filepath.Join(s.bin, "farshore"), args...)
	if err != nil && len(out) == 0 { // with a result it is about objects that were refused, which is for the checks
		return nil, err
	}
	r := &recovered{target: target, replay: time.Since(begun)}
	var result replay.Result
	var objects struct {
		Manifests *manifests
		Applied   *applied
	}
	if err := errors.Join(json.Unmarshal(out, &result), json.Unmarshal(out, &objects)); err != nil {
		return nil, fmt.Errorf("decode the result of farshore replay: %w", err)
	}
	r.origin = result.From
	r.point, r.bytes, r.manifests, r.sums = result.Point, result.Bytes, objects.Manifests, make(map[string]sum)
	defer func() { // behind the databases' checks
		if a := objects.Applied; a != nil {
			r.check("the DR API server takes every object", len(a.Refused) == 0, "%s", a)
		}
	}()
	for _, v := range result.Volumes {
		if r.sums[v.Name], err = sumOfFile(v.Path); err != nil {
			return nil, err
		}
	}
	begun = time.Now()
	databases := make(map[string]*database)
	defer func() {
		for _, db := range databases {
			db.close()
		}
	}()
	for _, v := range result.Volumes {
		db, err := openRecovered(v.Path, filepath.Base(into)+"-"+v.Name)
		if err != nil {
			// A volume that holds no database is what the checks are for.
			r.checks = append(r.checks, bank.Check{Name: v.Name + ": opens", Detail: err.Error()})
			return r, nil
		}
		databases[v.Name] = db
	}
	r.open = time.Since(begun)
	if databases[ledger] == nil || databases[settlement] == nil {
		r.checks = append(r.checks, bank.Check{Name: "both volumes are there", Detail: fmt.Sprintf("%d volumes", len(result.Volumes))})
		return r, nil
	}
	r.contents, r.checks = bank.Inspect(plan, databases[ledger].Conn, databases[settlement].Conn)
	r.checks = append(r.checks, r.contents.AtTime(log, r.point.Time)...)
	return r, nil
}

// check adds a check to those of a recovered point.
func (r *recovered) check(name string, ok bool, format string, args ...any) {
	r.checks = append(r.checks, bank.Check{Name: name, OK: ok, Detail: fmt.Sprintf(format, args...)})
}
