package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/internal/kube"
	"github.com/farshore/farshore/internal/kube/kubetest"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/repair"
)

// asCapturer makes the test binary run the command instead, so that it can be killed.
const asCapturer = "FARSHORE_TEST_CAPTURER"

func TestMain(m *testing.M) {
	if os.Getenv(asCapturer) != "" {
		main()
	}
	os.Exit(kubetest.Main(m))
}

// realm is a primary site with a group of objects and no volume.
type realm struct {
	*shore
	cluster   *kube.Cluster
	client    *kubernetes.Clientset
	namespace string
	site      *journal.Site
}

func newRealm(t *testing.T) *realm { t.Helper(); return realmOn(t, kubetest.Shared(t)) }

func realmOn(t *testing.T, cluster *kube.Cluster) *realm {
	t.Helper()
	r := &realm{cluster: cluster, shore: newShore(t)}
	r.client, r.namespace = kubetest.Client(t, r.cluster), kubetest.Namespace(t, r.cluster, "capturer")
	r.objects(t, "")
	r.site = r.startBus(t)
	return r
}

// objects writes the document; with nothing else said, every object of the namespace is wanted.
func (r *realm) objects(t *testing.T, more string) {
	t.Helper()
	r.write(t, fmt.Sprintf("objects: {namespaces: [%s]%s}", r.namespace, more))
}

func (r *realm) write(t *testing.T, spec string) {
	t.Helper()
	must(t, os.WriteFile(r.document, fmt.Appendf(nil, `
apiVersion: farshore.dev/v1alpha1
kind: ProtectionGroup
metadata: {name: shop}
spec:
  sites:
    primary: {url: "nats://127.0.0.1:%d"}
  %s
`, r.port, spec), 0o600))
}

func (r *realm) args(name string) []string {
	return []string{"--kubeconfig", r.cluster.Kubeconfig, "--name", name}
}

// put makes a ConfigMap, or changes it.
func (r *realm) put(t *testing.T, name, value string) {
	t.Helper()
	c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kind": name[:1]}}, Data: map[string]string{"value": value}}
	maps := r.client.CoreV1().ConfigMaps(r.namespace)
	_, err := maps.Create(deadline(t), c, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = maps.Update(deadline(t), c, metav1.UpdateOptions{})
	}
	must(t, err)
}

func (r *realm) remove(t *testing.T, name string) {
	t.Helper()
	must(t, r.client.CoreV1().ConfigMaps(r.namespace).Delete(deadline(t), name, metav1.DeleteOptions{}))
}

func (r *realm) stream(generation uint32) journal.StreamID {
	return journal.StreamID{Group: "shop", Part: journal.Objects, Generation: generation}
}

// read reads a whole generation of the objects stream; nothing where there is none.
func (r *realm) read(t *testing.T, generation uint32) (out []journal.Message) {
	t.Helper()
	name := r.stream(generation).Name()
	tail, err := r.site.Tail(deadline(t), name)
	if err != nil || tail.Last == 0 {
		return nil
	}
	reader, err := r.site.OpenReader(deadline(t), name, 1)
	must(t, err)
	defer reader.Close()
	for uint64(len(out)) < tail.Last {
		m, err := reader.Next(deadline(t))
		must(t, err)
		out = append(out, m)
	}
	return out
}

// rebuilt is what a reader of the stream has in the end: the objects' JSON. It fails the test where a tenure sends the
// same state of an object twice.
func rebuilt(t *testing.T, all []journal.Message) map[events.ObjectKey]string {
	t.Helper()
	has := make(map[events.ObjectKey]string)
	seen := make(map[string]bool)
	for _, m := range all {
		switch e := m.Event.(type) {
		case *events.Object:
			once := fmt.Sprint(m.Header.Epoch, e.Key, e.UID, e.Revision, e.Verb, e.Part)
			if seen[once] {
				t.Errorf("message %d is sent a second time: %v", m.Seq, e.Key)
			}
			seen[once] = true
			if e.Verb == events.Delete {
				delete(has, e.Key)
			} else {
				has[e.Key] = string(e.Raw)
			}
		case *events.Listed:
			listed := make(map[[2]string]bool)
			for _, o := range e.Objects {
				listed[[2]string{o.Namespace, o.Name}] = true
			}
			for k := range has {
				if k.Group == e.Group && k.Resource == e.Resource && !listed[[2]string{k.Namespace, k.Name}] {
					delete(has, k)
				}
			}
		}
	}
	return has
}

