package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// load is what a run of fio did.
type load struct {
	Operations float64 // reads and writes, flushes not counted
	PerSecond  float64
	Bytes      float64       // per second
	P50, P99   time.Duration // of a read or a write
	FlushP50   time.Duration
}

type fioDirection struct {
	Operations float64 `json:"total_ios"`
	PerSecond  float64 `json:"iops"`
	Bytes      float64 `json:"bw_bytes"`
	Latency    fioLat  `json:"clat_ns"`
}

type fioLat struct {
	Percentile map[string]float64 `json:"percentile"`
}

func (l fioLat) at(p string) time.Duration { return time.Duration(l.Percentile[p]) }

// fio runs a job with the nbd engine for a while.
func fio(ctx context.Context, uri string, size int64, d time.Duration, args ...string) (load, error) {
	args = append([]string{"--name=bench", "--ioengine=nbd", "--uri=" + uri, "--thread", "--randrepeat=0", "--norandommap",
		fmt.Sprintf("--size=%d", size), "--time_based", fmt.Sprintf("--runtime=%dms", d.Milliseconds()), "--output-format=json"}, args...)
	cmd := exec.CommandContext(ctx, "fio", args...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return load{}, fmt.Errorf("fio %s: %w: %s", strings.Join(args, " "), err, said.String())
	}
	var report struct {
		Jobs []struct {
			Read  fioDirection `json:"read"`
			Write fioDirection `json:"write"`
			Sync  struct {
				Latency fioLat `json:"lat_ns"`
			} `json:"sync"`
		} `json:"jobs"`
	}
	if i := strings.IndexByte(string(out), '{'); i > 0 { // warnings come first
		out = out[i:]
	}
	if err := json.Unmarshal(out, &report); err != nil {
		return load{}, fmt.Errorf("decode fio's report: %w", err)
	}
	if len(report.Jobs) == 0 {
		return load{}, fmt.Errorf("fio reported no job: %s", said.String())
	}
	j := report.Jobs[0]
	of := j.Read
	if j.Write.Operations > 0 {
		of = j.Write
	}
	return load{
		Operations: j.Read.Operations + j.Write.Operations, PerSecond: j.Read.PerSecond + j.Write.PerSecond,
		Bytes: j.Read.Bytes + j.Write.Bytes, P50: of.Latency.at("50.000000"), P99: of.Latency.at("99.000000"),
		FlushP50: j.Sync.Latency.at("50.000000"),
	}, nil
}
