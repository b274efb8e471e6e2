// Command plot draws the plots of docs/benchmarks.json as SVG files. It is a module of its own, so that what it
// needs for drawing isn't among what Farshore depends on.
//
//	cd integration/bench/plot && go run . ../../../docs
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// picture is a plot as integration/bench writes it.
type picture struct {
	File   string `json:"file"`
	Title  string `json:"title"`
	X      string `json:"x"`
	Y      string `json:"y"`
	LogX   bool   `json:"logX"`
	LogY   bool   `json:"logY"`
	Series []struct {
		Name   string       `json:"name"`
		Points [][2]float64 `json:"points"`
	} `json:"series"`
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "plot: name the folder of benchmarks.json")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "plot:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "benchmarks.json"))
	if err != nil {
		return err
	}
	var report struct {
		Plots []picture `json:"plots"`
	}
	if err := json.Unmarshal(b, &report); err != nil {
		return fmt.Errorf("read benchmarks.json: %w", err)
	}
	out := filepath.Join(dir, "plots")
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	var failed []error
	for _, p := range report.Plots {
		if err := p.draw(filepath.Join(out, p.File+".svg")); err != nil {
			failed = append(failed, fmt.Errorf("draw %s: %w", p.File, err))
		}
	}
	return errors.Join(failed...)
}

func (p picture) draw(path string) error {
	c := plot.New()
	c.Title.Text, c.X.Label.Text, c.Y.Label.Text = p.Title, p.X, p.Y
	c.Add(plotter.NewGrid())
	if p.LogX {
		c.X.Scale, c.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	}
	if p.LogY {
		c.Y.Scale, c.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	} else {
		c.Y.Min = 0
	}
	c.Legend.Top, c.Legend.Left = true, true
	for i, s := range p.Series {
		points := make(plotter.XYs, 0, len(s.Points))
		for _, x := range s.Points {
			points = append(points, plotter.XY{X: x[0], Y: x[1]})
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return err
		}
		line.Color, line.Width = plotutil.Color(i), vg.Points(1.5)
		dots.Color, dots.Shape, dots.Radius = plotutil.Color(i), plotutil.Shape(i), vg.Points(2)
		if len(points) > 50 {
			c.Add(line)
			c.Legend.Add(s.Name, line)
			continue
		}
		c.Add(line, dots)
		c.Legend.Add(s.Name, line, dots)
	}
	if !p.LogY {
		c.Y.Max *= 1.25 // the legend's room
	}
	return save(c, path)
}

// save leaves room beside the plot: the last number of an axis reaches beyond it.
func save(c *plot.Plot, path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	canvas := vgsvg.New(18*vg.Centimeter, 10*vg.Centimeter)
	c.Draw(draw.Crop(draw.New(canvas), 0, -vg.Centimeter, 0, -vg.Centimeter/4))
	_, err = canvas.WriteTo(f)
	return err
}
