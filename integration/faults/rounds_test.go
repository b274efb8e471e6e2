package faults

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/farshore/farshore/integration/harness"
)

// figures are what a run of rounds writes down.
type figures struct {
	Rounds           int            `json:"rounds"`
	Overlapping      int            `json:"overlapping"` // rounds with more than one fault at a time
	Faults           map[string]int `json:"faults"`      // by kind and victim
	RecoveryP50      float64        `json:"recoveryP50Seconds"`
	RecoveryP99      float64        `json:"recoveryP99Seconds"`
	RecoveryMax      float64        `json:"recoveryMaxSeconds"` // from a round's last fault to an applied point behind it
	Writes           int64          `json:"writesAcknowledged"`
	WorstWrite       float64        `json:"worstWriteSeconds"`
	BytesResent      int64          `json:"bytesResent"` // by passes that ended, seeds aside
	Passes           int            `json:"passes"`
	GenerationsBegun int            `json:"generationsBegun"`
	Cuts             int            `json:"cutsChecked"`
	CutsLost         int            `json:"cutsOfLostHistory"`
	Seconds          float64        `json:"seconds"`
}

// rounds is a run of faults at random moments under load.
type rounds struct {
	t      *testing.T
	p      *harness.Pair
	random *rand.Rand
	pause  time.Duration // longest SIGSTOP
	began  time.Time
	load   *harness.Chains
	figures
	took []time.Duration
}

// perPair is how many rounds one pair of sites lives through: its whole history is read at the end.
const perPair = 50

// Processes and NATS servers are killed and stopped at random moments under load, some of them at
// once, in FARSHORE_SOAK_ROUNDS rounds (50). After each one a new recovery point arrives; again
// and again the load pauses and every replica equals its source; at the end every cut was consistent.
func TestRounds(t *testing.T) {
	t.Parallel()
	count, pause := perPair, 3*time.Second
	if s := os.Getenv("FARSHORE_SOAK_ROUNDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			t.Fatalf("FARSHORE_SOAK_ROUNDS=%q is no number of rounds", s)
		}
		count, pause = n, 30*time.Second
	}
	r := &rounds{random: harness.Seeded(t), pause: pause, began: time.Now(), figures: figures{Faults: map[string]int{}}}
	for r.Rounds < count && !t.Failed() {
		upTo := min(r.Rounds+perPair, count)
		t.Run(fmt.Sprintf("to %d", upTo), func(t *testing.T) { r.live(t, upTo) })
	}
	r.write(t)
}

// live has a pair of sites live through the rounds up to a number.
func (r *rounds) live(t *testing.T, upTo int) {
	r.t, r.p = t, harness.New(t, harness.Options{Volumes: 2, Size: 32 << 20, Margin: "1m"})
	r.p.Start()
	r.startLoad()
	r.p.NewPoint(90 * time.Second)
	from := r.Rounds
	for r.Rounds < upTo && !t.Failed() {
		r.round()
		if r.Rounds%10 == 3 || r.Rounds == upTo { // soon for the first time: a fault that shows is told at once
			r.stopLoad()
			r.p.Drained(fmt.Sprintf("after-round-%d", r.Rounds))
			t.Logf("round %d of %d after %v: recovery p50 %.1f s, max %.1f s, %d writes", r.Rounds, upTo,
				time.Since(r.began).Round(time.Second), r.quantile(0.5), r.quantile(1), r.Writes)
			r.startLoad()
		}
	}
	r.stopLoad()
	cuts := checkCuts(t, r.p, r.Rounds-from)
	r.p.CheckPoints(4, r.random)
	passes, bytes := resent(t, r.p)
	r.Cuts, r.CutsLost, r.GenerationsBegun = r.Cuts+cuts.Commits, r.CutsLost+cuts.Lost, r.GenerationsBegun+cuts.Began
	r.Passes, r.BytesResent = r.Passes+passes, r.BytesResent+bytes
}

func (r *rounds) startLoad() {
	r.load = r.p.StartLoad(harness.Load{Chains: 4, Pace: 5 * time.Millisecond, Noise: true, Seed: r.random.Uint64()})
}

func (r *rounds) stopLoad() {
	r.load.Stop()
	worst, _ := r.load.Worst()
	r.WorstWrite = max(r.WorstWrite, worst.Seconds())
	r.Writes += r.load.Acked()
}

// fault is one thing done to one victim, to be undone later.
type fault struct {
	name string
	end  func()
}

// round lets one fault happen, every third time two or three at once, and waits until that is mended.
func (r *rounds) round() {
	many := 1
	if r.Rounds%3 == 2 {
		many = 2 + r.random.IntN(2)
		r.Overlapping++
	}
	victims := r.p.All()
	r.random.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })
	var open []fault
	for _, v := range victims[:many] {
		<-time.After(r.upTo(time.Second)) // a random moment
		open = append(open, r.begin(v))
	}
	<-time.After(r.upTo(r.pause))
	r.random.Shuffle(len(open), func(i, j int) { open[i], open[j] = open[j], open[i] })
	for _, f := range open {
		f.end()
		r.Faults[f.name]++
	}
	end := time.Now()
	r.p.NewPoint(90 * time.Second)
	r.took = append(r.took, time.Since(end))
	for _, x := range r.p.All() {
		if !x.Running() {
			r.t.Fatalf("round %d (%v): %s ended by itself\n%s", r.Rounds, open, x.Name, x.Tail(20))
		}
	}
	r.Rounds++
}

func (r *rounds) begin(v *harness.Process) fault {
	if r.random.IntN(2) == 0 {
		v.Signal(syscall.SIGSTOP)
		return fault{"stop " + v.Name, func() { v.Signal(syscall.SIGCONT) }}
	}
	v.Kill()
	return fault{"kill " + v.Name, v.Start}
}

func (f fault) String() string { return f.name }

func (r *rounds) upTo(d time.Duration) time.Duration {
	return time.Duration(r.random.Int64N(int64(d)))
}

func (r *rounds) quantile(q float64) float64 {
	if len(r.took) == 0 {
		return 0
	}
	sorted := slices.SortedFunc(slices.Values(r.took), cmp.Compare[time.Duration])
	return sorted[int(q*float64(len(sorted)-1))].Seconds()
}

// write writes the figures down.
func (r *rounds) write(t *testing.T) {
	t.Helper()
	r.RecoveryP50, r.RecoveryP99, r.RecoveryMax = r.quantile(0.5), r.quantile(0.99), r.quantile(1)
	r.Seconds = time.Since(r.began).Seconds()
	text, err := json.MarshalIndent(r.figures, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("figures: %s", text)
	if t.Failed() { // as with writes left out on purpose: the figures of a run that is right stay
		return
	}
	out := filepath.Join("..", "..", "out")
	if err = os.MkdirAll(out, 0o755); err == nil {
		err = os.WriteFile(filepath.Join(out, "soak.json"), append(text, '\n'), 0o644)
	}
	if err != nil {
		t.Errorf("write the figures down: %v", err)
	}
}

var passDone = regexp.MustCompile(`msg="pass done".* kind=(\w+).* bytes=(\d+)`)

// resent counts the passes that capturers ended, seeds aside, and the bytes that they sent.
func resent(t *testing.T, p *harness.Pair) (passes int, bytes int64) {
	t.Helper()
	for _, c := range p.Capturers {
		for _, m := range passDone.FindAllStringSubmatch(c.WholeLog(), -1) {
			n, err := strconv.ParseInt(m[2], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			if m[1] != "seed" {
				passes, bytes = passes+1, bytes+n
			}
		}
	}
	return passes, bytes
}
