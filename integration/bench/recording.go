package main

import (
	"context"
	"os"
	"time"

	"github.com/farshore/farshore/integration/harness"
)

type recordingJob struct {
	name  string
	depth int
	held  bool // against the targets
}

func (m *measuring) compareRecording(ctx context.Context, size int64, jobs []recordingJob) error {
	plain, err := m.plainVolume(ctx, size)
	if err != nil {
		return err
	}
	p, err := m.pair(harness.Options{MaxBytes: "20Gi", Volumes: 1, Size: size, Memory: "256Mi"})
	if err != nil {
		return err
	}
	for _, x := range []*harness.Process{p.PrimaryBus, p.Capturers[0]} {
		x.Start()
		x.WaitReady()
	}
	recorded := "nbd+unix:///" + harness.Volume(0) + "?socket=" + p.Socket(0)
	harness.Eventually(m.tb, time.Minute, "the volume was passed", func() error {
		if !contains(p.Capturers[0].Log(), "pass done") {
			return os.ErrNotExist
		}
		return nil
	})
	const rounds = 5
	for _, job := range jobs {
		writes, flushes, rates := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
		for round := range rounds {
			names := []string{"plain", "recorded"}
			if round%2 == 1 {
				names = []string{"recorded", "plain"}
			}
			for _, name := range names {
				uri := plain
				if name == "recorded" {
					uri = recorded
				}
				l, err := fio(ctx, uri, size, m.lasting(2*time.Second), "--rw=randwrite", "--bs=4k", "--fsync=32", "--iodepth="+itoa(job.depth))
				if err != nil {
					return err
				}
				writes[name] = append(writes[name], us(l.P50))
				flushes[name] = append(flushes[name], us(l.FlushP50))
				rates[name] = append(rates[name], l.PerSecond)
			}
		}
		m.compareLatency(job, writes, flushes, rates)
	}
	return nil
}

func (m *measuring) compareLatency(job recordingJob, writes, flushes, rates map[string][]float64) {
	of := func(v map[string][]float64, unit string) map[string]float64 {
		return map[string]float64{"plain " + unit: median(v["plain"]), "recorded " + unit: median(v["recorded"])}
	}
	write, flush := median(ratios(writes["recorded"], writes["plain"])), median(ratios(flushes["recorded"], flushes["plain"]))
	if job.held {
		m.held("p50 of a write, "+job.name, write, "x", atMost, 1.3, of(writes, "µs"))
		m.held("p50 of a flush, "+job.name, flush, "x", atMost, 1.2, of(flushes, "µs"))
	} else {
		m.result("p50 of a write, "+job.name, write, "x", of(writes, "µs"))
		m.result("p50 of a flush, "+job.name, flush, "x", of(flushes, "µs"))
	}
	m.result("rate, "+job.name, median(ratios(rates["recorded"], rates["plain"])), "x", of(rates, "per s"))
}

// plainVolume serves a sparse file without recording and returns its address.
func (m *measuring) plainVolume(ctx context.Context, size int64) (string, error) {
	path, socket := m.path("plain.img"), m.path("plain.sock")
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return "", err
	}
	c, err := self("serve-nbd", path, socket)
	if err != nil {
		return "", err
	}
	m.later(c.stop)
	return uri(socket), c.await(ctx, exists(socket))
}