func countObjects(all []journal.Message) (n int) {
	for _, m := range all {
		if _, ok := m.Event.(*events.Object); ok {
			n++
		}
	}
	return n
}

// arrived waits until the stream tells what the API server has of the namespace's ConfigMaps.
func (r *realm) arrived(t *testing.T, generation uint32) map[events.ObjectKey]string {
	t.Helper()
	list, err := r.client.CoreV1().ConfigMaps(r.namespace).List(deadline(t), metav1.ListOptions{})
	must(t, err)
	want := make(map[string]string)
	for _, c := range list.Items {
		want[c.Name] = c.ResourceVersion
	}
	var has map[events.ObjectKey]string
	eventually(t, "the stream tells what the API server has", func() bool {
		has = rebuilt(t, r.read(t, generation))
		n := 0
		for k, raw := range has {
			if k.Resource != "configmaps" {
				continue
			}
			var o struct{ Metadata metav1.ObjectMeta }
			must(t, json.Unmarshal([]byte(raw), &o))
			if n++; want[k.Name] != o.Metadata.ResourceVersion {
				return false
			}
		}
		return n == len(want)
	})
	return has
}

// spawn starts the command as a process of its own.
func (r *realm) spawn(t *testing.T, name string) (kill func(), log *buffer) {
	t.Helper()
	log = &buffer{}
	cmd := exec.Command(os.Args[0], append([]string{"--group", r.document, "--state", filepath.Join(r.dir, name)}, r.args(name)...)...)
	cmd.Env = append(os.Environ(), asCapturer+"=1")
	cmd.Stderr = log
	must(t, cmd.Start())
	ended := false
	kill = func() {
		if !ended {
			ended = true
			_ = cmd.Process.Kill() // fails only where it has ended
			_ = cmd.Wait()         // the signal's error
		}
	}
	t.Cleanup(func() {
		kill()
		if t.Failed() {
			t.Logf("log of capturer %s:\n%s", name, log)
		}
	})
	return kill, log
}

// The leader of two capturers is killed while objects change. The other one takes over; nothing is lost, what is sent is sent once by
// each.
func TestLeaderIsKilled(t *testing.T) {
	r := newRealm(t)
	killA, logA := r.spawn(t, "a")
	eventually(t, "a watches", func() bool { return strings.Contains(logA.String(), "recording objects") })
	_, logB := r.spawn(t, "b")
	eventually(t, "b waits", func() bool { return strings.Contains(logB.String(), "another capturer has the Lease") })
	for i := range 60 {
		r.put(t, fmt.Sprintf("c%d", i), "first")
		if i == 40 {
			killA()
		}
		if i%3 == 0 {
			r.remove(t, fmt.Sprintf("c%d", i))
		}
	}
	eventually(t, "b watches", func() bool { return strings.Contains(logB.String(), "recording objects") })
	r.put(t, "last", "x")
	r.remove(t, "c1")
	r.arrived(t, 1)
	epochs := 0
	for _, m := range r.read(t, 1) {
		if _, ok := m.Event.(*events.Epoch); ok {
			epochs++
		}
	}
	if epochs != 2 {
		t.Errorf("%d writers opened the stream", epochs)
	}
}

// A leader that another writer fences gives the Lease back, competes again, and goes on in an epoch of its own.
func TestFencedWatcherCompetesAgain(t *testing.T) {
	r := newRealm(t)
	p := r.start(t, r.args("a")...)
	p.await(t, "recording objects")
	r.put(t, "c1", "x")
	r.arrived(t, 1)
	_, err := r.site.OpenWriter(deadline(t), r.stream(1), journal.WriterOptions{
		Writer: "stranger", Open: func(uint64) *events.Epoch { return &events.Epoch{Writer: "stranger"} },
	})
	must(t, err)
	r.put(t, "c2", "x")
	p.await(t, "left to another capturer")
	eventually(t, "it records again", func() bool { return strings.Count(p.log.String(), "recording objects") == 2 })
	r.arrived(t, 1)
	all := r.read(t, 1)
	if last := all[len(all)-1]; last.Header.Epoch != 3 {
		t.Errorf("the stream ends with epoch %d", last.Header.Epoch)
	}
	must(t, p.end())
}

