package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What was written by hand stays, what another run measured stays, and a miss is called one.
func TestReportKeepsWhatItDidNotMeasure(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, textName)
	if err := os.WriteFile(path, []byte("before\n"+begin+"\nold\n"+end+"\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	first, second := cases[0].name, cases[1].name
	for _, results := range [][]Result{
		{{Case: second, Name: "kept", Value: 2, Unit: "x", Bound: atLeast, Target: 1, Met: true}},
		{{Case: first, Name: "replaced", Value: 1, Unit: "x"}},
		{{Case: first, Name: "new", Value: 70, Unit: "ms", Bound: atMost, Target: 60}},
	} {
		r, err := readReport(dir)
		if err != nil {
			t.Fatal(err)
		}
		r.replace(results[0].Case, results, []Plot{{Case: results[0].Case, File: results[0].Name, Title: "picture"}})
		if err := r.write(dir); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for _, want := range []string{
		"before\n", "\nafter\n", "1 of 2 targets are met", "| kept | 2.00x | at least 1.00x | met |",
		"| new | 70.0 ms | at most 60.0 ms | **missed** |", "![picture](plots/new.svg)",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing", want)
		}
	}
	for _, not := range []string{"old", "replaced"} {
		if strings.Contains(text, not) {
			t.Errorf("%q is still there", not)
		}
	}
	if strings.Index(text, "### "+first) > strings.Index(text, "### "+second) {
		t.Error("the cases are out of order")
	}
}

func TestPercentiles(t *testing.T) {
	v := []float64{5, 1, 4, 2, 3}
	for p, want := range map[float64]float64{0: 1, 50: 3, 80: 4, 99: 5, 100: 5} {
		if got := percentile(v, p); got != want {
			t.Errorf("percentile %v is %v, want %v", p, got, want)
		}
	}
	if got := median([]float64{}); got != 0 {
		t.Errorf("median of nothing is %v", got)
	}
	if got := ratios([]float64{2, 9, 1}, []float64{1, 3, 0}); len(got) != 2 || got[0] != 2 || got[1] != 3 {
		t.Errorf("ratios %v", got)
	}
}
