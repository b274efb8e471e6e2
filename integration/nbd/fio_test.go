package nbd

import (
	"strings"
	"testing"
)

// fio runs a job with the nbd engine.
func fio(t *testing.T, v *volume, args ...string) {
	t.Helper()
	tool(t, "fio", append([]string{
		"--name=volume", "--ioengine=nbd", "--uri=" + v.uri, "--thread", "--size=64M", "--output-format=terse",
	}, args...)...)
}

func TestFioVerify(t *testing.T) {
	require(t, "fio")
	if out, err := try(t, "fio", "--enghelp=nbd"); err != nil || strings.Contains(out, "not loadable") {
		missing(t, "fio's nbd engine")
	}
	verify := []string{"--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--serialize_overlap=1"}
	for name, args := range map[string][]string{
		"4k random, flushed":  {"--rw=randwrite", "--bs=4k", "--iodepth=16", "--fsync=32", "--io_size=24M"},
		"mixed sizes":         {"--rw=randwrite", "--bsrange=512-256k", "--bs_unaligned=1", "--iodepth=32"},
		"1M sequential":       {"--rw=write", "--bs=1M", "--iodepth=8", "--end_fsync=1"},
		"reads between":       {"--rw=randrw", "--bs=16k", "--iodepth=16", "--verify_backlog=64"},
		"trims between":       {"--rw=randtrimwrite", "--bs=64k", "--iodepth=8", "--verify=0"},
		"several connections": {"--rw=randwrite", "--bs=8k", "--iodepth=8", "--numjobs=4", "--size=16M", "--offset_increment=16M", "--fsync=64"},
	} {
		t.Run(name, func(t *testing.T) {
			bothKinds(t, func(t *testing.T, v *volume) {
				fio(t, v, append(verify[:len(verify):len(verify)], args...)...)
			})
		})
	}
}
