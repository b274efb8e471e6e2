package demo

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/farshore/farshore/cmd/farshore/internal/bank"
	"github.com/farshore/farshore/cmd/farshore/internal/statusview"
	"github.com/farshore/farshore/pkg/rebuild"
)

// takeoverLimit bounds each thing that the DR site's API server and controllers are waited for.
const takeoverLimit = 60 * time.Second

// manifests are the files of a replay.
type manifests struct {
	Path    string `json:"path"`
	Count   int    `json:"count"`
	LeftOut []any  `json:"leftOut"`
}

// config reads a ConfigMap among manifests; nil: it isn't there.
func (m *manifests) config(namespace, name string) (*corev1.ConfigMap, error) {
	var out corev1.ConfigMap
	return &out, m.read(filepath.Join(namespace, "configmap-"+name+".yaml"), &out)
}

func (m *manifests) read(name string, into any) error {
	text, err := os.ReadFile(filepath.Join(m.Path, name))
	if err != nil {
		return err
	}
	return yaml.Unmarshal(text, into)
}

// objects checks the objects of a recovered point against its databases and what the API server had confirmed.
func (r *recovered) objects(a *application, namespace string, labelled bool) {
	m := r.manifests
	if m == nil {
		r.check("the objects are there", false, "the point has none")
		return
	}
	config, err := m.config(namespace, limits)
	var l limit
	if err == nil {
		l, err = limitOf(config.Data)
	}
	if err != nil {
		r.check("ConfigMap limits is there", false, "%v", err)
		return
	}
	confirmed, asked, _ := a.around(r.point.Time)
	if labelled {
		r.check("no debit beyond the ConfigMap's limit", r.contents.Debits <= l.allowed, "%d debits, limit %d", r.contents.Debits, l.allowed)
		r.check("every limit confirmed by then", l.allowed >= confirmed, "%d of %d", l.allowed, confirmed)
	}
	r.check("every debit that the ConfigMap counts", l.booked <= r.contents.Debits, "%d of %d", min(l.booked, r.contents.Debits), l.booked)
	r.check("no limit asked for after it", l.allowed <= asked, "%d of %d asked for", l.allowed, asked)
	var secret corev1.Secret
	err = m.read(filepath.Join(namespace, "secret-"+keys+".yaml"), &secret)
	r.check("the Secret opens with the DR site's age key", err == nil && string(secret.Data["signing"]) == a.secret, "%s", detail(err, ""))
	_, err = m.config(namespace, tariffs)
	if labelled {
		r.check("the deleted ConfigMap is back", err == nil, "%s", detail(err, fmt.Sprintf("%d manifests", m.Count)))
	} else {
		r.check("the deleted ConfigMap is gone", os.IsNotExist(err), "%s", detail(nil, fmt.Sprintf("%d manifests", m.Count)))
	}
}

// detail is what a check shows: why it fails, or how it stands.
func detail(err error, otherwise string) string {
	if err != nil {
		return err.Error()
	}
	return otherwise
}

// takeover is what happened at the DR site's API server.
type takeover struct {
	checks []bank.Check
}

func (t *takeover) check(name string, ok bool, format string, args ...any) {
	t.checks = append(t.checks, bank.Check{Name: name, OK: ok, Detail: fmt.Sprintf(format, args...)})
}

// takeOver checks that the DR site's API server holds the newest point and that nothing acts there, and releases it.
func (d *demo) takeOver(ctx context.Context) error {
	c, t := d.clusters, &takeover{}
	d.report.takeover = t
	newest, labelled := d.report.points[0], d.report.points[1]
	if err := d.applied(ctx, newest.point.Barrier); err != nil {
		return err
	}
	if err := d.copyChecks(ctx, labelled, t); err != nil {
		return err
	}
	d.screen.say("farshore objects diff --at %d", newest.point.Barrier)
	out, err := d.farshore(ctx, d.options.Err, "objects", "diff", "--at", fmt.Sprint(newest.point.Barrier), "--kubeconfig", c.dr.kubeconfig, "-o", "json")
	var diff struct{ Objects, HeldBack int }
	if err == nil {
		err = json.Unmarshal(out, &diff)
	}
	t.check("farshore objects diff finds none", err == nil, "%s", detail(err, fmt.Sprintf("%d objects", diff.Objects)))
	before, err := d.look(ctx)
	if err != nil {
		return err
	}
	t.check("nothing acts before the release", before.inert(), "%s", before)
	clear, err := d.readable(d.application.secret)
	t.check("the Secret is not readable in any journal", err == nil && clear == "", "%s", detail(err, clear))

	d.screen.say("farshore release: the application takes over at the DR site")
	begun := time.Now()
	if _, err = d.farshore(ctx, io.Discard, "release", "--yes", "-o", "json"); err != nil {
		t.check("farshore release releases everything", false, "%v", err)
		return nil
	}
	d.report.release = time.Since(begun)
	t.check("farshore release releases everything", true, "")
	after, err := d.acting(ctx)
	t.check("the application acts", err == nil, "%s", detail(err, after.String()))
	return nil
}

