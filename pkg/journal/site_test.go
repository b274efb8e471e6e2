package journal_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/journal/bus"
	"github.com/farshore/farshore/pkg/journal/journaltest"
)

func TestNames(t *testing.T) {
	for _, name := range []string{"FS_shop_db_g1", "FS_shop_my-db_g12_m3", "FS_a_control_g1_m1"} {
		got, incarnation, err := journal.ParseName(name)
		if err != nil {
			t.Fatal(err)
		}
		again := got.Name()
		if incarnation > 0 {
			again = got.Mirror(incarnation)
		}
		if again != name {
			t.Errorf("%s came back as %s", name, again)
		}
	}
	for _, name := range []string{"", "FS_a_b", "FS_a_b_g0", "FS_a_b_g1_m0", "KV_x", "FS_a_b_c_g1"} {
		if _, _, err := journal.ParseName(name); !errors.Is(err, journal.ErrName) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := journal.ValidVolume(journal.Control); !errors.Is(err, journal.ErrName) {
		t.Error("a volume can be called control")
	}
}

// Streams and mirrors are made once; what an operator changed is refused, named, and left alone.
func TestTopologyIsIdempotentAndRefusesChanges(t *testing.T) {
	t.Parallel()
	p := journaltest.Sites(t)
	o := journal.StreamOptions{UID: "uid", Size: 1 << 20, MaxBytes: 1 << 20}
	for range 2 {
		if err := p.Primary.EnsureStream(t.Context(), id, o); err != nil {
			t.Fatal(err)
		}
		if err := p.DR.EnsureMirror(t.Context(), id, 1, 1); err != nil {
			t.Fatal(err)
		}
	}
	var refused *journal.ConfigError
	other := o
	other.UID = "somebody else"
	if err := p.Primary.EnsureStream(t.Context(), id, other); !errors.As(err, &refused) {
		t.Errorf("another volume's stream: %v", err)
	}
	stream, err := p.Primary.JetStream().Stream(t.Context(), id.Name())
	if err != nil {
		t.Fatal(err)
	}
	c := stream.CachedInfo().Config
	c.MaxAge = time.Hour
	if _, err := p.Primary.JetStream().UpdateStream(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := p.Primary.EnsureStream(t.Context(), id, o); !errors.As(err, &refused) || !strings.Contains(err.Error(), "max_age") {
		t.Errorf("a changed stream: %v", err)
	}
	stream, err = p.Primary.JetStream().Stream(t.Context(), id.Name())
	if err != nil || stream.CachedInfo().Config.MaxAge != time.Hour {
		t.Errorf("what the operator set was overwritten: %v", err)
	}
	mirror, err := p.DR.JetStream().Stream(t.Context(), id.Mirror(1))
	if err != nil {
		t.Fatal(err)
	}
	c = mirror.CachedInfo().Config
	c.MaxMsgs = 10
	if _, err := p.DR.JetStream().UpdateStream(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := p.DR.EnsureMirror(t.Context(), id, 1, 1); !errors.As(err, &refused) || !strings.Contains(err.Error(), "max_msgs") {
		t.Errorf("a changed mirror: %v", err)
	}
	infos, err := p.DR.PeerStreams(t.Context(), id.Group)
	if err != nil || len(infos) != 1 || infos[0].ID != id || infos[0].UID != "uid" || infos[0].Size != 1<<20 {
		t.Errorf("streams of the peer: %+v, %v", infos, err)
	}
}

// What a server can't set aside is refused with what to do.
func TestStreamWithoutRoomSaysWhatToDo(t *testing.T) {
	t.Parallel()
	p := journaltest.Sites(t)
	err := p.Primary.EnsureStream(t.Context(), journal.StreamID{Group: "shop", Part: "db", Generation: 1}, journal.StreamOptions{UID: "u", MaxBytes: 1 << 60})
	if err == nil || !strings.Contains(err.Error(), "lower spec.journal.maxBytes") {
		t.Errorf("make a stream of 1 EiB: %v", err)
	}
}

// Sites that accept messages of different sizes are refused before anything is mirrored.
func TestUnequalPayloadLimitsAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	primary, err := bus.Start(bus.Options{StoreDir: filepath.Join(dir, "p"), Domain: "primary", Port: -1, LeafPort: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { primary.Shutdown(); primary.Wait() })
	dr, err := bus.Start(bus.Options{StoreDir: filepath.Join(dir, "d"), Domain: "dr", Port: -1, MaxPayload: 1 << 20, LeafRemotes: []string{primary.LeafURL()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dr.Shutdown(); dr.Wait() })
	a := journaltest.Connect(t, primary.ClientURL(), "primary", "dr")
	b := journaltest.Connect(t, dr.ClientURL(), "dr", "primary")
	ensure(t, a, journal.StreamOptions{})
	var refused *journal.ConfigError
	eventually(t, "the mirror is refused", func() bool {
		return errors.As(b.EnsureMirror(t.Context(), id, 1, 1), &refused)
	})
	if !strings.Contains(refused.Error(), "max_payload") {
		t.Error(refused)
	}
}

func TestGenerationStartsAtOneForEverybody(t *testing.T) {
	t.Parallel()
	s := journaltest.One(t)
	got := make(chan uint32, 8)
	for range cap(got) {
		go func() {
			n, err := s.Generation(context.Background(), "shop", "db")
			if err != nil {
				t.Error(err)
			}
			got <- n
		}()
	}
	for range cap(got) {
		if n := <-got; n != 1 {
			t.Errorf("generation %d", n)
		}
	}
}

// What is missing, damaged or from the wrong writer is never read over.
func TestReaderProvesWhatItReturns(t *testing.T) {
	t.Parallel()
	s := journaltest.One(t)
	ensure(t, s, journal.StreamOptions{})
	x := start(t, s, "a")
	appendAll(t, x, 0, 20)
	wait(t, x, 21)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	until := func(from uint64) (uint64, error) {
		r, err := s.OpenReader(ctx, id.Name(), from)
		if err != nil {
			return 0, err
		}
		defer r.Close()
		last := from - 1
		for {
			m, err := r.Next(ctx)
			if err != nil {
				if _, again := r.Next(ctx); again != err {
					t.Errorf("the error is not final: %v", again)
				}
				return last, err
			}
			last = m.Seq
		}
	}
	stream, err := s.JetStream().Stream(ctx, id.Name())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(ctx, 10); err != nil {
		t.Fatal(err)
	}
	var gap *journal.GapError
	if last, err := until(1); !errors.As(err, &gap) || last != 9 || gap.Want != 10 || gap.Got != 11 || gap.Stream != id.Name() {
		t.Errorf("a lost message: %d, %v", last, err)
	}
	if err := s.Purge(ctx, id.Name(), 5); err != nil {
		t.Fatal(err)
	}
	if _, err := until(1); !errors.As(err, &gap) || gap.Got != 5 {
		t.Errorf("a trimmed stream: %v", err)
	}
	foreign, err := events.Append(nil, events.Header{Epoch: x.Epoch() + 1, Time: time.Now()}, numbered(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.JetStream().Publish(ctx, id.Subject(), foreign); err != nil {
		t.Fatal(err)
	}
	var epoch *journal.EpochError
	if last, err := until(11); !errors.As(err, &epoch) || last != 21 || epoch.Seq != 22 {
		t.Errorf("another writer's message: %d, %v", last, err)
	}
	foreign[len(foreign)/2] ^= 1
	if _, err := s.JetStream().Publish(ctx, id.Subject(), foreign); err != nil {
		t.Fatal(err)
	}
	var damaged *events.MessageError
	if _, err := until(23); !errors.As(err, &damaged) || damaged.Seq != 23 || damaged.Stream != id.Name() {
		t.Errorf("a damaged message: %v", err)
	}
}

// A message that is gone from the stream's end is found, too, though none comes behind it.
func TestReaderFindsAHoleAtTheEnd(t *testing.T) {
	t.Parallel()
	s := journaltest.One(t)
	ensure(t, s, journal.StreamOptions{})
	x := start(t, s, "a")
	appendAll(t, x, 0, 5)
	wait(t, x, 6)
	stream, err := s.JetStream().Stream(t.Context(), id.Name())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(t.Context(), 6); err != nil {
		t.Fatal(err)
	}
	r, err := s.OpenReader(t.Context(), id.Name(), 6)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var gap *journal.GapError
	if _, err := r.Next(ctx); !errors.As(err, &gap) || gap.Want != 6 || gap.Got != 7 {
		t.Errorf("a hole at the end: %v", err)
	}
}

// A Reader that waits for a server obeys its context, and reads on when the server is back.
func TestReaderOutlivesItsServer(t *testing.T) {
	t.Parallel()
	p := journaltest.Sites(t)
	ensure(t, p.Primary, journal.StreamOptions{})
	x := start(t, p.Primary, "a")
	appendAll(t, x, 0, 5)
	wait(t, x, 6)
	r, err := p.Primary.OpenReader(t.Context(), id.Name(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	next := uint64(1)
	for range 2 {
		for ; next <= x.Stored(); next++ {
			if m, err := r.Next(t.Context()); err != nil || m.Seq != next {
				t.Fatalf("%+v, %v; want %d", m, err, next)
			}
		}
		p.StopPrimary()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := r.Next(ctx)
			done <- err
		}()
		eventually(t, "the connection is lost", func() bool { return !p.Primary.Conn().IsConnected() })
		cancel()
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("a cancelled Next: %v", err)
			}
		case <-time.After(6 * time.Second): // one request may be under way
			t.Fatal("Next disregards its context while the server is away")
		}
		p.StartPrimary()
		appendAll(t, x, int(next), int(next)+5)
		wait(t, x, next+4)
	}
}

// Connect says what to do instead of waiting for ever.
func TestConnectErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err := journal.Connect(ctx, journal.Options{URL: "nats://127.0.0.1:1"})
	if err == nil || !strings.Contains(err.Error(), "is the server running") {
		t.Errorf("no server: %v", err)
	}
	config := filepath.Join(t.TempDir(), "nats.conf")
	write(t, config, `host: 127.0.0.1
port: -1
authorization { user: a, password: b }
`)
	s, err := bus.Start(bus.Options{ConfigFile: config})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Shutdown(); s.Wait() })
	if _, err = journal.Connect(t.Context(), journal.Options{URL: strings.Replace(s.ClientURL(), "nats://", "nats://a:b@", 1)}); err == nil || !strings.Contains(err.Error(), "is JetStream on") {
		t.Errorf("no JetStream: %v", err)
	}
	if _, err = journal.Connect(t.Context(), journal.Options{URL: journaltest.One(t).Conn().ConnectedUrl(), Domain: "elsewhere"}); err == nil || !strings.Contains(err.Error(), `domain "elsewhere"`) {
		t.Errorf("another domain: %v", err)
	}
	if _, err = journal.Connect(t.Context(), journal.Options{URL: s.ClientURL()}); !errors.Is(err, nats.ErrAuthorization) || !strings.Contains(err.Error(), "NKEY") {
		t.Errorf("refused credentials: %v", err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Sizes are read without the messages, and only of the range asked for.
func TestBytesOfARange(t *testing.T) {
	t.Parallel()
	s := journaltest.One(t)
	ensure(t, s, journal.StreamOptions{})
	x := start(t, s, "a")
	appendAll(t, x, 0, 100)
	wait(t, x, 101)
	r, err := s.OpenReader(t.Context(), id.Name(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	want := uint64(0)
	for range 50 {
		m, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if m.Seq > 10 {
			want += uint64(m.Size)
		}
	}
	if got, err := s.Bytes(t.Context(), id.Name(), 11, 50); err != nil || got != want {
		t.Errorf("%d bytes, want %d: %v", got, want, err)
	}
}

// A mirror is trimmed on its own, keeps its last message, and goes on.
func TestMirrorIsPurgedAndGoesOn(t *testing.T) {
	t.Parallel()
	p := journaltest.Sites(t)
	ensure(t, p.Primary, journal.StreamOptions{})
	if err := p.DR.EnsureMirror(t.Context(), id, 1, 1); err != nil {
		t.Fatal(err)
	}
	x := start(t, p.Primary, "a")
	reaches := func(last uint64) func() bool {
		return func() bool {
			tail, err := p.DR.Tail(t.Context(), id.Mirror(1))
			return err == nil && tail.Last == last
		}
	}
	appendAll(t, x, 0, 100)
	eventually(t, "the mirror has it all", reaches(101))
	if err := p.DR.Purge(t.Context(), id.Mirror(1), 1000); err != nil {
		t.Fatal(err)
	}
	tail, err := p.DR.Tail(t.Context(), id.Mirror(1))
	if err != nil || tail.First != 101 || tail.Messages != 1 || tail.Header.Epoch != x.Epoch() {
		t.Errorf("after a purge of everything: %+v, %v", tail, err)
	}
	appendAll(t, x, 100, 200)
	eventually(t, "the mirror goes on", reaches(201))
	if tail, err = p.Primary.Tail(t.Context(), id.Name()); err != nil || tail.First != 1 {
		t.Errorf("the origin was trimmed, too: %+v, %v", tail, err)
	}
	r, err := p.DR.OpenReader(t.Context(), id.Mirror(1), 101)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for n := 99; n < 200; n++ {
		m, err := r.Next(t.Context())
		if err != nil || m.Event.(*events.PassDone).Regions != uint64(n) {
			t.Fatalf("number %d: %+v, %v", n, m, err)
		}
	}
}

// An origin that ends below its mirror was rolled back, as by a power cut: the DR site notices.
func TestOriginBehindItsMirrorIsHistoryLost(t *testing.T) {
	t.Parallel()
	p := journaltest.Sites(t)
	ensure(t, p.Primary, journal.StreamOptions{})
	if err := p.DR.EnsureMirror(t.Context(), id, 1, 1); err != nil {
		t.Fatal(err)
	}
	x := start(t, p.Primary, "a")
	appendAll(t, x, 0, 100)
	eventually(t, "the mirror has it all", func() bool {
		tail, err := p.DR.Tail(t.Context(), id.Mirror(1))
		return err == nil && tail.Last == 101
	})
	if err := p.Primary.JetStream().DeleteStream(t.Context(), id.Name()); err != nil {
		t.Fatal(err)
	}
	ensure(t, p.Primary, journal.StreamOptions{})
	if err := p.DR.EnsureMirror(t.Context(), id, 1, 1); !errors.Is(err, journal.ErrHistoryLost) {
		t.Errorf("a rolled back origin: %v", err)
	}
	if _, err := x.Append(t.Context(), numbered(0)); err != nil {
		t.Fatal(err)
	}
	if err := <-x.done; !errors.Is(err, journal.ErrHistoryLost) {
		t.Errorf("the writer ended with %v", err)
	}
}
