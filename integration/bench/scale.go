package main

import (
	"context"
	"fmt"
	"time"

	"github.com/farshore/farshore/integration/harness"
)

// scaled is what a number of volumes costs.
type scaled struct {
	volumes  int
	resident int64 // of the capturer, bytes
}

func measureScale(ctx context.Context, m *measuring) error {
	var all []scaled
	memory, cost, hold := Series{Name: "capturer, MiB resident"}, Series{Name: "all processes, ms of processor time per second"}, Series{Name: "barrier, ms"}
	for _, n := range []int{1, 10, 100} {
		one, err := m.measureVolumes(ctx, n, &cost, &hold)
		if err != nil {
			return fmt.Errorf("%d volumes: %w", n, err)
		}
		all = append(all, one)
		memory.Points = append(memory.Points, [2]float64{float64(n), float64(one.resident) / (1 << 20)})
	}
	first, last := all[0], all[len(all)-1]
	each := float64(last.resident-first.resident) / float64(last.volumes-first.volumes) / 1024
	m.held("memory of a capturer for each idle volume", each, "KiB", atMost, 256, map[string]float64{
		"MiB with 1": float64(first.resident) / (1 << 20), "MiB with 100": float64(last.resident) / (1 << 20),
	})
	m.plot(Plot{File: "scale", Title: "What idle volumes cost", X: "volumes", Y: "", LogX: true, LogY: true, Series: []Series{memory, cost, hold}})
	return nil
}

// measureVolumes measures n volumes. Its sites end with it.
func (m *measuring) measureVolumes(ctx context.Context, n int, cost, hold *Series) (scaled, error) {
	defer m.cleanUp()
	s, err := m.sites(ctx, harness.Options{MaxBytes: "256Mi", Volumes: n, Each: n, Size: 64 << 20, Interval: time.Second, HoldLimit: 2 * time.Second, Memory: "256Mi"})
	if err != nil {
		return scaled{}, err
	}
	pause(ctx, 15*time.Second) // what the first pass used goes back to the system, whatever BENCHTIME is
	t, err := s.primary.Tail(ctx, stream(0).Name())
	if err != nil {
		return scaled{}, err
	}
	names := []string{"capturer", "snapshotter", "applier", "bus primary", "bus DR"}
	processes := []*harness.Process{s.Capturers[0], s.Snapshotter, s.Applier, s.PrimaryBus, s.DRBus}
	before := make([]time.Duration, len(processes))
	for i, x := range processes {
		if before[i], err = cpuOf(x.Pid()); err != nil {
			return scaled{}, err
		}
	}
	begun := time.Now()
	pause(ctx, m.lasting(10*time.Second))
	passed := time.Since(begun).Seconds()
	costs, memories, sum := map[string]float64{}, map[string]float64{}, 0.0
	for i, x := range processes {
		after, err := cpuOf(x.Pid())
		if err != nil {
			return scaled{}, err
		}
		costs[names[i]+" ms"] = ms(after-before[i]) / passed
		sum += ms(after-before[i]) / passed
		now, _, err := memoryOf(x.Pid())
		if err != nil {
			return scaled{}, err
		}
		memories[names[i]+" MiB"] = float64(now) / (1 << 20)
	}
	var holds, marks []float64
	for i := range n {
		h, err := s.holds(ctx, stream(i), max(1, t.Last/2))
		if err != nil {
			return scaled{}, err
		}
		holds = append(holds, h...)
	}
	for range 10 {
		begun := time.Now()
		if _, err := s.mark(ctx); err != nil {
			return scaled{}, err
		}
		marks = append(marks, ms(time.Since(begun)))
	}
	m.result(fmt.Sprintf("%d volumes: processor time of all processes", n), sum, "ms/s", costs)
	m.result(fmt.Sprintf("%d volumes: resident memory of the capturer", n), memories["capturer MiB"], "MiB", memories)
	m.result(fmt.Sprintf("%d volumes: a barrier, from the request to its commit, p50", n), median(marks), "ms",
		map[string]float64{"hold p50 ms": median(holds), "hold p99 ms": percentile(holds, 99)})
	cost.Points = append(cost.Points, [2]float64{float64(n), max(sum, 0.1)})
	hold.Points = append(hold.Points, [2]float64{float64(n), median(marks)})
	return scaled{n, int64(memories["capturer MiB"] * (1 << 20))}, nil
}
