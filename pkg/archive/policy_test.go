package archive_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/archive"
)

// at makes points from times, "!label" behind one labels it.
func at(t *testing.T, texts ...string) []archive.Point {
	t.Helper()
	var out []archive.Point
	for i, text := range texts {
		text, label, _ := strings.Cut(text, "!")
		when, err := time.Parse("2006-01-02 15:04", text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, archive.Point{Barrier: uint64(i), Time: when, Label: label})
	}
	return out
}

// reasons writes a decision as one line: barriers with reasons, those that go left out.
func reasons(kept []archive.Kept) string {
	var out []string
	for _, k := range kept {
		if len(k.Reasons) > 0 {
			out = append(out, fmt.Sprintf("%d %s", k.Point.Barrier, strings.Join(k.Reasons, "+")))
		}
	}
	return strings.Join(out, ", ")
}

func TestPolicy(t *testing.T) {
	t.Parallel()
	year := at(t,
		"2024-12-29 23:00",      // 0: a Sunday, week 52 of 2024
		"2024-12-30 01:00!a/b",  // 1: a Monday, week 1 of 2025
		"2024-12-31 23:59",      // 2
		"2025-01-01 00:00!beta", // 3
		"2025-01-05 10:10",      // 4: a Sunday, week 1
		"2025-01-05 10:50",      // 5
		"2025-01-06 11:00",      // 6: week 2
	)
	for name, c := range map[string]struct {
		policy archive.Policy
		points []archive.Point
		want   string
	}{
		"nothing keeps everything":       {archive.Policy{}, year[5:], "5 no policy, 6 no policy"},
		"no points":                      {archive.Policy{Last: 1}, nil, ""},
		"last":                           {archive.Policy{Last: 2}, year, "5 last, 6 last"},
		"more than there are":            {archive.Policy{Last: 9}, year[5:], "5 last, 6 last"},
		"all":                            {archive.Policy{Daily: -1}, year, "0 daily, 1 daily, 2 daily, 3 daily, 5 daily, 6 daily"},
		"hours":                          {archive.Policy{Hourly: 2}, year, "5 hourly, 6 hourly"},
		"days":                           {archive.Policy{Daily: 3}, year, "3 daily, 5 daily, 6 daily"},
		"weeks are ISO's":                {archive.Policy{Weekly: 3}, year, "0 weekly, 5 weekly, 6 weekly"},
		"months":                         {archive.Policy{Monthly: 1}, year, "6 monthly"},
		"the oldest while there is room": {archive.Policy{Monthly: 3}, year, "0 oldest monthly, 2 monthly, 6 monthly"},
		"years":                          {archive.Policy{Yearly: 2}, year, "2 yearly, 6 yearly"},
		"within the newest":              {archive.Policy{Within: 25 * time.Hour}, year, "4 within, 5 within, 6 within"},
		"all labels":                     {archive.Policy{Labels: []string{"*"}}, year, "1 label, 3 label, 6 newest"},
		"a pattern of labels":            {archive.Policy{Labels: []string{"b*", "c"}}, year, "3 label, 6 newest"},
		"a broken pattern keeps":         {archive.Policy{Labels: []string{"b["}}, year[:4], "1 label, 3 label"},
		"reasons add up":                 {archive.Policy{Last: 1, Hourly: 1, Weekly: 2, Labels: []string{"*"}}, year[3:], "3 label, 5 weekly, 6 last+hourly+weekly"},
		"the same hour of two days":      {archive.Policy{Hourly: 2}, at(t, "2025-01-01 10:00", "2025-01-02 10:00"), "0 hourly, 1 hourly"},
	} {
		got := reasons(c.policy.Apply(c.points))
		if got != c.want {
			t.Errorf("%s: kept %s, want %s", name, got, c.want)
		}
	}
	if err := (archive.Policy{Labels: []string{"*", "b["}}).Validate(); err == nil || !strings.Contains(err.Error(), `"b["`) {
		t.Errorf("a broken pattern: %v", err)
	}
}

// model keeps points by another way: it lists the periods that have points, and looks for each one's newest point.
func model(p archive.Policy, points []archive.Point) map[uint64]bool {
	keep := make(map[uint64]bool)
	if len(points) == 0 {
		return keep
	}
	newest := points[len(points)-1]
	keep[newest.Barrier] = true
	any := false
	rule := func(count int, period func(archive.Point) string) {
		if count == 0 {
			return
		}
		any = true
		latest := make(map[string]archive.Point)
		for _, point := range points {
			if before, ok := latest[period(point)]; !ok || point.Time.After(before.Time) {
				latest[period(point)] = point
			}
		}
		var order []archive.Point
		for _, point := range latest {
			order = append(order, point)
		}
		slices.SortFunc(order, func(a, b archive.Point) int { return b.Time.Compare(a.Time) })
		if count < 0 || len(order) < count {
			order = append(order, points[0])
			count = len(order)
		}
		for _, point := range order[:count] {
			keep[point.Barrier] = true
		}
	}
	rule(p.Last, func(point archive.Point) string { return fmt.Sprint(point.Barrier) })
	for layout, count := range map[string]int{"2006-01-02 15": p.Hourly, "2006-01-02": p.Daily, "2006-01": p.Monthly, "2006": p.Yearly} {
		rule(count, func(point archive.Point) string { return point.Time.UTC().Format(layout) })
	}
	rule(p.Weekly, func(point archive.Point) string { // by its Thursday
		day := point.Time.UTC()
		return day.AddDate(0, 0, 3-(int(day.Weekday())+6)%7).Format("2006-01-02")
	})
	for _, point := range points {
		within := p.Within > 0 && newest.Time.Sub(point.Time) < p.Within
		labeled := point.Label != "" && len(p.Labels) > 0
		keep[point.Barrier] = keep[point.Barrier] || within || labeled
	}
	if !any && p.Within <= 0 && len(p.Labels) == 0 {
		for _, point := range points {
			keep[point.Barrier] = true
		}
	}
	return keep
}

func TestPolicyAgainstModel(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	count := func() int { return max(-1, random.IntN(12)-6) }
	for range 3000 {
		var points []archive.Point
		when := time.Date(2023, 12, 1+random.IntN(60), random.IntN(24), 0, 0, 0, time.FixedZone("", random.IntN(7)*3600))
		step := []time.Duration{time.Minute, time.Hour, 24 * time.Hour, 7 * 24 * time.Hour}[random.IntN(4)]
		for i := range random.IntN(60) {
			when = when.Add(1 + time.Duration(random.Int64N(int64(2*step))))
			point := archive.Point{Barrier: uint64(i), Time: when}
			if random.IntN(10) == 0 {
				point.Label = "label"
			}
			points = append(points, point)
		}
		p := archive.Policy{Last: count(), Hourly: count(), Daily: count(), Weekly: count(), Monthly: count(), Yearly: count()}
		if random.IntN(3) == 0 {
			p.Within = time.Duration(random.Int64N(int64(20 * step)))
		}
		if random.IntN(3) == 0 {
			p.Labels = []string{"lab*"}
		}
		want := model(p, points)
		for _, k := range p.Apply(points) {
			if (len(k.Reasons) > 0) != want[k.Point.Barrier] {
				t.Fatalf("%+v of %v: barrier %d is kept for %q, want %v", p, points, k.Point.Barrier, k.Reasons, want[k.Point.Barrier])
			}
		}
	}
}
