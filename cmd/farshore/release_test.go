package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal/journaltest"
	"github.com/farshore/farshore/pkg/rebuild"
	"github.com/farshore/farshore/pkg/release"
)

// applier answers as a group's applier does.
type applier struct {
	plan  rebuild.Plan
	now   rebuild.Progress
	end   rebuild.Progress // once it was begun
	begun int
	err   error
}

func (a *applier) Plan(context.Context) (*rebuild.Plan, error) { return &a.plan, a.err }

func (a *applier) Begin(context.Context) error {
	a.begun++
	a.now = a.end
	return a.err
}

func (a *applier) Progress(context.Context) (rebuild.Progress, error) { return a.now, a.err }

func ref(resource, kind, namespace, name string) rebuild.Ref {
	return rebuild.Ref{Version: "v1", Resource: resource, Kind: kind, Namespace: namespace, Name: name}
}

func releasePoint() group.Point { return group.Point{Barrier: 231, Time: noon, Kind: "crash"} }

func steps() []rebuild.Step {
	deployment := rebuild.Ref{Group: "apps", Version: "v1", Resource: "deployments", Kind: "Deployment", Namespace: "bank", Name: "teller"}
	return []rebuild.Step{
		{Object: ref("configmaps", "ConfigMap", "bank", "limits"), Phase: "config", Action: rebuild.ActionKeep},
		{Object: ref("persistentvolumeclaims", "PersistentVolumeClaim", "bank", "data"), Phase: "storage", Action: rebuild.ActionCreate, Refused: "exceeded quota"},
		{Object: deployment, Phase: "workloads", Action: rebuild.ActionRelease, Detail: "replicas 0 → 3"},
		{Object: ref("secrets", "Secret", "bank", "keys"), Phase: "config", Action: rebuild.ActionDone},
	}
}

// takeoverOf returns a takeover with its outputs; the operator's answer is given.
func takeoverOf(a *applier, answer string) (t *takeover, out, errs *bytes.Buffer) {
	out, errs = new(bytes.Buffer), new(bytes.Buffer)
	return &takeover{
		applier: a, group: "bank", out: out, errs: errs,
		confirm: func(question string) error { return confirm(strings.NewReader(answer), errs, question, "bank") },
		heard:   func(context.Context) string { return "WARNING: heard" },
	}, out, errs
}

func TestReleaseRehearsed(t *testing.T) {
	a := &applier{plan: rebuild.Plan{Point: releasePoint(), Steps: steps()}}
	take, out, _ := takeoverOf(a, "")
	if err := take.rehearse(t.Context()); !errors.Is(err, errRefused) || daemon.ExitCode(err) != 1 {
		t.Errorf("a refused step: %v", err)
	}
	golden(t, "release_plan.txt", out.String())
	out.Reset()
	take.json = true
	a.plan.Steps = a.plan.Steps[2:3]
	if err := take.rehearse(t.Context()); err != nil {
		t.Errorf("nothing refused: %v", err)
	}
	golden(t, "release_plan.json", out.String())
	if a.begun > 0 {
		t.Error("a rehearsal began a release")
	}
}

func TestReleaseAsks(t *testing.T) {
	done := rebuild.Progress{Mode: rebuild.ModeReleased, Point: releasePoint(), Done: 3, Total: 3, Since: noon}
	for answer, agreed := range map[string]bool{"bank\n": true, "bank": true, "yes\n": false, "": false, "\n": false} {
		a := &applier{plan: rebuild.Plan{Point: releasePoint(), Steps: steps()}, now: rebuild.Progress{Mode: rebuild.ModeStandby}, end: done}
		take, out, errs := takeoverOf(a, answer)
		err := take.run(t.Context())
		if agreed != (err == nil) || agreed != (a.begun == 1) || !agreed && !errors.Is(err, errDeclined) {
			t.Errorf("%q: begun %d times, %v", answer, a.begun, err)
		}
		for _, want := range []string{"replicas 0 → 3", "REFUSED: exceeded quota", "WARNING: heard", `Type "bank"`} {
			if !strings.Contains(errs.String(), want) {
				t.Errorf("%q was not shown before the question:\n%s", want, errs)
			}
		}
		if agreed && out.String() != "released 3 of 3 objects of bank, those of barrier 231 (crash) of 2026-05-04T12:00:00.123456Z\n" {
			t.Errorf("got %q", out)
		}
	}
}

