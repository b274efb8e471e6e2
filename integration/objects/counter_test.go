package objects

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/pkg/cdc/nbd"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/replay"
)

// counters count in a ConfigMap and in a database's row, one behind the other.
type counters struct {
	s    *sites
	stop chan struct{}
	wg   sync.WaitGroup
}

const row = 4096 // bytes of a volume's first block, which is the row

func startCounters(s *sites) *counters {
	s.t.Helper()
	c := &counters{s: s, stop: make(chan struct{})}
	c.count(0, "object-first", true)
	c.count(1, "row-first", false)
	return c
}

// count counts on a volume and in a ConfigMap; what is second is written once the first is acknowledged.
func (c *counters) count(volume int, name string, objectFirst bool) {
	c.s.t.Helper()
	device, err := c.s.Dial(c.s.t.Context(), volume)
	if err != nil {
		c.s.t.Fatal(err)
	}
	c.s.t.Cleanup(func() { _ = device.Close() }) // the test is over
	write := []func(n uint64) error{
		func(n uint64) error { return c.writeObject(name, n) },
		func(n uint64) error { return writeRow(c.s.t.Context(), device, n) },
	}
	if !objectFirst {
		write[0], write[1] = write[1], write[0]
	}
	c.wg.Go(func() {
		for n := uint64(1); ; n++ {
			for _, w := range write {
				if err := w(n); err != nil {
					c.s.t.Errorf("count %s to %d: %v", name, n, err)
					return
				}
			}
			select {
			case <-c.stop:
				c.s.t.Logf("%s counted to %d", name, n)
				return
			default:
			}
		}
	})
}

func (c *counters) writeObject(name string, n uint64) error {
	obj := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "data": map[string]any{"value": strconv.FormatUint(n, 10)},
	}}
	obj.SetName(name)
	_, err := c.s.primary.client.Resource(configMaps).Namespace("bank").Apply(c.s.t.Context(), name, obj, metav1.ApplyOptions{FieldManager: "test", Force: true})
	return err
}

func writeRow(ctx context.Context, device *nbd.Client, n uint64) error {
	block := make([]byte, row)
	binary.BigEndian.PutUint64(block, n)
	return device.Write(ctx, block, 0)
}

func (c *counters) end() {
	close(c.stop)
	c.wg.Wait()
}

// replayed recovers a point, and returns each counter's value in its ConfigMap and in its row.
func (s *sites) replayed(point string) (object, row map[string]uint64, err error) {
	into, err := os.MkdirTemp(s.Dir, "replayed-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(into)
	ctx, cancel := context.WithTimeout(s.t.Context(), limit)
	defer cancel()
	result, err := replay.Run(ctx, replay.Options{Site: s.site(), Group: harness.Group, Dir: filepath.Join(s.Recovery, harness.Group), Target: point, Into: filepath.Join(into, "x")})
	if err != nil {
		return nil, nil, err
	}
	if result.Objects == nil {
		return nil, nil, errors.New("the point has no objects")
	}
	object, row = make(map[string]uint64), make(map[string]uint64)
	for i, name := range []string{"object-first", "row-first"} {
		text, err := result.Objects.View.Raw(events.ObjectKey{Version: "v1", Resource: "configmaps", Namespace: "bank", Name: name})
		if err != nil {
			return nil, nil, err
		}
		var obj unstructured.Unstructured
		if err := json.Unmarshal(text, &obj.Object); err != nil {
			return nil, nil, err
		}
		if object[name], err = strconv.ParseUint(value(&obj), 10, 64); err != nil {
			return nil, nil, fmt.Errorf("the ConfigMap holds no number: %w", err)
		}
		image, err := os.ReadFile(result.Volumes[i].Path)
		if err != nil {
			return nil, nil, err
		}
		row[name] = binary.BigEndian.Uint64(image)
	}
	return object, row, nil
}

// A counter in a ConfigMap is written before a database's row, and another behind one. At every labelled barrier, replayed with its objects, the
// one that is written first is equal or one ahead. At every other barrier the objects may be older, never newer. (An API server beside its
// watcher tells of a change before a barrier can come; that a mark waits for one that is late is tested in pkg/resourcewatch.)
func TestCounterAndRow(t *testing.T) {
	s := start(t, options{volumes: 2, interval: 100 * time.Millisecond})
	s.Recovered("begin", limit)
	c := startCounters(s)
	const marks = 30
	for i := range marks {
		s.Mark(fmt.Sprint("count-", i), limit)
	}
	c.end()
	s.Recovered("end", limit)
	distinct := make(map[uint64]bool)
	for i := range marks {
		object, row, err := s.replayed(fmt.Sprint("count-", i))
		if err != nil {
			t.Fatalf("point count-%d: %v", i, err)
		}
		distinct[row["object-first"]] = true
		for name, ahead := range map[string]uint64{
			"object-first": object["object-first"] - row["object-first"],
			"row-first":    row["row-first"] - object["row-first"],
		} {
			if ahead > 1 { // also where it would be less than 0
				t.Errorf("point count-%d, %s: %d in the ConfigMap, %d in the row", i, name, object[name], row[name])
			}
		}
	}
	if len(distinct) < marks/2 {
		t.Errorf("%d points hold only %d different states: too few changes lie between them", marks, len(distinct))
	}
	checked := 0
	for _, p := range s.Points() {
		if p.Kind != "crash" || checked == marks || p.Barrier%3 != 0 {
			continue
		}
		object, row, err := s.replayed(strconv.FormatUint(p.Barrier, 10))
		if err != nil {
			continue // before the counters were there
		}
		checked++
		if object["row-first"] > row["row-first"] {
			t.Errorf("barrier %d: the ConfigMap holds %d, and the row that was written before it %d", p.Barrier, object["row-first"], row["row-first"])
		}
	}
	if checked == 0 {
		t.Error("no crash barrier was looked at")
	}
	t.Logf("%d labelled and %d crash barriers replayed", marks, checked)
}
