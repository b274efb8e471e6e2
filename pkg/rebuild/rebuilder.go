package rebuild

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/farshore/farshore/pkg/group"
)

// Defaults of Options, and the times between tries of an API server that is down.
const (
	defaultLook         = 5 * time.Minute
	defaultRehearse     = 30 * time.Minute
	defaultRehearseRate = 20
	firstReach          = time.Second
	lastReach           = 15 * time.Second
	deniedLook          = 15 * time.Second // between two looks while a kind may not be listed
	idle                = time.Hour
	// patience is how often a release tries what is refused before it ends without it.
	patience = 4
	// shownRefusals is how many refusals a status lists.
	shownRefusals = 50
)

// Rebuilder keeps the objects of one group at one API server. Its methods may be called concurrently.
type Rebuilder struct {
	o    Options
	srv  *server
	log  *slog.Logger
	m    *instruments
	wake chan struct{}

	mu       sync.Mutex
	wanted   State
	rules    Rules
	revised  int // how often rules changed
	progress Progress
	only     map[target]bool // what a release that was asked for again is to release; nil: all
	again    bool            // what was refused is to be tried at once
	moved    chan struct{}   // closed when progress changes
	status   group.ObjectsStatus
}

// New returns a Rebuilder. It doesn't reach the API server yet.
func New(o Options) (*Rebuilder, error) {
	o.Look = cmp.Or(o.Look, defaultLook)
	o.Rehearse = cmp.Or(o.Rehearse, defaultRehearse)
	o.RehearseRate = cmp.Or(o.RehearseRate, defaultRehearseRate)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	srv, err := newServer(o.Config)
	if err != nil {
		return nil, err
	}
	m, err := newInstruments(o.Meter, o.Group)
	if err != nil {
		return nil, err
	}
	return &Rebuilder{
		o: o, srv: srv, log: o.Log, m: m, wake: make(chan struct{}, 1), rules: o.Rules,
		progress: Progress{Mode: ModeStandby}, moved: make(chan struct{}),
	}, nil
}

// Want makes state what the API server should hold. A state of no commit is ignored, and so is every other state
// once a release began.
func (r *Rebuilder) Want(state State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if state.Point().Barrier == 0 || r.progress.Mode != ModeStandby && r.wanted != nil {
		return
	}
	r.wanted = state
	r.stir()
}

// Resume goes on where a release stood, in an earlier process. It is called before Run.
func (r *Rebuilder) Resume(p Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.Mode = cmp.Or(p.Mode, ModeStandby)
	r.progress, r.status.Released = p, p.Mode == ModeReleased
	if p.Mode == ModeReleasing && len(p.Failed) > 0 {
		r.only = failed(p) // it had ended before, and was asked for again
	}
}

// Update makes rules the ones to follow; what they change is applied again.
func (r *Rebuilder) Update(rules Rules) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules = rules
	r.revised++
	r.stir()
}

// Known tells whether there is a state that could be released.
func (r *Rebuilder) Known() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.wanted != nil
}

// Status tells how the API server stands: the fields of the status from Applied on.
func (r *Rebuilder) Status() *group.ObjectsStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.status
	s.Refused = slices.Clone(s.Refused)
	return &s
}

// stir makes Run look at what is wanted.
func (r *Rebuilder) stir() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run reconciles until ctx ends; it returns nil then. It may be called once.
func (r *Rebuilder) Run(ctx context.Context) error {
	l := &loop{r: r, rec: r.reconciler()}
	l.rec.after = func() { r.show(l, false) }
	for ctx.Err() == nil {
		wait := l.turn(ctx)
		select {
		case <-ctx.Done():
		case <-r.wake:
		case <-time.After(wait):
		}
	}
	return nil
}

func (r *Rebuilder) reconciler() *reconciler {
	return newReconciler(r.srv, r.o.Group, r.o.NamespacedOnly, r.log, r.m)
}

// loop is the state of Run.
type loop struct {
	r       *Rebuilder
	rec     *reconciler
	revised int
	looked  time.Time // when the next look is due
	problem string    // why the API server can't be followed
	downs   int       // how often in a row it was down
	applied *group.Point
	room    allowance // of dry runs
}