// What was released before is told, what was refused then is tried again, and neither is asked about.
func TestReleaseAgain(t *testing.T) {
	failed := rebuild.Progress{Mode: rebuild.ModeReleased, Point: releasePoint(), Done: 2, Total: 3, Since: noon, Failed: steps()[1:2]}
	whole := rebuild.Progress{Mode: rebuild.ModeReleased, Point: releasePoint(), Done: 3, Total: 3, Since: noon}
	for _, c := range []struct {
		name     string
		now, end rebuild.Progress
		begun    int
		err      error
	}{
		{"all was released", whole, whole, 0, nil},
		{"still refused", failed, failed, 1, errRefused},
		{"not refused any more", failed, whole, 1, nil},
		{"under way", rebuild.Progress{Mode: rebuild.ModeReleasing, Since: noon}, whole, 1, nil},
	} {
		a := &applier{now: c.now, end: c.end}
		take, out, errs := takeoverOf(a, "")
		if err := take.run(t.Context()); !errors.Is(err, c.err) || a.begun > c.begun {
			t.Errorf("%s: begun %d times, %v", c.name, a.begun, err)
		}
		if c.err != nil {
			golden(t, "release_refused.txt", out.String())
		}
		if strings.Contains(errs.String(), "Type") {
			t.Errorf("%s: asked: %s", c.name, errs)
		}
	}
}

func TestReleaseNeedsAnAnswer(t *testing.T) {
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := confirm(file, io.Discard, "?", "bank"); daemon.ExitCode(err) != daemon.ExitUsage || !strings.Contains(err.Error(), "--yes") {
		t.Errorf("without a terminal: %v", err)
	}
}

func TestHeard(t *testing.T) {
	st := &group.Status{Time: noon}
	if got := heardIn(st, noon); got != "" {
		t.Errorf("a lag that isn't known: %q", got)
	}
	st.Lags.TransitLagSeconds = number(0.5)
	if got := heardIn(st, noon.Add(time.Second)); !strings.Contains(got, "1.50 s ago") || !strings.Contains(got, "both sites") {
		t.Errorf("alive: %q", got)
	}
	if got := heardIn(st, noon.Add(time.Minute)); got != "" {
		t.Errorf("long silent: %q", got)
	}
}

func TestReleaseWithoutAnApplier(t *testing.T) {
	pair := journaltest.Sites(t)
	g := document(t, nowhere, pair.DRURL())
	for _, args := range [][]string{{"--dry-run"}, {"--yes"}} {
		_, errs, code := invoke(t, append([]string{"release", "--group", g}, args...)...)
		if code != 2 || !strings.Contains(errs, "captures no Kubernetes objects") {
			t.Errorf("%v, no objects: exit code %d: %s", args, code, errs)
		}
	}
	g = objectsDocument(t, nowhere, pair.DRURL())
	for _, args := range [][]string{{"--dry-run"}, {"--yes"}, nil} {
		_, errs, code := invoke(t, append([]string{"release", "--group", g}, args...)...)
		if code != 1 || !strings.Contains(errs, "is the group's applier running") {
			t.Errorf("%v: exit code %d: %s", args, code, errs)
		}
	}
}

// The whole command against what an applier serves.
func TestReleaseOverTheBus(t *testing.T) {
	pair := journaltest.Sites(t)
	g := objectsDocument(t, nowhere, pair.DRURL())
	a := &applier{
		plan: rebuild.Plan{Point: releasePoint(), Steps: steps()[2:3]}, now: rebuild.Progress{Mode: rebuild.ModeStandby},
		end: rebuild.Progress{Mode: rebuild.ModeReleased, Point: releasePoint(), Done: 1, Total: 1, Since: noon},
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- release.Serve(ctx, pair.DR.Conn(), "shop", a) }()
	var out, errs string
	code := 1
	for code != 0 && ctx.Err() == nil { // until it is served
		out, errs, code = invoke(t, "release", "--group", g, "--dry-run")
	}
	if !strings.Contains(out, "replicas 0 → 3") || a.begun != 0 {
		t.Errorf("dry run: %s%s", out, errs)
	}
	out, errs, code = invoke(t, "release", "--group", g, "--yes")
	if code != 0 || !strings.Contains(out, "released 1 of 1 objects of shop") || a.begun != 1 {
		t.Errorf("begun %d times, exit code %d: %s%s", a.begun, code, out, errs)
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
