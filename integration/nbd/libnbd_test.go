package nbd

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func blocks(info os.FileInfo) int64 { return info.Sys().(*syscall.Stat_t).Blocks }

func TestInfo(t *testing.T) {
	require(t, "nbdinfo")
	v := direct(t)
	v.serve(t)
	for _, args := range [][]string{{"--json", v.uri}, {"--json", "--list", "nbd+unix://?socket=" + v.socket}} {
		var info struct {
			Protocol   string
			Structured bool
			Exports    []map[string]any
		}
		if err := json.Unmarshal([]byte(tool(t, "nbdinfo", args...)), &info); err != nil {
			t.Fatal(err)
		}
		if info.Protocol != "newstyle-fixed" || !info.Structured || len(info.Exports) != 1 {
			t.Fatalf("%+v", info)
		}
		e := info.Exports[0]
		for key, want := range map[string]any{
			"export-name": "disk", "export-size": float64(size), "is_read_only": false, "can_multi_conn": true,
			"can_flush": true, "can_fua": true, "can_trim": true, "can_zero": true, "can_fast_zero": true,
			"can_df": true, "can_cache": true, "block_size_minimum": float64(1), "block_size_maximum": float64(32 << 20),
		} {
			if e[key] != want {
				t.Errorf("%s is %v, want %v", key, e[key], want)
			}
		}
		if contexts, is := e["contexts"].([]any); !is || len(contexts) != 1 || contexts[0] != "base:allocation" {
			t.Errorf("contexts %v", e["contexts"])
		}
	}
	if out, err := try(t, "nbdinfo", "nbd+unix:///none?socket="+v.socket); err == nil {
		t.Errorf("an export that isn't there: %s", out)
	}
	if got := strings.TrimSpace(tool(t, "nbdinfo", "--size", "nbd+unix://?socket="+v.socket)); got != "67108864" { // the default export
		t.Errorf("size %s", got)
	}
}

func TestMap(t *testing.T) {
	require(t, "nbdinfo")
	bothKinds(t, func(t *testing.T, v *volume) {
		c := dial(t, v)
		for _, off := range []int64{0, 1 << 20, 40 << 20} {
			if _, err := c.WriteAt([]byte(strings.Repeat("x", 128<<10)), off); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Trim(t.Context(), 1<<20, 64<<10); err != nil {
			t.Fatal(err)
		}
		if err := c.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		var extents []struct {
			Offset, Length int64
			Type           int
		}
		if err := json.Unmarshal([]byte(tool(t, "nbdinfo", "--json", "--map", v.uri)), &extents); err != nil {
			t.Fatal(err)
		}
		at, data := int64(0), int64(0)
		for _, e := range extents {
			if e.Offset != at {
				t.Fatalf("a gap before %+v", e)
			}
			at += e.Length
			switch e.Type {
			case 0:
				data += e.Length
			case 3: // a hole that reads as zeros
			default:
				t.Errorf("type %d at %d", e.Type, e.Offset)
			}
		}
		if at != size || data != (128+64+128)<<10 {
			t.Errorf("%d bytes described, %d of data: %+v", at, data, extents)
		}
	})
}

func TestCopy(t *testing.T) {
	require(t, "nbdcopy")
	bothKinds(t, func(t *testing.T, v *volume) {
		source, content := image(t)
		tool(t, "nbdcopy", "--flush", "-C", "4", "-R", "64", source, v.uri)
		equal(t, "device", v.content(t), content)
		if a, b := allocated(t, v.path), allocated(t, source); a > b+b/8 {
			t.Errorf("%d bytes are allocated, %d in the source", a, b)
		}
		copied := filepath.Join(t.TempDir(), "copy")
		tool(t, "nbdcopy", "-C", "4", "-R", "64", v.uri, copied)
		got, err := os.ReadFile(copied)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "copy", got, content)
		if a, b := allocated(t, copied), allocated(t, source); a > b+b/8 {
			t.Errorf("%d bytes of the copy are allocated, %d in the source", a, b)
		}
		// Over what is there, in large requests and in small ones, synchronous too.
		for _, args := range [][]string{{"--request-size=33554432"}, {"--request-size=4096"}, {"--synchronous"}} {
			source, content := image(t)
			tool(t, "nbdcopy", append(args, "--flush", source, v.uri)...)
			equal(t, "device", v.content(t), content)
			tool(t, "nbdcopy", append(args, v.uri, copied)...)
			if got, err = os.ReadFile(copied); err != nil {
				t.Fatal(err)
			}
			equal(t, "copy", got, content)
		}
	})
}

// From one export to another through nbdcopy, with nothing in between.
func TestCopyBetweenExports(t *testing.T) {
	require(t, "nbdcopy")
	bothKinds(t, func(t *testing.T, v *volume) {
		source, content := image(t)
		w := direct(t)
		w.serve(t)
		tool(t, "nbdcopy", "--flush", source, w.uri)
		tool(t, "nbdcopy", "--flush", "-C", "4", w.uri, v.uri)
		equal(t, "device", v.content(t), content)
	})
}