// farshore runs the operator's command on the demo's group.
func (d *demo) farshore(ctx context.Context, stderr io.Writer, args ...string) ([]byte, error) {
	return d.nursery.output(ctx, stderr, "farshore "+args[0], filepath.Join(d.sites.bin, "farshore"), append(args, "--group", d.sites.document)...)
}

// applied waits until the DR site's API server holds a commit.
func (d *demo) applied(ctx context.Context, barrier uint64) error {
	problem := "its applier tells nothing"
	for end := time.Now().Add(takeoverLimit); ; {
		st, err := statusview.Read(ctx, d.sites.site, groupName)
		if err == nil && st.Objects != nil {
			if p := st.Objects.Applied; p != nil && p.Barrier >= barrier {
				return nil
			}
			problem = fmt.Sprintf("%+v", *st.Objects)
		}
		if time.Now().After(end) {
			return fmt.Errorf("the DR site's API server doesn't hold barrier %d after %s: %s", barrier, takeoverLimit, problem)
		}
		if err := wait(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// copyChecks looks at the labelled point where it was applied beside what follows the newest.
func (d *demo) copyChecks(ctx context.Context, labelled *recovered, t *takeover) error {
	core := d.clusters.dr.client.CoreV1()
	_, err := core.ConfigMaps(d.clusters.copied).Get(ctx, tariffs, metav1.GetOptions{})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	labelled.check("the deleted ConfigMap is in a namespace again", err == nil, "%s", detail(err, d.clusters.copied))
	_, err = core.ConfigMaps(d.clusters.drNamespace).Get(ctx, limits, metav1.GetOptions{})
	t.check("the application waits in its namespace", err == nil, "%s", detail(err, d.clusters.drNamespace))
	return nil
}

// acts is what the application does at the DR site.
type acts struct {
	replicas int32
	sets     int // ReplicaSets
	pods     int
	service  corev1.ServiceType
}

func (a acts) inert() bool {
	return a.replicas == 0 && a.sets == 0 && a.pods == 0 && a.service == corev1.ServiceTypeClusterIP
}

// String tells it for people.
func (a acts) String() string {
	return fmt.Sprintf("%d replicas, %d Pods, a %s Service", a.replicas, a.pods, a.service)
}

// look reads what the application does, in both of its namespaces.
func (d *demo) look(ctx context.Context) (a acts, err error) {
	client := d.clusters.dr.client
	for _, namespace := range []string{d.clusters.copied, d.clusters.drNamespace} {
		deployment, err := client.AppsV1().Deployments(namespace).Get(ctx, teller, metav1.GetOptions{})
		if err != nil {
			return a, err
		}
		sets, err := client.AppsV1().ReplicaSets(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return a, err
		}
		for _, s := range sets.Items {
			if *s.Spec.Replicas > 0 { // a Deployment at zero has an empty one
				a.sets++
			}
		}
		pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return a, err
		}
		service, err := client.CoreV1().Services(namespace).Get(ctx, teller, metav1.GetOptions{})
		if err != nil {
			return a, err
		}
		a.replicas += *deployment.Spec.Replicas
		a.pods += len(pods.Items)
		a.service = service.Spec.Type
	}
	return a, nil
}

// acting waits until the DR site's controllers have made the application's Pods.
func (d *demo) acting(ctx context.Context) (acts, error) {
	want := corev1.ServiceTypeClusterIP
	if d.clusters.dr.own != nil {
		want = corev1.ServiceTypeLoadBalancer
	}
	for end := time.Now().Add(takeoverLimit); ; {
		now, err := d.look(ctx)
		if err == nil && now.replicas == replicas && now.pods == replicas && now.service == want {
			return now, nil
		}
		if time.Now().After(end) {
			if err == nil {
				err = fmt.Errorf("after %s: %s", takeoverLimit, now)
			}
			return now, err
		}
		if err := wait(ctx, 100*time.Millisecond); err != nil {
			return now, err
		}
	}
}

// readable returns the first file of the journals, replicas and the archive that holds a secret as it is; "": none does.
func (d *demo) readable(secret string) (found string, err error) {
	forms := [][]byte{[]byte(secret), []byte(base64.StdEncoding.EncodeToString([]byte(secret)))}
	for _, dir := range []string{"primary/bus", "dr/bus", "dr/recovery", "archive"} {
		err = filepath.WalkDir(filepath.Join(d.dir, dir), func(path string, e fs.DirEntry, err error) error {
			if err != nil || found != "" || !e.Type().IsRegular() {
				return ignoreGone(err)
			}
			if filepath.Ext(path) == ".img" { // a volume
				return nil
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return ignoreGone(err)
			}
			for _, form := range forms {
				if bytes.Contains(content, form) {
					found = "in " + path
				}
			}
			return nil
		})
		if err != nil {
			return found, err
		}
	}
	return found, nil
}

// ignoreGone is nil where a file went away between a listing and a look.
func ignoreGone(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// applied is what a replay tells of the objects that it applied.
type applied struct {
	Refused []rebuild.Step `json:"refused"`
}

// String tells it for people.
func (a *applied) String() string {
	if len(a.Refused) == 0 {
		return ""
	}
	return fmt.Sprintf("%s: %s", a.Refused[0].Object, a.Refused[0].Refused)
}
