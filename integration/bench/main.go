// Command bench measures Farshore against what it has to be measured against, on one machine and in
// one run: other NBD servers, plain JetStream, itself without recording. Numbers of a machine mean
// little; their ratios, from interleaved runs, are what targets are set for. A target that is missed
// is called missed; the exit code is 1 only where a case could not be run.
//
// It writes docs/benchmarks.json, and from that the table in docs/benchmarks.md, of which everything
// outside of the generated part is kept. Cases that were not picked keep what an earlier run measured. The
// plots are drawn from the same file by integration/bench/plot.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/farshore/farshore/integration/harness"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	err := run(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// parts are what this program does as a process of its own, in the service of a case.
var parts = map[string]func(ctx context.Context, args []string) error{}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		if part, is := parts[args[0]]; is {
			return part(ctx, args[1:])
		}
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	pick := flags.String("run", ".", "measure the cases whose names match this `REGEXP`")
	scale := flags.Float64("scale", 1, "multiply the time that is measured by this `FACTOR`")
	out := flags.String("out", "docs", "the `FOLDER` of benchmarks.json and benchmarks.md")
	list := flags.Bool("list", false, "list the cases")
	if err := flags.Parse(args); err != nil {
		return err
	}
	picked, err := regexp.Compile(*pick)
	if err != nil {
		return err
	}
	report, err := readReport(*out)
	if err != nil {
		return err
	}
	b := &bench{scale: *scale, commit: commit(ctx), report: report, remove: func() {}}
	defer func() { b.remove() }()
	var failed []string
	for _, c := range cases {
		if *list {
			fmt.Printf("%-22s %s\n", c.name, c.about)
			continue
		}
		if !picked.MatchString(c.name) || ctx.Err() != nil {
			continue
		}
		if err := b.measure(ctx, c); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", c.name, err)
			failed = append(failed, c.name)
			continue
		}
		if err := report.write(*out); err != nil { // what is measured is kept if a later case hangs
			return err
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("could not be measured: %s", strings.Join(failed, ", "))
	}
	return ctx.Err()
}

// commit names the code that is measured.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--exclude=*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// benchCase is a set of results that are measured together.
type benchCase struct {
	name  string
	about string
	tools []string // programs that it needs
	run   func(ctx context.Context, m *measuring) error
}

type bench struct {
	scale  float64
	commit string
	report *report
	built  bool
	remove func()
}

// pair prepares two sites for a case. Programs are built when they are first needed.
func (m *measuring) pair(o harness.Options) (*harness.Pair, error) {
	if !m.b.built {
		remove, err := harness.Use()
		if err != nil {
			return nil, err
		}
		m.b.built, m.b.remove = true, remove
	}
	o.Direct = true
	return harness.New(m.tb, o), nil
}

func (b *bench) measure(ctx context.Context, c benchCase) error {
	for _, tool := range c.tools {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is missing: %w", tool, err)
		}
	}
	dir, err := os.MkdirTemp("", "farshore-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Printf("\n%s: %s\n", c.name, c.about)
	began := time.Now()
	m := &measuring{b: b, c: c, dir: dir}
	defer m.cleanUp()
	if err := m.guarded(ctx); err != nil {
		return err
	}
	b.report.replace(c.name, m.results, m.plots)
	fmt.Printf("  %.0f s\n", time.Since(began).Seconds())
	return nil
}

// measuring is one case being measured.
type measuring struct {
	b       *bench
	c       benchCase
	dir     string
	results []Result
	plots   []Plot
	cleanup []func()
	tb      *tb
}

func (m *measuring) path(name string) string { return filepath.Join(m.dir, name) }

// lasting is a time to measure for.
func (m *measuring) lasting(d time.Duration) time.Duration {
	return time.Duration(float64(d) * m.b.scale)
}

// later runs f when the case has ended, last first.
func (m *measuring) later(f func()) { m.cleanup = append(m.cleanup, f) }

func (m *measuring) cleanUp() {
	for len(m.cleanup) > 0 {
		f := m.cleanup[len(m.cleanup)-1]
		m.cleanup = m.cleanup[:len(m.cleanup)-1]
		f()
	}
}

// result notes a number without a target.
func (m *measuring) result(name string, value float64, unit string, of map[string]float64) {
	m.add(Result{Name: name, Value: value, Unit: unit, Of: of})
}

// held notes a number that has one.
func (m *measuring) held(name string, value float64, unit, bound string, target float64, of map[string]float64) {
	met := value >= target
	if bound == atMost {
		met = value <= target
	}
	m.add(Result{Name: name, Value: value, Unit: unit, Bound: bound, Target: target, Met: met, Of: of})
}

func (m *measuring) add(r Result) {
	r.Case, r.Commit, r.Time = m.c.name, m.b.commit, time.Now().UTC().Truncate(time.Second)
	m.results = append(m.results, r)
	fmt.Printf("  %-58s %9s  %s\n", r.Name, r.value(), r.verdict())
}

func (m *measuring) plot(p Plot) {
	p.Case = m.c.name
	m.plots = append(m.plots, p)
}
