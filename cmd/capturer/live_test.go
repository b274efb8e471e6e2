package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/cdc/nbd"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/repair"
)

// reload makes processes look at the document at once.
func reload(t *testing.T) {
	t.Helper()
	must(t, syscall.Kill(os.Getpid(), syscall.SIGHUP))
}

func (s *shore) extra(path string) string {
	return fmt.Sprintf("  - {name: extra, uid: u3, capturer: a, path: %q, size: 1048576, listen: \"unix:%s\"}\n", path, filepath.Join(s.dir, "extra.sock"))
}

func (s *shore) dialExtra(t *testing.T) *nbd.Client {
	t.Helper()
	c, err := nbd.Dial(deadline(t), "unix", filepath.Join(s.dir, "extra.sock"), "extra")
	must(t, err)
	return c
}

// A volume joins a running capturer, is drained and let go when it leaves, and may come back. The others are not
// disturbed, not even by one that can't be opened.
func TestVolumesJoinAndLeave(t *testing.T) {
	s := newShore(t)
	site := s.startBus(t)
	p := s.start(t)
	p.await(t, "msg=recording")
	client := s.dial(t)
	image := filepath.Join(s.dir, "extra.img")
	s.writeDocument(t, s.extra(filepath.Join(s.dir, "missing", "extra.img")))
	reload(t)
	p.await(t, "volume can't be served yet")
	s.writeDocument(t, "")
	reload(t)
	eventually(t, "it is taken back", func() bool { return strings.Count(p.log.String(), `msg="document changed"`) == 2 })
	for round := range 2 {
		s.writeDocument(t, s.extra(image))
		reload(t)
		eventually(t, "the volume has joined", func() bool {
			return strings.Count(p.log.String(), "volume has joined") == round+1
		})
		extra := s.dialExtra(t)
		_, err := extra.WriteAt(bytes.Repeat([]byte{byte(round + 1)}, 4096), 0)
		must(t, err)
		_, err = client.WriteAt(bytes.Repeat([]byte{byte(round + 1)}, 4096), 0)
		must(t, err)
		s.writeDocument(t, "")
		reload(t)
		eventually(t, "the volume has left", func() bool {
			return strings.Count(p.log.String(), "volume has left") == round+1
		})
		_ = extra.Close() // its server is gone
	}
	must(t, client.Disconnect())
	must(t, p.end())
	id := stream(1)
	id.Part = "extra"
	tail, err := site.Tail(deadline(t), id.Name())
	must(t, err)
	reader, err := site.OpenReader(deadline(t), id.Name(), 1)
	must(t, err)
	defer reader.Close()
	got := make([]byte, 1<<20)
	for seq := uint64(0); seq < tail.Last; {
		m, err := reader.Next(deadline(t))
		must(t, err)
		seq = m.Seq
		if f, ok := m.Event.(*events.Frame); ok {
			content, err := f.Content(nil)
			must(t, err)
			for _, op := range f.Ops {
				if op.Kind == events.OpWrite {
					content = content[copy(got[op.Offset:op.Offset+op.Length], content):]
				}
			}
		}
	}
	want, err := os.ReadFile(image)
	must(t, err)
	if !bytes.Equal(got, want) || got[0] != 2 {
		t.Error("the volume's journal doesn't give what its device holds")
	}
}

// A volume grows while it is served, by the document.
func TestVolumeGrows(t *testing.T) {
	s := newShore(t)
	site := s.startBus(t)
	p := s.start(t)
	p.await(t, "msg=recording")
	s.fill(t)
	s.size = 3 * volumeSize
	s.writeDocument(t, "")
	reload(t)
	p.await(t, "volume has grown")
	s.write(t, 9, 2*volumeSize+4096)
	s.settled(t, site, 1, 2)
	must(t, p.end())
	all := messages(t, site, 1)
	grown := false
	for _, m := range all {
		if e, ok := m.Event.(*events.Resize); ok {
			grown = e.Old == volumeSize && e.New == 3*volumeSize
		}
	}
	if !grown {
		t.Error("the stream doesn't tell of the growth")
	}
	s.checkEqual(t, make([]byte, s.size), all)

	// While nobody looks it grows, too.
	s.size = 4 * volumeSize
	s.writeDocument(t, "")
	p = s.start(t)
	p.await(t, "volume has grown")
	s.write(t, 5, 3*volumeSize)
	s.settled(t, site, 1, 3)
	must(t, p.end())
	s.checkEqual(t, make([]byte, s.size), messages(t, site, 1))
}

// moveTo writes the document with the volume given to another capturer, which finds it elsewhere.
func (s *shore) moveTo(t *testing.T, document, capturer, image, socket string) {
	t.Helper()
	text, err := os.ReadFile(s.document)
	must(t, err)
	moved := strings.NewReplacer("uid: u1, capturer: a", "uid: u1, capturer: "+capturer, s.image(), image, s.socket(), socket).Replace(string(text))
	must(t, os.WriteFile(document, []byte(moved), 0o600))
}

// A volume moves to another capturer. The one that had it leaves it and goes on, also where the new one was faster and
// has fenced it.
func TestVolumeMoves(t *testing.T) {
	for name, first := range map[string]bool{"the new one is faster": true, "the old one is faster": false} {
		t.Run(name, func(t *testing.T) {
			s := newShore(t)
			site := s.startBus(t)
			dr := recoverFor(t, site)
			p := s.start(t)
			p.await(t, "msg=recording")
			s.fill(t)
			must(t, p.end())
			all := messages(t, site, 1)
			replica := bytes.Clone(s.device(t))
			last := all[len(all)-1].Seq
			dr.set(func(r *recovery) {
				r.found = repair.Foundation{Base: &events.Base{Generation: 1, Seq: last, Barrier: 2}, Size: volumeSize, Newest: 1}
				r.image = replica
			})
			p = s.start(t)
			p.await(t, "msg=recording")
			image := filepath.Join(s.dir, "moved.img")
			must(t, os.WriteFile(image, s.device(t), 0o600))
			there := filepath.Join(s.dir, "there.yaml")
			s.moveTo(t, there, "c", image, filepath.Join(s.dir, "moved.sock"))
			here := func() {
				s.moveTo(t, s.document, "c", image, filepath.Join(s.dir, "moved.sock"))
				reload(t)
			}
			if !first {
				here()
				p.await(t, "volume has left")
			}
			q := s.start(t, "--group", there, "--name", "c", "--state", filepath.Join(s.dir, "state-c"))
			q.await(t, `msg="pass done"`)
			if first {
				p.await(t, "fenced")
				here()
				p.await(t, "volume has left")
			}
			must(t, q.end())
			must(t, p.end())
			if n, err := site.Generation(deadline(t), "shop", "orders"); err != nil || n != 2 {
				t.Errorf("generation %d, %v", n, err)
			}
		})
	}
}

// fencing is what another writer opens the stream with.
func fencing() journal.WriterOptions {
	return journal.WriterOptions{Writer: "somebody else", Open: func(uint64) *events.Epoch {
		return &events.Epoch{Writer: "somebody else", UID: "u1", Size: volumeSize, BlockSize: 512}
	}}
}

// A fenced capturer whose volume wasn't given to another one ends with the code that says so.
func TestFencedWithoutAMove(t *testing.T) {
	s := newShore(t)
	site := s.startBus(t)
	p := s.start(t)
	p.await(t, "msg=recording")
	if _, err := site.OpenWriter(deadline(t), stream(1), fencing()); err != nil {
		t.Fatal(err)
	}
	if err := p.wait(); daemon.ExitCode(err) != daemon.ExitFenced {
		t.Errorf("ended with %v", err)
	}
}
