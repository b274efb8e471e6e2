// Package demo is `farshore demo`: two sites as processes of one machine, two databases under load, a
// disaster, and a recovery whose result is checked against what the databases had acknowledged; then a second
// disaster that leaves the archive alone, and a recovery from that.
//
// It starts the real programs and recovers with the real command. Whatever way it ends, it leaves no
// process, and no file unless it was asked to.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/farshore/farshore/cmd/farshore/internal/bank"
	"github.com/farshore/farshore/cmd/farshore/internal/human"
	"github.com/farshore/farshore/pkg/replay"
)

// Options shape a demo.
type Options struct {
	Duration time.Duration // of the load before the disaster
	Seed     uint64
	Rate     float64 // transfers per second at most
	Keep     bool    // leave the directory
	Dir      string  // to work in: empty or new; "": a temporary one
	Bin      string  // of the programs; "": found or built

	Kube                      string // KubeAuto, KubeOn or KubeOff; "": as KubeOff
	PrimaryContext, DRContext string // of clusters that exist; "": the demo starts its own API servers
	Kubeconfig                string // with these contexts; "": the one that kubectl would use

	Out, Err io.Writer
}

// ErrChecks tells that what was recovered is not what it should be.
var ErrChecks = errors.New("checks failed")

const label = "before-delete"

// barrierInterval is between two recovery points: the document's default.
const barrierInterval = time.Second

// Limits of what the demo waits for.
const (
	firstPoint = 60 * time.Second // from the sites' start
	nextPoint  = 30 * time.Second // for a point behind an event
)

// Run runs the demo. It returns ErrChecks where a check failed.
func Run(ctx context.Context, o Options) (err error) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGHUP) // the terminal is gone: clean up then, too
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	d := &demo{options: o, screen: newScreen(o.Out), cancel: cancel}
	d.plan = bank.Plan{Seed: o.Seed, Accounts: 200, Customers: 2000, Window: 16}
	defer func() {
		err = explain(ctx, err)
		d.close()
	}()
	if err := d.prepare(ctx); err != nil {
		return err
	}
	if err := d.load(ctx); err != nil {
		return err
	}
	return d.recover(ctx)
}

// explain returns why ctx was cancelled, where it was, instead of what that led to.
func explain(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, ErrChecks) {
		return err
	}
	// A process that ends breaks connections before its end is noticed.
	const grace = 300 * time.Millisecond
	if wait(ctx, grace) == nil {
		return err
	}
	if c := context.Cause(ctx); !errors.Is(c, context.Canceled) {
		return c
	}
	return errors.New("interrupted")
}

// demo is a run.
type demo struct {
	options Options
	screen  *screen
	plan    bank.Plan
	cancel  context.CancelCauseFunc

	dir         string // of everything
	made        bool   // dir was made by the demo
	temp        string // of the sockets
	nursery     *nursery
	sites       *sites
	clusters    *clusters    // nil: without Kubernetes objects
	application *application // nil: as clusters
	witness     *witness
	watching    sync.WaitGroup
	watcher     context.CancelFunc
	ack         *os.File
	log         *bank.Log
	source      map[string]*database

	asked, marked time.Time // around the labelled mark
	deleted       time.Time // when the DELETE began
	report        report
}

// prepare starts both sites and waits for the first recovery point.
func (d *demo) prepare(ctx context.Context) error {
	if err := d.directories(); err != nil {
		return err
	}
	bin, err := programs(ctx, d.options.Bin, filepath.Join(d.dir, "bin"), d.options.Err)
	if err != nil {
		return err
	}
	d.nursery = newNursery(filepath.Join(d.dir, "logs"))
	d.nursery.cache = filepath.Join(d.dir, "cache") // it goes with everything else
	d.sites = &sites{nursery: d.nursery, bin: bin, dir: d.dir, sockets: d.temp, size: d.volumeSize()}
	if d.sites.key, err = newKey(filepath.Join(d.dir, "dr", "age.key")); err != nil {
		return err
	}
	if d.sites.clusters, err = d.kubernetes(ctx); err != nil {
		return err
	}
	d.screen.say("starting two sites in %s", d.dir)
	if err := d.sites.start(ctx, d.cancel); err != nil {
		return err
	}
	d.witness = &witness{site: d.sites.site, group: groupName}
	watching, stop := context.WithCancel(ctx)
	d.watcher = stop
	d.watching.Go(func() {
		if err := d.witness.run(watching); err != nil {
			d.cancel(err)
		}
	})

	d.screen.say("creating a ledger and a settlement, SQLite on a volume of %s each", human.Bytes(d.sites.size))
	d.source = make(map[string]*database)
	for _, name := range []string{ledger, settlement} {
		if d.source[name], err = dial(ctx, d.sites.socket(name), name); err != nil {
			return err
		}
	}
	// Calls of a database don't know ctx: they end when their device does.
	context.AfterFunc(ctx, d.sever)
	return nil
}

