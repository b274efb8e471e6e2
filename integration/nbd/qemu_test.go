package nbd

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// qemuIO runs commands of qemu-io. It exits with 0 when a pattern differs, so look at what it says.
func qemuIO(t *testing.T, v *volume, commands ...string) {
	t.Helper()
	args := []string{"-f", "raw"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	out := tool(t, "qemu-io", append(args, v.uri)...)
	if strings.Contains(out, "Pattern verification failed") || strings.Contains(out, "failed:") || strings.Contains(out, "rror") {
		t.Fatalf("%s:\n%s", strings.Join(commands, "; "), out)
	}
}

func TestQEMUPatterns(t *testing.T) {
	require(t, "qemu-io")
	bothKinds(t, func(t *testing.T, v *volume) {
		qemuIO(t, v, "write -P 0x11 0 1M", "write -P 0x22 1M 1M", "discard 64k 64k", "write -z 192k 64k", "write -z -u 1088k 64k",
			"read -P 0x11 0 64k", "read -P 0 64k 64k", "read -P 0x11 128k 64k", "read -P 0 192k 64k", "read -P 0x11 256k 768k",
			"read -P 0x22 1M 64k", "read -P 0 1088k 64k", "read -P 0x22 1152k 896k", "read -P 0 2M 1M")
		// Odd places, FUA, vectors, and many at once.
		qemuIO(t, v, "write -f -P 0x33 513 1023", "read -P 0x11 0 513", "read -P 0x33 513 1023", "read -P 0x11 1536 512",
			"writev -P 0x44 4M 4k 512 8k", "readv -P 0x44 4M 8k 4k 512",
			"aio_write -P 0x55 8M 1M", "aio_write -P 0x66 9M 64k", "aio_write -z 10M 1M", "aio_flush",
			"read -P 0x55 8M 1M", "read -P 0x66 9M 64k", "flush",
			"write -P 0x77 32M 32M", "read -P 0x77 32M 32M", "discard 33M 1M", "read -P 0 33M 1M", "read -P 0x77 34M 30M")
		// Anew, as another connection sees it.
		qemuIO(t, v, "read -P 0x33 513 1023", "read -P 0x44 4M 12800", "read -P 0x77 63M 1M", "read -P 0 33M 1M")
	})
}

func TestQEMUBounds(t *testing.T) {
	require(t, "qemu-io")
	v := direct(t)
	v.serve(t)
	out, err := try(t, "qemu-io", "-f", "raw", "-c", "write -P 1 63M 2M", v.uri)
	if err == nil && !strings.Contains(out, "failed") {
		t.Errorf("a write over the end: %s", out)
	}
	if got := v.content(t); len(got) != size || got[63<<20] != 0 {
		t.Errorf("a write over the end wrote something")
	}
}

func TestQEMUCompareAndMap(t *testing.T) {
	require(t, "qemu-img")
	bothKinds(t, func(t *testing.T, v *volume) {
		source, content := image(t)
		tool(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-W", source, v.uri)
		equal(t, "device", v.content(t), content)
		tool(t, "qemu-img", "compare", "-s", "-f", "raw", "-F", "raw", source, v.uri)
		back := filepath.Join(t.TempDir(), "back")
		tool(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", v.uri, back)
		got, err := os.ReadFile(back)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "copy", got, content)
		var extents []struct {
			Start, Length int64
			Data, Zero    bool
		}
		if err := json.Unmarshal([]byte(tool(t, "qemu-img", "map", "--output=json", "-f", "raw", v.uri)), &extents); err != nil {
			t.Fatal(err)
		}
		at, holes := int64(0), 0
		for _, e := range extents {
			if e.Start != at {
				t.Fatalf("a gap before %+v", e)
			}
			at += e.Length
			if e.Zero {
				holes++
				for i, b := range content[e.Start : e.Start+e.Length] {
					if b != 0 {
						t.Fatalf("%+v is called zero, but byte %d isn't", e, e.Start+int64(i))
					}
				}
			}
		}
		if at != size || holes == 0 {
			t.Errorf("%d bytes and %d holes described", at, holes)
		}
	})
}

func TestQEMUBench(t *testing.T) {
	require(t, "qemu-img")
	bothKinds(t, func(t *testing.T, v *volume) {
		tool(t, "qemu-img", "bench", "-f", "raw", "-w", "-c", "5000", "-d", "32", "-s", "4096", "-S", "69632", "--flush-interval=32", v.uri)
		tool(t, "qemu-img", "bench", "-f", "raw", "-c", "5000", "-d", "32", "-s", "65536", v.uri)
	})
}