// turn does what is due, and tells when something is again.
func (l *loop) turn(ctx context.Context) time.Duration {
	r, rec := l.r, l.rec
	r.mu.Lock()
	state, rules, revised, mode, only, again := r.wanted, r.rules, r.revised, r.progress.Mode, r.only, r.again
	r.again = false
	r.mu.Unlock()
	if state == nil || mode == ModeReleased {
		return idle
	}
	f := formHeld
	if mode == ModeReleasing {
		f = formReleased
	}
	rec.only = only
	if again {
		rec.forgive()
	}
	if state != rec.state || revised != l.revised || f != rec.form {
		rec.adopt(state, rules, f, revised != l.revised || f != rec.form)
		l.revised = revised
	}
	err := l.work(ctx)
	if ctx.Err() != nil {
		return idle
	}
	rec.tell()
	if err != nil {
		return l.unreachable(err)
	}
	if l.downs > 0 {
		r.log.Info("API server is followed again", "after", l.downs)
	}
	at := state.Point()
	l.downs, l.problem, l.applied = 0, "", &at
	r.show(l, true)
	return l.next()
}

// work reconciles once.
func (l *loop) work(ctx context.Context) error {
	if now := l.rec.now(); !now.Before(l.looked) {
		if err := l.rec.look(ctx); err != nil {
			return err
		}
		l.looked = now.Add(l.r.o.Look)
		if len(l.rec.denied) > 0 {
			l.looked = now.Add(min(l.r.o.Look, deniedLook))
		}
	}
	if err := l.rec.pass(ctx); err != nil {
		return err
	}
	if err := l.rec.sweep(ctx); err != nil {
		return err
	}
	return l.rec.rehearse(ctx, l.room.take(l.rec.now(), l.r.o.RehearseRate), l.r.o.Rehearse)
}

// unreachable notes that the API server is down and tells when to try again: then everything is looked at, since it may
// come back as another one.
func (l *loop) unreachable(err error) time.Duration {
	if l.problem == "" {
		l.r.log.Warn("API server can't be followed, will go on by itself", "error", err)
	}
	l.problem, l.looked = err.Error(), time.Time{}
	wait := min(firstReach<<min(l.downs, 10), lastReach)
	l.downs++
	l.r.show(l, false)
	return wait
}

// next tells when something is due.
func (l *loop) next() time.Duration {
	now := l.rec.now()
	due := l.looked
	earlier := func(t time.Time) {
		if t.Before(due) {
			due = t
		}
	}
	for _, it := range l.rec.items {
		switch {
		case l.rec.wants(it):
			earlier(it.next)
		case l.rec.rehearses(it):
			earlier(now.Add(time.Second))
		case it.rehearsed != "" && l.rec.form == formHeld:
			earlier(it.rehearsal)
		}
	}
	for _, s := range l.rec.strays {
		earlier(s.next)
	}
	return max(due.Sub(now), poll)
}

// allowance is a rate of requests, saved up for one second at most.
type allowance struct {
	at    time.Time
	saved float64
}

// take returns how many requests may be made now, and counts them as made.
func (a *allowance) take(now time.Time, perSecond float64) int {
	if a.at.IsZero() {
		a.saved = perSecond
	} else {
		a.saved = min(a.saved+perSecond*now.Sub(a.at).Seconds(), max(perSecond, 1))
	}
	a.at = now
	n := int(a.saved)
	a.saved -= float64(n)
	return n
}

// show publishes how things stand. whole: everything was tried that is due.
func (r *Rebuilder) show(l *loop, whole bool) {
	s := l.rec.status()
	s.Applied, s.Problem = l.applied, l.problem
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.progress.Mode == ModeReleasing && l.rec.form == formReleased {
		p := l.rec.progress()
		p.Since, p.Mode, p.Point = r.progress.Since, ModeReleasing, l.rec.state.Point()
		if whole && l.rec.spent() {
			p.Mode, p.Phase = ModeReleased, ""
		}
		r.progress = p
		close(r.moved)
		r.moved = make(chan struct{})
	}
	s.Released = r.progress.Mode == ModeReleased
	r.status = s
	r.m.show(context.Background(), len(l.rec.items), &s)
}
