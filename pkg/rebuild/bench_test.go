package rebuild

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/farshore/farshore/internal/kube"
	"github.com/farshore/farshore/internal/kube/kubetest"
)

// mixed are n objects as an application has them, in namespaces of 100.
func mixed(n int) string {
	var docs []string
	for i := range n {
		ns := fmt.Sprintf("NS-%d", i/100)
		switch i % 5 {
		case 0, 1:
			docs = append(docs, fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c-%d, namespace: %s}\ndata: {text: %q}", i, ns, strings.Repeat("text ", 200)))
		case 2:
			docs = append(docs, fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: s-%d, namespace: %s}\ndata: {k: c2VjcmV0}", i, ns))
		case 3:
			docs = append(docs, fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: s-%d, namespace: %s}\nspec: {selector: {app: a}, ports: [{port: 80}]}", i, ns))
		default:
			docs = append(docs, fmt.Sprintf("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d-%d, namespace: %s}\n"+
				"spec: {replicas: 3, selector: {matchLabels: {app: a}}, template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c, image: \"i:1\"}]}}}", i, ns))
		}
	}
	return strings.Join(docs, "\n---\n")
}

// BenchmarkFirstSync measures how long 5,000 objects take that aren't there, how long the same objects take after a restart, which
// writes nothing, and how long one change takes.
func BenchmarkFirstSync(b *testing.B) {
	for b.Loop() {
		c := kubetest.New(b, kube.Options{})[0]
		text := mixed(5000)
		s := stateOf(b, "bench", text)
		begun := time.Now()
		r, stop := start(b, c, "bench", nil)
		r.wantClean(s)
		b.ReportMetric(time.Since(begun).Seconds(), "s/first")
		begun = time.Now()
		changed := stateOf(b, "bench", text, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c-0, namespace: NS-0}\ndata: {text: changed}")
		r.wantClean(changed)
		b.ReportMetric(time.Since(begun).Seconds(), "s/change")
		stop()
		again, end := start(b, c, "bench", nil)
		begun = time.Now()
		again.wantClean(changed)
		b.ReportMetric(time.Since(begun).Seconds(), "s/restart")
		if again.writes() != 0 {
			b.Errorf("%d writes after a restart", again.writes())
		}
		begun = time.Now()
		if _, err := again.Plan(context.Background()); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(begun).Seconds(), "s/plan")
		end()
	}
}
