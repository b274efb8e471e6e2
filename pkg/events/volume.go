package events

import "cmp"

// The events of volume streams, without Frame; Epoch, Mark and Heartbeat stand in other streams too.

func (e *Epoch) check() error {
	if b := e.Base; b != nil {
		if b.Generation == 0 || b.Seq == 0 {
			return malformed("base g%d/%d has a zero", b.Generation, b.Seq)
		}
	}
	return cmp.Or(
		name("writer", e.Writer),
		optional("uid", e.UID),
		natural("size", e.Size),
		natural("block size", e.BlockSize),
	)
}

func (e *Epoch) size() int { return len(e.Writer) + len(e.UID) + 64 }

func (e *Epoch) encode(w *writer) {
	w.array(5)
	w.str(e.Writer)
	w.str(e.UID)
	w.int(e.Size)
	w.int(e.BlockSize)
	if e.Base == nil {
		w.nil()
		return
	}
	w.array(3)
	w.uint(uint64(e.Base.Generation))
	w.uint(e.Base.Seq)
	w.uint(e.Base.Barrier)
}

func (e *Epoch) decode(r *reader) {
	r.array("epoch", 5)
	e.Writer = r.name("writer")
	e.UID = r.name("uid")
	e.Size = r.int("size")
	e.BlockSize = r.int("block size")
	if r.absent("base") {
		return
	}
	r.array("base", 3)
	e.Base = &Base{Generation: r.uint32("base.generation"), Seq: r.uint("base.seq"), Barrier: r.uint("base.barrier")}
}

func (m *Mark) check() error {
	return cmp.Or(m.Token.check(), lasting("hold", m.Hold), optional("revision", m.Revision))
}

func (m *Mark) size() int { return len(m.Revision) + 40 }

func (m *Mark) encode(w *writer) {
	w.array(3)
	w.token(m.Token)
	w.int(int64(m.Hold))
	w.str(m.Revision)
}

func (m *Mark) decode(r *reader) {
	r.array("mark", 3)
	m.Token = r.token()
	m.Hold = r.duration("hold")
	m.Revision = r.name("revision")
}

func (h *RegionHash) check() error {
	if h.Length > MaxContent {
		return malformed("region has %d bytes, more than %d", h.Length, MaxContent)
	}
	return extentOf("region", h.Offset, h.Length)
}

func (h *RegionHash) size() int { return 64 }

func (h *RegionHash) encode(w *writer) {
	w.array(3)
	w.int(h.Offset)
	w.int(h.Length)
	w.bin(h.Hash[:])
}

func (h *RegionHash) decode(r *reader) {
	r.array("region", 3)
	h.Offset = r.int("offset")
	h.Length = r.int("length")
	if p := r.bin("hash", len(h.Hash)); copy(h.Hash[:], p) != len(h.Hash) {
		r.fail("hash", "is too short")
	}
}

func (p *PassDone) check() error { return within("pass", p.Pass, PassSeed, PassScrub) }

func (p *PassDone) size() int { return 32 }

func (p *PassDone) encode(w *writer) {
	w.array(3)
	w.uint(uint64(p.Pass))
	w.uint(p.Regions)
	w.uint(p.Bytes)
}

func (p *PassDone) decode(r *reader) {
	r.array("pass", 3)
	p.Pass = PassKind(r.uint8("pass"))
	p.Regions = r.uint("regions")
	p.Bytes = r.uint("bytes")
}

func (s *Resize) check() error {
	if s.Old < 0 || s.New <= s.Old {
		return malformed("resize from %d to %d bytes", s.Old, s.New)
	}
	return nil
}

func (s *Resize) size() int { return 32 }

func (s *Resize) encode(w *writer) {
	w.array(2)
	w.int(s.Old)
	w.int(s.New)
}

func (s *Resize) decode(r *reader) {
	r.array("resize", 2)
	s.Old = r.int("old")
	s.New = r.int("new")
}

func (h *Heartbeat) check() error {
	p := h.Progress
	if p.Done < 0 || p.Done > p.Total {
		return malformed("progress is %d of %d bytes", p.Done, p.Total)
	}
	return cmp.Or(
		natural("debt", h.DebtBytes),
		lasting("debt's age", h.DebtAge),
		within("pass", p.Pass, 0, PassScrub),
		nameList("missing", h.Missing),
	)
}

func (h *Heartbeat) size() int { return 64 + sizeOf(h.Missing) }

func (h *Heartbeat) encode(w *writer) {
	w.array(4)
	w.int(h.DebtBytes)
	w.int(int64(h.DebtAge))
	w.array(3)
	w.uint(uint64(h.Progress.Pass))
	w.int(h.Progress.Done)
	w.int(h.Progress.Total)
	w.names(h.Missing)
}

func (h *Heartbeat) decode(r *reader) {
	r.array("heartbeat", 4)
	h.DebtBytes = r.int("debt")
	h.DebtAge = r.duration("debt's age")
	r.array("progress", 3)
	h.Progress = Progress{Pass: PassKind(r.uint8("pass")), Done: r.int("done"), Total: r.int("total")}
	h.Missing = r.names("missing")
}

// sizeOf is the size of a list of names once encoded, or a little more.
func sizeOf(list []string) int {
	n := 8
	for _, s := range list {
		n += len(s) + 2
	}
	return n
}
