package archive

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// Policy says which points are kept, in restic's terms: of each of the last so many hours, days and so on that have points, the newest one, and as long
// as there are fewer hours than that, the oldest point of all. Negative numbers keep all of them. Points are placed by their commits' time in UTC, weeks are ISO 8601's.
type Policy struct {
	Last, Hourly, Daily, Weekly, Monthly, Yearly int
	Within                                       time.Duration // before the newest point
	// Labels are patterns as path.Match has them, for which '/' is a letter like others; "*" keeps every labelled point.
	Labels []string
}

// Kept is a point and why it is kept; no reason: it isn't.
type Kept struct {
	Point   Point    `json:"point"`
	Reasons []string `json:"reasons"`
}

// rule keeps the newest point of each of the last count periods that have points.
type rule struct {
	name   string
	count  int
	period func(nth int, t time.Time) int
	last   int // period that a point was kept for; points come newest first
}

func (p Policy) rules() []*rule {
	const none = -1
	return []*rule{
		{"last", p.Last, func(nth int, _ time.Time) int { return nth }, none},
		{"hourly", p.Hourly, func(_ int, t time.Time) int { return (t.Year()*1000+t.YearDay())*100 + t.Hour() }, none},
		{"daily", p.Daily, func(_ int, t time.Time) int { return t.Year()*1000 + t.YearDay() }, none},
		{"weekly", p.Weekly, func(_ int, t time.Time) int { year, week := t.ISOWeek(); return year*100 + week }, none},
		{"monthly", p.Monthly, func(_ int, t time.Time) int { return t.Year()*100 + int(t.Month()) }, none},
		{"yearly", p.Yearly, func(_ int, t time.Time) int { return t.Year() }, none},
	}
}

// empty tells whether the policy keeps nothing.
func (p Policy) empty() bool {
	return len(p.Labels) == 0 && p.Within <= 0 && !slices.ContainsFunc(p.rules(), func(r *rule) bool { return r.count != 0 })
}

// Validate says which of the patterns of labels is none.
func (p Policy) Validate() error {
	for _, pattern := range p.Labels {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("labels to keep: %q is no pattern", pattern)
		}
	}
	return nil
}

// keepsLabel tells whether a pattern matches. A point that a broken one may have meant is kept.
func (p Policy) keepsLabel(label string) bool {
	plain := strings.NewReplacer("/", "\x00")
	return label != "" && slices.ContainsFunc(p.Labels, func(pattern string) bool {
		ok, err := path.Match(plain.Replace(pattern), plain.Replace(label))
		return ok || err != nil
	})
}

// Apply decides about points, which are given and returned oldest first. A policy that keeps nothing keeps everything: nobody means to
// delete all. The newest point is always kept.
func (p Policy) Apply(points []Point) []Kept {
	out := make([]Kept, len(points))
	rules, empty := p.rules(), p.empty()
	for i := len(points) - 1; i >= 0; i-- {
		at := points[i].Time.UTC()
		keep := &out[i]
		*keep = Kept{Point: points[i], Reasons: []string{}}
		if empty {
			keep.Reasons = append(keep.Reasons, "no policy")
			continue
		}
		if p.keepsLabel(points[i].Label) {
			keep.Reasons = append(keep.Reasons, "label")
		}
		if p.Within > 0 && at.After(points[len(points)-1].Time.Add(-p.Within)) {
			keep.Reasons = append(keep.Reasons, "within")
		}
		for _, r := range rules {
			if r.count == 0 {
				continue
			}
			period := r.period(len(points)-1-i, at)
			switch {
			case period != r.last:
				keep.Reasons = append(keep.Reasons, r.name)
			case i == 0:
				keep.Reasons = append(keep.Reasons, "oldest "+r.name)
			default:
				continue
			}
			r.last = period
			if r.count > 0 {
				r.count--
			}
		}
		if i == len(points)-1 && len(keep.Reasons) == 0 {
			keep.Reasons = append(keep.Reasons, "newest")
		}
	}
	return out
}
