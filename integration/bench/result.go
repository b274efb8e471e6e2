package main

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Result is one number with what it is held against.
type Result struct {
	Case  string  `json:"case"`
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"` // x for a ratio
	// Target is what Value should be: at least or at most; Bound "" where there is none.
	Bound  string  `json:"bound,omitempty"`
	Target float64 `json:"target,omitempty"`
	Met    bool    `json:"met,omitempty"`
	// Of is what the value was made of: medians, by name with their unit.
	Of     map[string]float64 `json:"of,omitempty"`
	Commit string             `json:"commit"`
	Time   time.Time          `json:"time"`
}

// Plot is a picture of series that share their axes.
type Plot struct {
	Case   string   `json:"case"`
	File   string   `json:"file"` // name without folder
	Title  string   `json:"title"`
	X      string   `json:"x"`
	Y      string   `json:"y"`
	LogX   bool     `json:"logX,omitempty"`
	LogY   bool     `json:"logY,omitempty"`
	Series []Series `json:"series"`
}

// Series is a line of a Plot.
type Series struct {
	Name   string       `json:"name"`
	Points [][2]float64 `json:"points"`
}

const (
	atLeast = "at least"
	atMost  = "at most"
)

// median of an even number of values is the lower of the two in the middle.
func median[T cmp.Ordered](v []T) T { return percentile(v, 50) }

// percentile is the smallest value that p percent of v don't exceed.
func percentile[T cmp.Ordered](v []T, p float64) T {
	var zero T
	if len(v) == 0 {
		return zero
	}
	v = slices.Sorted(slices.Values(v))
	i := int(math.Ceil(p/100*float64(len(v)))) - 1
	return v[min(max(i, 0), len(v)-1)]
}

// ratios divides two interleaved lists pair by pair: what disturbed both runs of a round is out of their ratio.
func ratios(a, b []float64) []float64 {
	var out []float64
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			out = append(out, a[i]/b[i])
		}
	}
	return out
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func itoa(n int) string { return strconv.Itoa(n) }

func contains(s, part string) bool { return strings.Contains(s, part) }
