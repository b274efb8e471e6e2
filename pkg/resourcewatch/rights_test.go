package resourcewatch_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"filippo.io/age"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/farshore/farshore/internal/kube/kubetest"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/resourcewatch"
)

// A user who may not read everything is told which verb and resource are missing, the other kinds go on, what was sent of the one that
// can't be read stays, and it is captured as soon as the right is there.
func TestMissingRightsAreNamed(t *testing.T) {
	s := newSite(t, kubetest.Shared(t))
	s.put("c", nil)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Data: map[string][]byte{"k": []byte("v")}}
	_, err := s.client.CoreV1().Secrets(s.namespace).Create(t.Context(), secret, metav1.CreateOptions{})
	must(t, err)
	user := "watcher-" + s.namespace
	path, err := s.cluster.User(user)
	must(t, err)
	s.config, err = clientcmd.BuildConfigFromFlags("", path)
	must(t, err)

	w := s.watch()
	eventually(t, "the missing rights are named", func() bool { return len(w.Status().Refused) > 20 })
	s.grant(user, "most", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps", "services"}, Verbs: []string{"list", "watch"}})
	s.ready(w)
	s.converges(configMaps)
	refused := make(map[string]resourcewatch.Refused)
	for _, r := range w.Status().Refused {
		refused[r.Verb+" "+r.Resource] = r
	}
	for _, verb := range []string{"list", "watch"} {
		if r := refused[verb+" secrets"]; r.Namespace != s.namespace || r.Group != "" || !strings.Contains(r.Message, user) || r.Since.IsZero() {
			t.Errorf("the right to %s secrets is missing, and %+v is told", verb, r)
		}
		if r, ok := refused[verb+" configmaps"]; ok {
			t.Errorf("told as missing: %+v", r)
		}
		if line := "verb=" + verb + ` group="" resource=secrets`; !strings.Contains(s.log.String(), line) {
			t.Errorf("the log has no line with %s", line)
		}
	}
	if n := strings.Count(s.log.String(), `verb=list group="" resource=secrets`); n != 1 {
		t.Errorf("the log says %d times that secrets can't be listed", n)
	}
	labelled(t, w, 1)

	role := s.grant(user, "rest", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"list", "watch"}})
	key := events.ObjectKey{Version: "v1", Resource: "secrets", Namespace: s.namespace, Name: "s"}
	knows := func() bool { _, ok := replay(t, s.stream.events())[key]; return ok }
	eventually(t, "secrets are captured once they may be read", knows)

	w.kill()
	must(t, s.client.RbacV1().RoleBindings(s.namespace).Delete(context.Background(), role, deleteNow))
	w = s.ready(s.watch())
	labelled(t, w, 1)
	if !knows() {
		t.Error("a Secret that can't be read any more is taken to be deleted")
	}
}

// grant lets a user do what the rule says in the site's namespace, and returns the binding's name.
func (s *site) grant(user, name string, rule rbacv1.PolicyRule) string {
	s.t.Helper()
	_, err := s.client.RbacV1().Roles(s.namespace).Create(context.Background(), &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{rule},
	}, metav1.CreateOptions{})
	must(s.t, err)
	_, err = s.client.RbacV1().RoleBindings(s.namespace).Create(context.Background(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
	}, metav1.CreateOptions{})
	must(s.t, err)
	return name
}

// What a Secret holds neither leaves the process unencrypted nor is logged, whatever happens.
func TestSecretsStaySecret(t *testing.T) {
	s := newSite(t, kubetest.Shared(t))
	identity, err := age.GenerateX25519Identity()
	must(t, err)
	s.tune = func(o *resourcewatch.Options) { o.Recipients = []string{identity.Recipient().String()} }
	const words = "correct horse battery staple"
	w := s.ready(s.watch())
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Data: map[string][]byte{"k": []byte(words)}}
	secrets := s.client.CoreV1().Secrets(s.namespace)
	_, err = secrets.Create(t.Context(), secret, metav1.CreateOptions{})
	must(t, err)
	s.put("open", map[string]string{"k": "not secret"})
	s.converges(configMaps)
	labelled(t, w, 1)
	s.stream.fence()
	secret.Data["more"] = []byte(words)
	_, err = secrets.Update(t.Context(), secret, metav1.UpdateOptions{})
	must(t, err)
	eventually(t, "the tenure fails", func() bool { ok, _ := w.Ready(); return !ok })
	w.kill()

	sent := 0
	told := s.log.String() + fmt.Sprint(w.err)
	for _, o := range objects(s.stream.events()) {
		told += string(o.Raw)
		if o.Key.Resource == "secrets" {
			sent++
			if !strings.HasPrefix(string(o.Raw), "age-encryption.org/") {
				t.Error("a Secret was sent that isn't encrypted")
			}
		}
	}
	if sent == 0 {
		t.Error("no Secret was sent")
	}
	for _, form := range []string{words, base64.StdEncoding.EncodeToString([]byte(words))} {
		if strings.Contains(told, form) {
			t.Error("the Secret's content was sent or logged")
		}
	}
}