// A leader that sees that another one has the Lease stops, and competes again once that one no longer renews it.
func TestLeaseIsTaken(t *testing.T) {
	r := newRealm(t)
	p := r.start(t, r.args("a")...)
	p.await(t, "recording objects")
	eventually(t, "the Lease is taken", func() bool {
		leases := r.client.CoordinationV1().Leases(r.namespace)
		l, err := leases.Get(deadline(t), "farshore-shop", metav1.GetOptions{})
		must(t, err)
		thief, now := "thief", metav1.NowMicro()
		l.Spec.HolderIdentity, l.Spec.RenewTime = &thief, &now
		_, err = leases.Update(deadline(t), l, metav1.UpdateOptions{})
		return err == nil
	})
	p.await(t, "another capturer watches the objects now")
	eventually(t, "it records again", func() bool { return strings.Count(p.log.String(), "recording objects") == 2 })
	must(t, p.end())
}

// While the API server is away the leader can't renew its Lease, and goes on: its stream shows that it lives, and when the server is
// back it follows in the same tenure.
func TestServerIsAway(t *testing.T) {
	cluster := kubetest.New(t, kube.Options{})[0]
	r := realmOn(t, cluster)
	r.put(t, "c1", "x")
	p := r.start(t, r.args("a")...)
	p.await(t, "recording objects")
	r.arrived(t, 1)
	cluster.Kill()
	killed := time.Now()
	eventually(t, "the Lease would have passed", func() bool {
		tail, err := r.site.Tail(deadline(t), r.stream(1).Name())
		return err == nil && tail.Header.Time.After(killed.Add(leaseDuration+leaseRetry))
	})
	must(t, cluster.Restart(deadline(t)))
	r.put(t, "c2", "x")
	r.arrived(t, 1)
	must(t, p.end())
	if n := strings.Count(p.log.String(), "recording objects"); n != 1 {
		t.Errorf("it began to record %d times", n)
	}
}

