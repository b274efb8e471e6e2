package events

import (
	"cmp"
)

// The events of control streams.

func (m *Member) check() error {
	return cmp.Or(
		name("volume", m.Volume),
		optional("uid", m.UID),
		within("state", m.State, Joining, Left),
		positive("roster", m.Roster),
		text("comment", m.Comment, MaxText),
	)
}

func (m *Member) size() int { return len(m.Volume) + len(m.UID) + len(m.Comment) + 48 }

func (m *Member) encode(w *writer) {
	w.array(6)
	w.str(m.Volume)
	w.str(m.UID)
	w.uint(uint64(m.State))
	w.uint(m.Roster)
	w.position(m.Stream)
	w.str(m.Comment)
}

func (m *Member) decode(r *reader) {
	r.array("member", 6)
	m.Volume = r.name("volume")
	m.UID = r.name("uid")
	m.State = MemberState(r.uint8("state"))
	m.Roster = r.uint("roster")
	m.Stream = r.position("stream")
	m.Comment = r.str("comment", MaxText)
}

func (c *Commit) check() error {
	if c.Type == Labeled && c.Label == "" {
		return malformed("labelled commit has no label")
	}
	if len(c.Vector) == 0 && c.Objects == nil {
		return malformed("commit names no stream")
	}
	if c.Objects != nil {
		if err := c.Objects.check("objects"); err != nil {
			return err
		}
	}
	return cmp.Or(
		c.Token.check(),
		within("type", c.Type, Crash, Labeled),
		optional("label", c.Label),
		instant("time", c.Time),
		positive("roster", c.Roster),
		checkVector(c.Vector),
		checkHooks(c.Hooks),
		optional("revision", c.Revision),
		lasting("hold", c.Hold),
	)
}

func checkVector(vector []VectorEntry) error {
	if len(vector) > MaxMembers {
		return malformed("vector has %d entries, more than %d", len(vector), MaxMembers)
	}
	sorted := true
	for i := range vector {
		v := &vector[i]
		if err := name("volume", v.Volume); err != nil {
			return err
		}
		if err := v.Position.check(v.Volume); err != nil {
			return err
		}
		sorted = sorted && (i == 0 || vector[i-1].Volume < v.Volume)
	}
	if sorted {
		return nil
	}
	seen := make(map[string]bool, len(vector))
	for i := range vector {
		if seen[vector[i].Volume] {
			return malformed("vector names %s twice", vector[i].Volume)
		}
		seen[vector[i].Volume] = true
	}
	return nil
}

func checkHooks(hooks []HookResult) error {
	if len(hooks) > MaxMembers {
		return malformed("commit has %d hooks, more than %d", len(hooks), MaxMembers)
	}
	for i := range hooks {
		h := &hooks[i]
		if err := cmp.Or(
			name("hook", h.Name),
			text("hook's error", h.Error, MaxText),
			lasting("hook's duration", h.Duration),
		); err != nil {
			return err
		}
	}
	return nil
}

func (c *Commit) size() int {
	n := len(c.Label) + len(c.Revision) + 128
	for i := range c.Vector {
		n += len(c.Vector[i].Volume) + 18
	}
	for i := range c.Hooks {
		n += len(c.Hooks[i].Name) + len(c.Hooks[i].Error) + 15
	}
	return n
}

func (c *Commit) encode(w *writer) {
	w.array(10)
	w.token(c.Token)
	w.uint(uint64(c.Type))
	w.str(c.Label)
	w.time(c.Time)
	w.uint(c.Roster)
	w.array(len(c.Vector))
	for i := range c.Vector {
		w.array(2)
		w.str(c.Vector[i].Volume)
		w.position(c.Vector[i].Position)
	}
	w.array(len(c.Hooks))
	for i := range c.Hooks {
		h := &c.Hooks[i]
		w.array(3)
		w.str(h.Name)
		w.str(h.Error)
		w.int(int64(h.Duration))
	}
	w.str(c.Revision)
	if c.Objects == nil {
		w.nil()
	} else {
		w.position(*c.Objects)
	}
	w.int(int64(c.Hold))
}

func (c *Commit) decode(r *reader) {
	r.array("commit", 10)
	c.Token = r.token()
	c.Type = BarrierKind(r.uint8("type"))
	c.Label = r.name("label")
	c.Time = r.time("time")
	c.Roster = r.uint("roster")
	if n := r.list("vector", MaxMembers, 6); n > 0 {
		c.Vector = make([]VectorEntry, n)
	}
	for i := range c.Vector {
		r.array("vector's entry", 2)
		c.Vector[i] = VectorEntry{Volume: r.name("volume"), Position: r.position("position")}
		if r.err != nil {
			return
		}
	}
	if n := r.list("hooks", MaxMembers, 5); n > 0 {
		c.Hooks = make([]HookResult, n)
	}
	for i := range c.Hooks {
		r.array("hook", 3)
		c.Hooks[i] = HookResult{
			Name: r.name("hook"), Error: r.str("hook's error", MaxText), Duration: r.duration("hook's duration"),
		}
		if r.err != nil {
			return
		}
	}
	c.Revision = r.name("revision")
	if !r.absent("objects") {
		p := r.position("objects")
		c.Objects = &p
	}
	c.Hold = r.duration("hold")
}

func (h *HooksOpen) check() error {
	return cmp.Or(h.Token.check(), nameList("hooks", h.Hooks))
}

func (h *HooksOpen) size() int { return 32 + sizeOf(h.Hooks) }

func (h *HooksOpen) encode(w *writer) {
	w.array(3)
	w.token(h.Token)
	w.bool(h.End)
	w.names(h.Hooks)
}

func (h *HooksOpen) decode(r *reader) {
	r.array("hooks", 3)
	h.Token = r.token()
	h.End = r.bool("end")
	h.Hooks = r.names("hooks")
}