// directories makes the places to work in.
func (d *demo) directories() (err error) {
	d.dir = d.options.Dir
	if d.dir == "" {
		d.dir, err = os.MkdirTemp("", "farshore-demo-")
		d.made = true
	} else {
		if d.dir, err = filepath.Abs(d.dir); err != nil {
			return err
		}
		err = os.Mkdir(d.dir, 0o700)
		d.made = err == nil
		if errors.Is(err, os.ErrExist) {
			var entries []os.DirEntry
			if entries, err = os.ReadDir(d.dir); err == nil && len(entries) > 0 {
				d.dir, err = "", fmt.Errorf("directory %s is not empty: name a new one", d.dir)
			}
		}
	}
	if err != nil {
		return err
	}
	for _, name := range []string{"logs", "primary", "dr"} {
		if err := os.Mkdir(filepath.Join(d.dir, name), 0o700); err != nil {
			return err
		}
	}
	d.temp, err = os.MkdirTemp("", "fsd")
	return err
}

// volumeSize is room for all the transfers there can be.
func (d *demo) volumeSize() int64 {
	const perTransfer = 2048 // bytes in the database, amply
	need := 2 * perTransfer * int64(d.options.Rate*(d.options.Duration+nextPoint+30*time.Second).Seconds())
	const unit = 64 << 20
	return (need/unit + 1) * unit
}

// load runs the databases until the disaster.
func (d *demo) load(ctx context.Context) (err error) {
	if d.ack, err = os.Create(filepath.Join(d.dir, "acknowledged.log")); err != nil {
		return err
	}
	d.log = bank.NewLog(d.ack)
	b, err := bank.Create(d.plan, d.source[ledger].Conn, d.source[settlement].Conn, d.log, d.options.Rate)
	if err != nil {
		return err
	}
	if d.clusters != nil {
		d.application = newApplication(d.clusters, d.options.Rate, func() int64 { return d.log.Acknowledged(bank.Debit) })
		if err := d.application.install(ctx, d.clusters.primary.own != nil); err != nil {
			return err
		}
		b.Ask(d.application.gate)
		d.screen.say("installed an application: a Deployment, a Service, ConfigMaps and a Secret in namespace %s", d.clusters.namespace)
	}
	created := time.Now()
	if err := d.point(ctx, created, firstPoint); err != nil {
		return fmt.Errorf("wait for the first recovery point: %w", err)
	}
	d.screen.say("the DR site has a recovery point: the load begins")

	live, stop := context.WithCancel(ctx)
	defer stop()
	var show sync.WaitGroup
	show.Go(func() { d.screen.live(live, d.witness, d.log) })
	begun := time.Now()
	settle := d.operate(ctx)
	working := make(chan error, 1)
	go func() { working <- b.Run(ctx) }()
	err = d.events(ctx, b, begun)
	d.report.disaster = time.Now()
	d.sites.lose()
	stop()
	settle()
	show.Wait()
	ended := <-working
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if ended == nil {
		return errors.New("the load had ended before the disaster")
	}
	d.report.load, d.report.seed, d.report.transfers = d.report.disaster.Sub(begun), d.options.Seed, d.log.Acknowledged(bank.Credit)
	d.report.rpo, d.report.holds = d.witness.during(begun, d.report.disaster)
	d.screen.say("DISASTER: every process of the primary site is killed in mid-write")
	return nil
}

// operate lets the application work until the function that it returns is called, behind the disaster.
func (d *demo) operate(ctx context.Context) (settle func()) {
	if d.application == nil {
		return func() {}
	}
	operating, stop := context.WithCancel(ctx)
	lost := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		err := d.application.run(operating)
		select {
		case <-d.sites.gone: // its API server is lost, as it should be
		case <-lost:
		default:
			if err != nil {
				d.cancel(err)
			}
		}
	})
	return func() {
		close(lost)
		stop()
		running.Wait()
	}
}

