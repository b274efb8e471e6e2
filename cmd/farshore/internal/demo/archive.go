package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/farshore/farshore/cmd/farshore/internal/human"
	"github.com/farshore/farshore/cmd/farshore/internal/statusview"
	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/replay"
)

// archiveLimit bounds how long the labelled point takes until it is archived.
const archiveLimit = 60 * time.Second

// restore loses the DR site as well, but for the archive, and brings the labelled point back from that.
func (d *demo) restore(ctx context.Context) error {
	labelled := d.report.points[1]
	stats, err := d.archived(ctx, labelled.point.Barrier)
	if err != nil {
		return err
	}
	d.report.archive = stats
	truth, err := d.witness.contents(ctx, labelled.point.Barrier, d.dir)
	if err != nil {
		return err
	}
	labelled.compare(truth)
	if err := d.loseDR(); err != nil {
		return err
	}
	d.screen.say("SECOND DISASTER: the DR site's processes are killed, its journal and its replicas are deleted; the archive is left")
	plan, err := d.dryRun(ctx)
	if err != nil {
		return err
	}
	d.screen.say("farshore replay --to %s --from-archive --dry-run: %s in %s requests", label, human.Bytes(int64(plan.Archive.Bytes)), human.Count(plan.Requests))
	d.screen.say("farshore replay --to %s --from-archive", label)
	r, err := d.sites.recover(ctx, d.options.Err, label, "archive", d.plan, d.log, "--from-archive", "--identity", d.sites.key.path)
	if err != nil {
		return err
	}
	r.alone, r.bytes = true, plan.Archive.Bytes
	d.report.points = append(d.report.points, r)
	r.check("it is the point that was labelled", r.point.Barrier == labelled.point.Barrier, "barrier %d", r.point.Barrier)
	r.compare(truth)
	r.check("the DELETE never was", r.contents.Customers == int64(d.plan.Customers), "%d of %d customers", r.contents.Customers, d.plan.Customers)
	if d.application != nil {
		r.objects(d.application, d.clusters.drNamespace, true)
	}
	return nil
}

// archived waits until the archive lists a point, and returns how large it is then.
func (d *demo) archived(ctx context.Context, barrier uint64) (*archive.Stats, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, archiveLimit, errors.New("it takes too long"))
	defer cancel()
	for told := false; ; told = true {
		listed, err := d.listed(ctx, barrier)
		if listed {
			break
		}
		if !told {
			d.screen.say("waiting until %s is archived", label)
		}
		if wait(ctx, 200*time.Millisecond) != nil {
			return nil, fmt.Errorf("wait until barrier %d is archived: %w: %s", barrier, context.Cause(ctx), d.unarchived(err))
		}
	}
	out, err := d.farshore(ctx, d.options.Err, "archive", "stats", "-o", "json")
	if err != nil {
		return nil, err
	}
	stats := new(archive.Stats)
	if err := json.Unmarshal(out, stats); err != nil {
		return nil, fmt.Errorf("decode the result of farshore archive stats: %w", err)
	}
	d.screen.say("farshore archive list: %s is among %s archived points, %s in all", label, human.Count(int64(stats.Points)), human.Bytes(stats.Stored))
	return stats, nil
}

// listed tells whether the archive lists a point.
func (d *demo) listed(ctx context.Context, barrier uint64) (bool, error) {
	out, err := d.farshore(ctx, io.Discard, "archive", "list", "-o", "json")
	if err != nil {
		return false, err
	}
	var list struct{ Points []archive.Point }
	if err := json.Unmarshal(out, &list); err != nil {
		return false, fmt.Errorf("decode the result of farshore archive list: %w", err)
	}
	return slices.ContainsFunc(list.Points, func(p archive.Point) bool { return p.Barrier == barrier }), nil
}

// dryRun asks what the replay from the archive would read.
func (d *demo) dryRun(ctx context.Context) (*replay.Plan, error) {
	out, err := d.farshore(ctx, d.options.Err, "replay", "--to", label, "--into", filepath.Join(d.dir, "recovered", "archive"),
		"--from-archive", "--identity", d.sites.key.path, "--dry-run", "-o", "json")
	if err != nil {
		return nil, err
	}
	plan := new(replay.Plan)
	if err := json.Unmarshal(out, plan); err != nil {
		return nil, fmt.Errorf("decode the result of farshore replay --dry-run: %w", err)
	}
	return plan, nil
}

// unarchived tells what keeps points from being archived, as far as anybody knows.
func (d *demo) unarchived(err error) string {
	limited, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	st, statusErr := statusview.Read(limited, d.sites.site, groupName)
	switch {
	case err != nil:
		return err.Error()
	case statusErr != nil || st.Archive == nil:
		return "the applier tells nothing of an archive"
	case st.Archive.Problem != "":
		return st.Archive.Problem
	}
	return "see the applier's log with --keep"
}

// loseDR kills the DR site's processes and deletes what they kept, but for the archive.
func (d *demo) loseDR() error {
	d.stopWatching()
	d.sites.loseDR()
	dr := filepath.Join(d.dir, "dr")
	return errors.Join(os.RemoveAll(filepath.Join(dr, "bus")), os.RemoveAll(filepath.Join(dr, "recovery")))
}

// compare checks what was recovered, before anybody opened it, byte by byte.
func (r *recovered) compare(truth map[string]sum) {
	same := 0
	for volume, want := range truth {
		if r.sums[volume] == want {
			same++
		}
	}
	r.check("every byte is as it was written", same == len(truth) && len(r.sums) == len(truth), "%d of %d volumes", same, len(truth))
}

// archiveLine is the archive's in the live part of the screen.
func archiveLine(a *group.ArchiveStatus) string {
	if a.Problem != "" {
		return "archive          " + a.Problem
	}
	text := fmt.Sprintf("archive          %s points, the newest %s", human.Count(int64(a.Points)), statusview.Point(a.Newest))
	if a.Running != nil {
		text += fmt.Sprintf(", archiving #%d", a.Running.Point.Barrier)
	}
	return text
}
