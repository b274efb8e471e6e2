package archive

import (
	"context"
	"time"
)

// Stats is how large an archive is.
type Stats struct {
	Points     int       `json:"points"`
	Oldest     time.Time `json:"oldest"` // commits' times; zero: there are no points
	Newest     time.Time `json:"newest"`
	Restorable int64     `json:"restorable"` // bytes that all points would restore to
	Data       int64     `json:"data"`       // of them, not zeros
	Unique     int64     `json:"unique"`     // bytes of chunks that differ, and of the trees' nodes
	Stored     int64     `json:"stored"`     // bytes in the store
	Packs      int       `json:"packs"`
	Unused     int64     `json:"unused"` // bytes in the store that no point needs
	Encrypted  bool      `json:"encrypted"`
}

// Stats measures the archive. What is damaged doesn't count as needed. Progress is told of bytes of the points whose trees were read; nil: nobody is.
func (a *Archive) Stats(ctx context.Context, progress func(done, total int64)) (*Stats, error) {
	var out *Stats
	err := withIndex(func() (err error) {
		out, err = a.stats(ctx, progress)
		return err
	})
	return out, err
}

func (a *Archive) stats(ctx context.Context, progress func(done, total int64)) (*Stats, error) {
	points, _, err := a.Points(ctx)
	if err != nil {
		return nil, err
	}
	out := &Stats{Points: len(points), Encrypted: a.Encrypted()}
	for _, p := range points {
		for _, part := range p.Parts {
			out.Restorable += part.Size
			out.Data += part.Data
		}
	}
	if len(points) > 0 {
		out.Oldest, out.Newest = points[0].Time, points[len(points)-1].Time
	}
	s := &survey{a: a, blame: func(ID, error) string { return "" }}
	if s.packs, err = a.listStates(ctx); err != nil {
		return nil, err
	}
	if err := a.refresh(ctx); err != nil {
		return nil, err
	}
	var done int64
	s.progress = func(bytes int64) {
		done += bytes
		if progress != nil {
			progress(done, out.Restorable)
		}
	}
	if _, err := s.points(ctx, points); err != nil {
		return nil, err
	}
	for _, state := range s.packs {
		out.Packs++
		out.Unique += state.raw
		out.Unused += state.unused()
	}
	for info, err := range a.store.List(ctx, "") {
		if err != nil {
			return nil, err
		}
		out.Stored += info.Size
	}
	return out, nil
}
