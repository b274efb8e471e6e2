package activity

import "sort"

// cover is a region that became clean.
type cover struct {
	region uint32
	at     uint32 // Unix time in seconds when it was cleared
	seq    uint64 // the last sequence that may hold a mutation of it; 0: there was none
}

// maxRecent is how many covers are kept, at most; 16 bytes each.
const maxRecent = 1 << 16

// recents are the regions that became clean not long ago, in the order they did, with the sequences that
// covered them. A region can be listed more than once: the highest sequence counts.
type recents struct {
	list  []cover
	reach uint64 // the highest sequence of a cover that was forgotten: only what lies behind it is known
}

func (r *recents) add(c cover) {
	if c.seq == 0 {
		return
	}
	if len(r.list) >= maxRecent {
		r.compact()
		r.forget(len(r.list) - maxRecent/2)
	}
	r.list = append(r.list, c)
}

// compact drops covers that a later one of the same region stands for.
func (r *recents) compact() {
	var seen bitmap
	for _, c := range r.list {
		seen.grow(c.region + 1)
	}
	at := len(r.list)
	for i := len(r.list) - 1; i >= 0; i-- {
		if c := r.list[i]; !seen.has(c.region) {
			seen.set(c.region)
			at--
			r.list[at] = c
		}
	}
	r.list = append([]cover(nil), r.list[at:]...)
}

// forget drops the first n covers.
func (r *recents) forget(n int) {
	if n <= 0 {
		return
	}
	for _, c := range r.list[:n] {
		r.reach = max(r.reach, c.seq)
	}
	r.list = append([]cover(nil), r.list[n:]...)
}

// expire forgets what was cleared before a time.
func (r *recents) expire(before uint32) {
	n := 0
	for n < len(r.list) && r.list[n].at < before {
		n++
	}
	r.forget(n)
}

// places remembers which sequences cover which places: the journal ended at seq, at the latest, when place
// was stored.
type places struct{ list []placeSeq }

type placeSeq struct{ place, seq uint64 }

// maxPlaces is how many pairs are remembered. With fewer a region is taken to be covered later than it is.
const maxPlaces = 128

func newPlaces() places { return places{list: []placeSeq{{}}} }

func (p *places) add(place, seq uint64) {
	if p.list[len(p.list)-1].place >= place {
		return
	}
	if len(p.list) == maxPlaces { // every other one of the older half goes
		kept := p.list[:0]
		for i, x := range p.list {
			if i >= maxPlaces/2 || i%2 == 1 {
				kept = append(kept, x)
			}
		}
		p.list = kept
	}
	p.list = append(p.list, placeSeq{place, seq})
}

// cover returns a sequence that a stored place isn't behind; 0 for no place.
func (p *places) cover(place uint64) uint64 {
	if place == 0 {
		return 0
	}
	i := sort.Search(len(p.list), func(i int) bool { return p.list[i].place >= place })
	if i == len(p.list) {
		i-- // not stored: the caller asks for no such place
	}
	return p.list[i].seq
}

// restart begins with another stream: what was stored before is not in it.
func (p *places) restart(stored uint64) { p.list = append(p.list[:0], placeSeq{place: stored}) }
