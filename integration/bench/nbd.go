package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime/pprof"
	"time"

	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/cdc/nbd"
)

const nbdSize = 256 << 20 // bytes of a volume: it stays in the page cache

func init() {
	parts["serve-nbd"] = serveNBD
}

// nbdJob is a load on an NBD server.
type nbdJob struct {
	name   string
	target float64
	args   []string
}

var nbdJobs = []nbdJob{
	{"4 KiB random write, depth 16, flush every 32", 1.0, []string{"--rw=randwrite", "--bs=4k", "--iodepth=16", "--fsync=32"}},
	{"4 KiB random write, depth 16", 1.2, []string{"--rw=randwrite", "--bs=4k", "--iodepth=16"}},
	{"4 KiB random read, depth 16", 1.2, []string{"--rw=randread", "--bs=4k", "--iodepth=16"}},
	{"1 MiB sequential write, depth 4", 1.2, []string{"--rw=write", "--bs=1M", "--iodepth=4"}},
	{"1 MiB sequential read, depth 4", 1.2, []string{"--rw=read", "--bs=1M", "--iodepth=4"}},
}

// nbdServer is one of the servers that are compared.
type nbdServer struct {
	name string
	uri  string
	*child
}

func measureNBD(ctx context.Context, m *measuring) error {
	var servers []nbdServer
	for _, start := range []func(context.Context, *measuring) (nbdServer, error){startOurs, startNbdkit, startQEMU} {
		s, err := start(ctx, m)
		if err != nil {
			return err
		}
		m.later(s.stop)
		servers = append(servers, s)
	}
	const rounds = 5
	for _, job := range nbdJobs {
		rate, cpu := map[string][]float64{}, map[string][]float64{}
		for round := range rounds {
			for i := range servers {
				s := servers[(i+round)%len(servers)]
				before, err := cpuOf(s.pid())
				if err != nil {
					return err
				}
				l, err := fio(ctx, s.uri, nbdSize, m.lasting(1500*time.Millisecond), job.args...)
				if err != nil {
					return err
				}
				after, err := cpuOf(s.pid())
				if err != nil {
					return err
				}
				rate[s.name] = append(rate[s.name], l.PerSecond)
				cpu[s.name] = append(cpu[s.name], us(after-before)/l.Operations)
			}
		}
		m.compareNBD(job, rate, cpu)
	}
	return nil
}

func (m *measuring) compareNBD(job nbdJob, rate, cpu map[string][]float64) {
	rates, costs := map[string]float64{}, map[string]float64{}
	for name := range rate {
		rates[name+" per s"] = median(rate[name])
		costs[name+" µs"] = median(cpu[name])
	}
	m.held(job.name+": rate to nbdkit's", median(ratios(rate["farshore"], rate["nbdkit"])), "x", atLeast, job.target, rates)
	m.result(job.name+": rate to qemu-nbd's", median(ratios(rate["farshore"], rate["qemu-nbd"])), "x", nil)
	m.held(job.name+": processor time per operation to nbdkit's", median(ratios(cpu["farshore"], cpu["nbdkit"])), "x", atMost, 0.6, costs)
}

// image makes a file of random bytes: every block of it is allocated.
func (m *measuring) image(name string, size int64) (string, error) {
	path := m.path(name)
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := io.CopyN(f, rand.Reader, size); err != nil {
		return "", err
	}
	return path, f.Sync()
}

func startOurs(ctx context.Context, m *measuring) (nbdServer, error) {
	path, err := m.image("farshore.img", nbdSize)
	if err != nil {
		return nbdServer{}, err
	}
	socket := m.path("farshore.sock")
	c, err := self("serve-nbd", path, socket)
	if err != nil {
		return nbdServer{}, err
	}
	return nbdServer{"farshore", uri(socket), c}, c.await(ctx, exists(socket))
}

func startNbdkit(ctx context.Context, m *measuring) (nbdServer, error) {
	path, err := m.image("nbdkit.img", nbdSize)
	if err != nil {
		return nbdServer{}, err
	}
	socket, ready := m.path("nbdkit.sock"), m.path("nbdkit.pid")
	c, err := start("nbdkit", "nbdkit", "-f", "-U", socket, "-P", ready, "file", path)
	if err != nil {
		return nbdServer{}, err
	}
	return nbdServer{"nbdkit", uri(socket), c}, c.await(ctx, exists(ready))
}

func startQEMU(ctx context.Context, m *measuring) (nbdServer, error) {
	path, err := m.image("qemu.img", nbdSize)
	if err != nil {
		return nbdServer{}, err
	}
	socket, ready := m.path("qemu.sock"), m.path("qemu.pid")
	c, err := start("qemu-nbd", "qemu-nbd", "--format=raw", "--cache=writeback", "--persistent", "--export-name=disk",
		"--socket="+socket, "--pid-file="+ready, path)
	if err != nil {
		return nbdServer{}, err
	}
	return nbdServer{"qemu-nbd", uri(socket), c}, c.await(ctx, exists(ready))
}

func uri(socket string) string { return "nbd+unix:///disk?socket=" + socket }

func exists(path string) func() bool {
	return func() bool {
		_, err := os.Stat(path)
		return err == nil
	}
}

// serveNBD serves a file without recording: serve-nbd FILE SOCKET. With FARSHORE_PROFILE set it writes a profile of
// its processor time there.
func serveNBD(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("serve-nbd wants a file and a socket, not %q", args)
	}
	if path := os.Getenv("FARSHORE_PROFILE"); path != "" {
		f, err := os.Create(filepath.Clean(path))
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	device, err := cdc.OpenFile(args[0], 0)
	if err != nil {
		return err
	}
	defer device.Close()
	l, err := net.Listen("unix", args[1])
	if err != nil {
		return err
	}
	server := nbd.NewServer(nbd.Options{})
	server.AddExport("disk", cdc.Direct(device), false)
	return server.Serve(ctx, l)
}