// A restart with nothing changed sends no object, whatever its name; what changed in between is sent, and what went away.
func TestRestartSendsWhatChanged(t *testing.T) {
	r := newRealm(t)
	for i := range 20 {
		r.put(t, fmt.Sprintf("c%d.with-dots", i), "x")
	}
	name := "app:reader_" + r.namespace
	_, err := r.client.RbacV1().Roles(r.namespace).Create(deadline(t), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	must(t, err)
	p := r.start(t, r.args("a")...)
	p.await(t, "recording objects")
	has := r.arrived(t, 1)
	if key := (events.ObjectKey{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "roles", Namespace: r.namespace, Name: name}); has[key] == "" {
		eventually(t, "the role arrives", func() bool { return rebuilt(t, r.read(t, 1))[key] != "" })
	}
	must(t, p.end())
	before := countObjects(r.read(t, 1))

	p = r.start(t, r.args("a")...)
	p.await(t, "recording objects")
	r.put(t, "marker", "x")
	r.arrived(t, 1)
	must(t, p.end())
	if sent := countObjects(r.read(t, 1)) - before; sent != 1 {
		t.Errorf("%d objects were sent, one had changed", sent)
	}

	r.put(t, "c3.with-dots", "y")
	r.remove(t, "c4.with-dots")
	p = r.start(t, r.args("a")...)
	p.await(t, "recording objects")
	r.arrived(t, 1)
	must(t, p.end())
	if sent := countObjects(r.read(t, 1)) - before; sent != 3 {
		t.Errorf("%d objects were sent, three had changed", sent)
	}
}

// A stream that was deleted is not continued: a new generation begins without a base and with everything in it. The same where the DR
// site asks for one.
func TestNewGenerationHasEverything(t *testing.T) {
	r := newRealm(t)
	recoverFor(t, r.site)
	for i := range 10 {
		r.put(t, fmt.Sprintf("c%d", i), "x")
	}
	p := r.start(t, r.args("a")...)
	p.await(t, "recording objects")
	r.arrived(t, 1)
	must(t, r.site.JetStream().DeleteStream(deadline(t), r.stream(1).Name()))
	r.put(t, "c11", "x")
	eventually(t, "a generation begins", func() bool {
		return strings.Contains(p.log.String(), "msg=\"recording objects\"") && r.read(t, 2) != nil
	})
	r.arrived(t, 2)
	for i := range 2 {
		eventually(t, "a new generation is asked for", func() bool {
			return repair.CaptureOf(r.site.Conn(), "shop", journal.Objects).Renew(deadline(t), 2, "test") == nil
		})
		if i == 0 {
			eventually(t, "the next generation begins", func() bool { return r.read(t, 3) != nil })
		}
	}
	r.arrived(t, 3)
	if e, ok := r.read(t, 3)[0].Event.(*events.Epoch); !ok || e.Base != nil {
		t.Errorf("it begins with %+v", r.read(t, 3)[0].Event)
	}
	must(t, p.end())
	eventually(t, "what is remembered of older generations is dropped", func() bool {
		kv, err := r.site.KV(deadline(t), objectsBucket, 0)
		must(t, err)
		keys, err := kv.Keys(deadline(t))
		must(t, err)
		for _, k := range keys {
			if !strings.HasPrefix(k, "shop.g3") {
				return false
			}
		}
		return len(keys) > 10
	})
}

// The document's objects may come, change and go while the capturer runs.
func TestDocumentChangesObjects(t *testing.T) {
	r := newRealm(t)
	r.put(t, "a1", "x")
	r.put(t, "b1", "x")
	p := r.start(t, r.args("a")...)
	p.await(t, "recording objects")
	r.arrived(t, 1)
	follow := func(what string, ok func(has map[string]bool) bool) {
		t.Helper()
		reload(t)
		eventually(t, what, func() bool {
			has := make(map[string]bool)
			for k := range rebuilt(t, r.read(t, 1)) {
				if k.Resource == "configmaps" {
					has[k.Name] = true
				}
			}
			return ok(has)
		})
	}
	r.objects(t, `, selector: "kind=a"`)
	follow("b1 has left", func(has map[string]bool) bool { return has["a1"] && !has["b1"] })
	r.objects(t, `, leaveOut: [{resource: configmaps, name: a1}]`)
	follow("b1 is back, a1 has left", func(has map[string]bool) bool { return !has["a1"] && has["b1"] })

	r.write(t, `volumes: [{name: v, uid: u, capturer: b, path: /nowhere, listen: "unix:/nowhere.sock"}]`)
	reload(t)
	p.await(t, "the Lease is given back")
	lease := func() string {
		l, err := r.client.CoordinationV1().Leases(r.namespace).Get(deadline(t), "farshore-shop", metav1.GetOptions{})
		must(t, err)
		if l.Spec.HolderIdentity == nil {
			return ""
		}
		return *l.Spec.HolderIdentity
	}
	eventually(t, "nobody has the Lease", func() bool { return lease() == "" })
	r.put(t, "a2", "x")
	r.objects(t, "")
	follow("they are recorded again", func(has map[string]bool) bool { return has["a1"] && has["a2"] && has["b1"] })
	must(t, p.end())
	if holder := lease(); holder != "" {
		t.Errorf("%s still has the Lease", holder)
	}
}

// A capturer without a cluster serves its volumes and leaves the objects alone; without volumes it has nothing to do.
func TestWithoutCluster(t *testing.T) {
	s := newShore(t)
	site := s.startBus(t)
	text, err := os.ReadFile(s.document)
	must(t, err)
	must(t, os.WriteFile(s.document, append(text, "  objects: {namespaces: [bank]}\n"...), 0o600))
	p := s.start(t)
	p.await(t, "msg=recording")
	p.await(t, "left to other capturers")
	if tail, err := site.Tail(deadline(t), journal.StreamID{Group: "shop", Part: journal.Objects, Generation: 1}.Name()); err == nil {
		t.Errorf("there is an objects stream, up to %d", tail.Last)
	}
	must(t, p.end())
	for _, args := range [][]string{{"--name", "nobody"}, {"--context", "c"}, {"--kubeconfig", filepath.Join(s.dir, "missing")}} {
		if err := s.start(t, args...).wait(); daemon.ExitCode(err) != daemon.ExitUsage {
			t.Errorf("%v: got %v", args, err)
		}
	}
}

// A capturer without rights says which it lacks.
func TestWithoutRights(t *testing.T) {
	r := newRealm(t)
	kubeconfig, err := r.cluster.User("nobody")
	must(t, err)
	p := r.start(t, "--kubeconfig", kubeconfig)
	p.await(t, "cannot get resource")
	p.await(t, "leases")
	must(t, p.end())
}
