package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/journal/journaltest"
	"github.com/farshore/farshore/pkg/repair"
)

// scrubber is a capturer that takes some looks to scrub, and an applier that compares what it sent.
type scrubber struct {
	repair.Capture
	t    *testing.T
	site *journal.Site

	mu     sync.Mutex
	looks  int
	status group.Status
	end    func(*group.Status) // what the applier tells once the scrub is done
	fail   error
}

func (s *scrubber) Scrub(context.Context) (repair.Scrub, error) {
	return repair.Scrub{Number: 7, Total: 1 << 20}, s.fail
}

func (s *scrubber) Scrubbed(_ context.Context, number uint64) (repair.Scrub, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if number != 7 {
		return repair.Scrub{}, repair.ErrGone
	}
	if s.looks++; s.looks < 3 {
		return repair.Scrub{Number: 7, Done: int64(s.looks) << 18, Total: 1 << 20}, nil
	}
	s.end(&s.status)
	s.put()
	return repair.Scrub{Number: 7, Done: 1 << 20, Total: 1 << 20, Generation: 2, Seq: 90}, nil
}

func (s *scrubber) put() {
	kv, err := s.site.KV(s.t.Context(), group.StatusBucket, 0)
	if err != nil {
		s.t.Error(err)
		return
	}
	s.status.Time = time.Now()
	body, err := json.Marshal(s.status)
	if err == nil {
		_, err = kv.Put(s.t.Context(), "shop", body)
	}
	if err != nil {
		s.t.Error(err)
	}
}

func newScrubber(t *testing.T, end func(*group.Status)) *scrubber {
	s := &scrubber{t: t, site: journaltest.One(t), end: end}
	s.status = group.Status{Group: "shop", Volumes: []group.VolumeStatus{{
		Name: "orders", Generation: 2, AppliedSeq: 50, RegionMismatches: 1,
		Mismatches: []group.RegionMismatch{{Offset: 1, Length: 2, Generation: 1, Seq: 3, Healed: true}},
	}}}
	s.put()
	return s
}

// serve answers for the volume until the test's end.
func (s *scrubber) serve() *scrubber {
	s.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- repair.ServeCapture(ctx, s.site.Conn(), "shop", "orders", s) }()
	s.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	})
	return s
}

func (s *scrubber) verify(wait, slack time.Duration) (*verification, *verified, error) {
	s.t.Helper()
	quiet, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer quiet.Close()
	ctx, cancel := context.WithTimeout(s.t.Context(), wait)
	defer cancel()
	v := newVerification(s.site, "shop", []string{"orders"}, quiet)
	v.slack, v.heal = slack, 2*time.Second
	result, err := v.run(ctx)
	if err != nil {
		err = v.explain(ctx, err)
	}
	return v, result, err
}

func TestVerifyFindsNothing(t *testing.T) {
	s := newScrubber(t, func(st *group.Status) { st.Volumes[0].AppliedSeq = 90 }).serve()
	_, result, err := s.verify(20*time.Second, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if !result.Equal || result.Volumes[0].Differed != 0 || result.Volumes[0].Seq != 90 {
		t.Errorf("got %+v", result)
	}
}

// What differed before is no result of this verification, what differs now is, with whether it was healed.
func TestVerifyNamesDifferences(t *testing.T) {
	s := newScrubber(t, func(st *group.Status) {
		v := &st.Volumes[0]
		if v.AppliedSeq == 90 {
			return
		}
		v.AppliedSeq, v.RegionMismatches = 90, 3
		v.Mismatches = append(v.Mismatches, group.RegionMismatch{Offset: 4096, Length: 262144, Generation: 2, Seq: 60, Healed: true},
			group.RegionMismatch{Offset: 1 << 20, Length: 262144, Generation: 2, Seq: 61})
	}).serve()
	_, result, err := s.verify(20*time.Second, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if v := result.Volumes[0]; result.Equal || v.Differed != 2 || len(v.Differences) != 2 || !v.Differences[0].Healed || v.Differences[1].Healed {
		t.Errorf("got %+v", result)
	}
	var text strings.Builder
	if err := result.print(&text); err != nil {
		t.Fatal(err)
	}
	golden(t, "verify.txt", text.String())
	text.Reset()
	if err := printJSON(&text, result); err != nil {
		t.Fatal(err)
	}
	golden(t, "verify.json", text.String())
}

func TestVerifyFailures(t *testing.T) {
	t.Run("no capturer", func(t *testing.T) {
		_, _, err := newScrubber(t, nil).verify(20*time.Second, time.Second)
		if !errors.Is(err, repair.ErrUnavailable) || !strings.Contains(err.Error(), "no capturer answers for volume orders") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("not recorded", func(t *testing.T) {
		s := newScrubber(t, nil)
		s.fail = repair.ErrBusy
		if _, _, err := s.serve().verify(20*time.Second, time.Second); !errors.Is(err, repair.ErrBusy) || !strings.Contains(err.Error(), "not being recorded") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("the applier is gone", func(t *testing.T) {
		s := newScrubber(t, func(*group.Status) {}).serve()
		if _, _, err := s.verify(20*time.Second, time.Second); err == nil || !strings.Contains(err.Error(), "the applier has told nothing") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("the time is up", func(t *testing.T) {
		s := newScrubber(t, func(st *group.Status) { st.MissingVotes = []string{"ledger"} }).serve()
		_, _, err := s.verify(1500*time.Millisecond, time.Minute)
		if err == nil || !strings.Contains(err.Error(), "the time is up") || !strings.Contains(err.Error(), "ledger") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no such volume", func(t *testing.T) {
		_, stderr, code := invoke(t, "verify", "--group", document(t, nowhere, nowhere), "stock")
		if code != daemon.ExitUsage || !strings.Contains(stderr, `no volume "stock"`) {
			t.Errorf("%d: %s", code, stderr)
		}
	})
}

func TestVerifyCompletes(t *testing.T) {
	stdout, _, code := invoke(t, "__complete", "verify", "--group", document(t, nowhere, nowhere), "")
	if code != 0 || !strings.Contains(stdout, "orders") {
		t.Errorf("%d: %s", code, stdout)
	}
}
