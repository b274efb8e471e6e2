package replica

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
)

// publishStatus tells how the group stands, every second.
func (f *Follower) publishStatus(ctx context.Context) error {
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	for {
		attempt, cancel := context.WithTimeout(ctx, requestTimeout)
		err := f.publishOnce(attempt)
		cancel()
		if err != nil && ctx.Err() == nil {
			f.log.Debug("the status was not published", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (f *Follower) publishOnce(ctx context.Context) error {
	s := f.status(ctx)
	f.metrics.show(ctx, s)
	body, err := json.Marshal(s)
	if err != nil {
		return err
	}
	kv, err := f.o.Site.KV(ctx, group.StatusBucket, 0)
	if err != nil {
		return err
	}
	_, err = kv.Put(ctx, f.group, body)
	return err
}

// status puts together how the group stands now.
func (f *Follower) status(ctx context.Context) *group.Status {
	cp := f.set.Checkpoint()
	s := &group.Status{Group: f.group, Applier: f.o.Instance, MissingVotes: f.timeline.votesMissing()}
	if s.MissingVotes == nil {
		s.MissingVotes = []string{}
	}
	f.mu.Lock()
	streams := make(map[string]seen)
	for part, generation := range f.view.newest {
		streams[part] = f.view.mirrors[journal.StreamID{Group: f.group, Part: part, Generation: generation}]
	}
	for _, m := range f.view.mirrors {
		s.Mirrors.Bytes += m.Bytes()
	}
	limits := f.document.Spec.Recovery.Journal
	s.Mirrors.Limit, s.Mirrors.AlertAt = uint64(limits.MaxBytes), limits.AlertAt
	var offset time.Duration
	if f.offset != nil {
		offset = *f.offset
		v := offset.Seconds()
		s.ClockOffsetSeconds = &v
	}
	f.mu.Unlock()
	tails := make(map[string]journal.Tail)
	for part, stream := range streams {
		if tail, err := f.o.Site.Tail(ctx, stream.Newest().Name); err == nil {
			tails[part] = tail
			f.readBeat(ctx, part, stream.Newest().Name, tail)
		}
	}
	s.Time = time.Now().UTC()
	primary := s.Time.Add(offset)
	f.points(s, &cp, primary)
	for _, part := range slices.Sorted(maps.Keys(streams)) {
		if part != journal.Control && part != journal.Objects {
			s.Volumes = append(s.Volumes, f.volumeStatus(streams[part], tails, &cp, primary))
		}
	}
	m, mirrored := streams[journal.Objects]
	s.Objects = f.objectsStatus(m, mirrored, tails, &cp, primary)
	if tail, ok := tails[journal.Control]; ok && tail.Messages > 0 {
		s.Lags.TransitLagSeconds = seconds(primary.Sub(tail.Header.Time))
	}
	sum(s)
	if f.o.Archiver != nil {
		s.Archive = f.o.Archiver.Status()
	}
	f.conditions(s, streams, &cp)
	return s
}

// points tells the commits that the group is at and could be at.
func (f *Follower) points(s *group.Status, cp *Checkpoint, primary time.Time) {
	point := func(c *Commit) *group.Point {
		p := PointOf(*c)
		return &p
	}
	if cp.Commit.Barrier > 0 {
		s.Applied = point(&cp.Commit)
	}
	if cp.Applying != nil {
		s.Applying = point(cp.Applying)
	}
	if newest := f.newestPoint(cp); newest != nil {
		s.RecoveryPoint = point(newest)
		s.Lags.RecoverableRPOSeconds = seconds(primary.Sub(newest.Time))
		s.Oldest = s.RecoveryPoint
	}
	if oldest, ok := f.timeline.oldest(); ok && s.Oldest != nil && oldest.Barrier < s.Oldest.Barrier {
		s.Oldest = point(&oldest)
	}
}

func (f *Follower) volumeStatus(m seen, tails map[string]journal.Tail, cp *Checkpoint, primary time.Time) group.VolumeStatus {
	stream := m.Newest()
	name := stream.ID.Part
	at := cp.Volumes[name]
	v := group.VolumeStatus{
		Name: name, UID: stream.UID, State: "joining", Generation: stream.ID.Generation,
		Size: stream.Size, StoredSeq: m.Last(), AppliedSeq: at.Seq, Incarnation: stream.Incarnation,
	}
	if at.Seq > 0 {
		v.UID, v.Size = at.UID, at.Size
	}
	if at.Generation < stream.ID.Generation {
		at.Seq, v.AppliedSeq = 0, 0 // nothing of this generation is applied yet
	}
	if at.State == Member || at.State == Left {
		v.State = string(at.State)
	}
	if tail, ok := tails[name]; ok && tail.Messages > 0 {
		v.StoredSeq = max(v.StoredSeq, tail.Last)
		v.Lags.TransitLagSeconds = seconds(primary.Sub(tail.Header.Time))
		v.Lags.ReplayDebt = replayDebt(&tail, &at)
	}
	v.RegionMismatches, _, v.Mismatches = f.mismatches.told(name)
	f.mu.Lock()
	defer f.mu.Unlock()
	if at, ok := f.scrubbed[name]; ok {
		v.Scrubbed = &at
	}
	if b := f.beats[name].body; b != nil {
		v.Lags.CaptureDebt = &group.Debt{Seconds: *seconds(b.DebtAge), Bytes: uint64(max(0, b.DebtBytes))}
		if b.Progress.Pass != 0 {
			v.Pass = &group.PassProgress{Kind: passName(b.Progress.Pass), Done: b.Progress.Done, Total: b.Progress.Total}
		}
	}
	return v
}

// replayDebt tells what lies between a replica and the end of its mirror, taking every message for as large as
// the others.
func replayDebt(tail *journal.Tail, at *Volume) *group.Debt {
	if tail.Last <= at.Seq {
		return &group.Debt{}
	}
	d := &group.Debt{Messages: tail.Last - at.Seq}
	d.Messages = min(d.Messages, tail.Messages)
	d.Bytes = uint64(float64(tail.Bytes) / float64(tail.Messages) * float64(d.Messages))
	if !at.Time.IsZero() {
		d.Seconds = *seconds(tail.Header.Time.Sub(at.Time))
	}
	return d
}

func passName(k events.PassKind) string {
	switch k {
	case events.PassSeed:
		return "seed"
	case events.PassResync:
		return "resync"
	case events.PassScrub:
		return "scrub"
	}
	return fmt.Sprintf("pass %d", k)
}

// readBeat reads the heartbeat at the end of a mirror, which may be far ahead of what is applied.
func (f *Follower) readBeat(ctx context.Context, part, stream string, tail journal.Tail) {
	f.mu.Lock()
	seq := f.beats[part].seq
	f.mu.Unlock()
	if tail.Kind != events.KindHeartbeat || tail.Last <= seq {
		return
	}
	js, err := f.o.Site.JetStream().Stream(ctx, stream)
	if err != nil {
		return
	}
	m, err := js.GetMsg(ctx, tail.Last)
	if err != nil {
		return
	}
	if _, e, err := events.Decode(stream, tail.Last, m.Data); err == nil {
		if h, ok := e.(*events.Heartbeat); ok {
			f.noteBeat(part, tail.Last, h)
		}
	}
}

// sum fills in the group's lags: ages are the worst of its streams, amounts their sums.
func sum(s *group.Status) {
	add := func(to **group.Debt, d *group.Debt) {
		if d == nil {
			return
		}
		if *to == nil {
			*to = new(group.Debt)
		}
		(*to).Seconds = max((*to).Seconds, d.Seconds)
		(*to).Bytes += d.Bytes
		(*to).Messages += d.Messages
	}
	part := func(state string, l *group.Lags) {
		if t := l.TransitLagSeconds; t != nil && state != string(Left) &&
			(s.Lags.TransitLagSeconds == nil || *t > *s.Lags.TransitLagSeconds) {
			s.Lags.TransitLagSeconds = t
		}
		add(&s.Lags.ReplayDebt, l.ReplayDebt)
		add(&s.Lags.CaptureDebt, l.CaptureDebt)
	}
	for i := range s.Volumes {
		part(s.Volumes[i].State, &s.Volumes[i].Lags)
	}
	if s.Objects != nil {
		part(s.Objects.State, &s.Objects.Lags)
	}
	if s.Volumes == nil {
		s.Volumes = []group.VolumeStatus{}
	}
}

// conditions tells what is wrong, and in one word what follows from it.
func (f *Follower) conditions(s *group.Status, streams map[string]seen, cp *Checkpoint) {
	problems := map[string][]string{}
	for name, stream := range streams {
		if at := cp.Volumes[name]; at.Seq > stream.Last() && at.Generation == stream.ID.Generation {
			problems[group.ConditionComplete] = append(problems[group.ConditionComplete],
				fmt.Sprintf("mirror %s ends at %d and the replica is at %d: it waits until the mirror is there again", stream.Newest().Name, stream.Last(), at.Seq))
		}
	}
	for i := range s.Volumes {
		v := &s.Volumes[i]
		if lag := v.Lags.TransitLagSeconds; v.State != string(Left) && lag != nil && *lag > connectedWithin.Seconds() {
			problems[group.ConditionConnected] = append(problems[group.ConditionConnected],
				fmt.Sprintf("nothing arrived from volume %s's capturer for %.0f s; if it runs, %s", v.Name, *lag, f.meanwhile()))
		}
		if _, open, newest := f.mismatches.told(v.Name); open > 0 {
			problems[group.ConditionVerified] = append(problems[group.ConditionVerified], tellMismatches(v.Name, open, newest))
		}
	}
	objectsProblems(s.Objects, problems)
	archiveProblems(s.Archive, problems)
	if len(s.MissingVotes) > 0 {
		problems[group.ConditionBarriers] = []string{"the last barrier lacked the votes of " + strings.Join(s.MissingVotes, ", ")}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, m := range f.view.mirrors {
		from := f.hole(id, &m)
		if from == 0 || f.damage[id].Seq == from {
			continue
		}
		i, _ := m.At(from)
		problems[group.ConditionComplete] = append(problems[group.ConditionComplete],
			fmt.Sprintf("stream %s lacks message %d; %s", i.Name, from, consequence(f.held(cp, id, from))))
	}
	for _, key := range slices.Sorted(maps.Keys(f.troubles)) {
		kind, _, _ := strings.Cut(key, "/")
		problems[kind] = append(problems[kind], f.troubles[key])
	}
	for _, kind := range group.Conditions() {
		ok := len(problems[kind]) == 0
		if was, known := f.since[kind]; !known || was.ok != ok {
			f.since[kind] = condition{ok, s.Time}
		}
		slices.Sort(problems[kind])
		s.Conditions = append(s.Conditions, group.Condition{
			Type: kind, OK: ok, Message: strings.Join(problems[kind], "; "), Since: f.since[kind].at,
		})
	}
	s.Phase = phase(s, problems)
}

// consequence tells what follows from a hole.
func consequence(held bool) string {
	if held {
		return "points behind it can't be replayed from before it"
	}
	return "the replicas stay before it"
}

// meanwhile tells what a capturer does that reaches no journal.
func (f *Follower) meanwhile() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.document.Spec.Capture.WhenBusGone == group.BusGoneStall {
		return "writes wait there once its memory is used up"
	}
	return "writes go on there, are tracked, and are sent later"
}

// tellMismatches names the newest region that differs.
func tellMismatches(volume string, open int, newest []group.RegionMismatch) string {
	for _, r := range slices.Backward(newest) {
		if !r.Healed {
			return fmt.Sprintf("%d regions of volume %s differ from their source until they were sent again; the newest: %d bytes at %d (generation %d, sequence %d)",
				open, volume, r.Length, r.Offset, r.Generation, r.Seq)
		}
	}
	return fmt.Sprintf("%d regions of volume %s differ from their source", open, volume)
}

func phase(s *group.Status, problems map[string][]string) group.Phase {
	switch {
	case len(problems[group.ConditionComplete]) > 0, len(problems[group.ConditionStorage]) > 0:
		return group.PhaseStopped
	case s.Applied != nil:
		return group.PhaseFollowing
	case len(s.Volumes) > 0, s.Objects != nil:
		return group.PhaseSeeding
	}
	return group.PhaseStarting
}