// events lets the mark and the mistake happen and returns when it is time for the disaster.
func (d *demo) events(ctx context.Context, b *bank.Bank, begun time.Time) error {
	if err := wait(ctx, time.Until(begun.Add(d.options.Duration/2))); err != nil {
		return err
	}
	d.asked = time.Now()
	if _, err := d.nursery.output(ctx, d.options.Err, "farshore mark", filepath.Join(d.sites.bin, "farshore"),
		"mark", "--group", d.sites.document, "--label", label, "-o", "json"); err != nil {
		return err
	}
	d.marked = time.Now()
	d.screen.say("farshore mark --label %s", label)
	rows, deleted, err := b.DeleteCustomers(ctx)
	if err != nil {
		return err
	}
	d.deleted = deleted
	d.screen.say("DELETE FROM customers: a mistake, %s rows are gone; the load goes on", human.Count(rows))
	if d.application != nil {
		if err := d.application.mistake(ctx); err != nil {
			return fmt.Errorf("delete ConfigMap %s: %w", tariffs, err)
		}
		d.screen.say("kubectl delete configmap %s: another one", tariffs)
	}
	if err := wait(ctx, time.Until(begun.Add(d.options.Duration))); err != nil {
		return err
	}
	// The newest point is to show the mistake, however short the load was. The disaster comes well
	// between two barriers: right behind one it would cost next to nothing and show little.
	if err := d.point(ctx, time.Now(), nextPoint); err != nil {
		return err
	}
	chance := rand.New(rand.NewPCG(d.options.Seed, 1))
	return wait(ctx, barrierInterval/4+time.Duration(chance.Int64N(int64(barrierInterval/2))))
}

// point waits until the DR site has a recovery point of a later time, with objects where there are any.
func (d *demo) point(ctx context.Context, after time.Time, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the DR site has no recovery point newer than %s within %s: see the logs with --keep", after.Format(time.TimeOnly), limit))
	defer cancel()
	for {
		if p, ok := d.witness.newest(); ok && p.committed.After(after) && (p.objects || d.application == nil) {
			return nil
		}
		if err := wait(ctx, poll); err != nil {
			return err
		}
	}
}

// wait returns nil after a time, or why ctx ended before.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// recover brings two points back, one of them from the archive alone, too, checks them and reports.
func (d *demo) recover(ctx context.Context) error {
	for _, target := range []string{replay.Latest, label} {
		d.screen.say("farshore replay --to %s", target)
		r, err := d.sites.recover(ctx, d.options.Err, target, target, d.plan, d.log, d.clusters.replay(target)...)
		if err != nil {
			return err
		}
		d.report.points = append(d.report.points, r)
	}
	latest, labelled := d.report.points[0], d.report.points[1]
	latest.check("the DELETE is there", latest.contents.Customers == 0, "%d customers", latest.contents.Customers)
	labelled.check("the DELETE never was", labelled.contents.Customers == int64(d.plan.Customers), "%d of %d customers", labelled.contents.Customers, d.plan.Customers)
	at := labelled.point.Time
	labelled.check("the cut was made when it was asked for", !at.Before(d.asked) && !at.After(d.marked) && at.Before(d.deleted),
		"%s behind the request", human.Duration(at.Sub(d.asked)))
	if d.application != nil {
		latest.objects(d.application, d.clusters.drNamespace, false)
		labelled.objects(d.application, d.clusters.copied, true)
		_, _, d.report.changes = d.application.around(d.report.disaster)
		if err := d.takeOver(ctx); err != nil {
			return err
		}
	}
	if err := d.restore(ctx); err != nil {
		return err
	}
	d.report.loss = d.log.Lost(latest.contents.Debits, latest.contents.Credits)
	d.screen.print(d.report.String())
	if failed, all := d.report.failed(); failed > 0 {
		return fmt.Errorf("%d of %d %w", failed, all, ErrChecks)
	}
	return nil
}

// sever ends every call of the source databases.
func (d *demo) sever() {
	for _, db := range d.source {
		db.sever()
	}
}

// stopWatching ends the witness's watch; what it saw stays.
func (d *demo) stopWatching() {
	if d.watcher != nil {
		d.watcher()
		d.watching.Wait()
	}
}

// close ends and removes whatever prepare and load made, however far they came.
func (d *demo) close() {
	d.stopWatching()
	d.sever()
	for _, db := range d.source {
		db.close()
	}
	if d.sites != nil {
		d.sites.close()
	}
	if d.nursery != nil {
		d.nursery.close()
	}
	if d.clusters != nil {
		if d.clusters.foreign() {
			d.screen.say("removing the demo's namespaces from both clusters")
		}
		if err := d.clusters.close(); err != nil {
			fmt.Fprintln(d.options.Err, "clean up:", err)
		}
	}
	if d.ack != nil {
		_ = d.ack.Close()
	}
	d.remove()
}

func (d *demo) remove() {
	var errs []error
	if d.temp != "" {
		errs = append(errs, os.RemoveAll(d.temp))
	}
	switch {
	case d.dir == "":
	case d.options.Keep:
		d.screen.say("everything is left in %s", d.dir)
	case d.made:
		errs = append(errs, os.RemoveAll(d.dir))
	default: // it was there before, and empty
		entries, err := os.ReadDir(d.dir)
		errs = append(errs, err)
		for _, e := range entries {
			errs = append(errs, os.RemoveAll(filepath.Join(d.dir, e.Name())))
		}
	}
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(d.options.Err, "clean up:", err)
	}
}
