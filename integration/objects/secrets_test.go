package objects

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
)

// identity makes an age identity and returns the path of its file, and its recipient.
func identity(t *testing.T) (path, recipient string) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "identity")
	if err := os.WriteFile(path, []byte(id.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, id.Recipient().String()
}

// holding lists the files below a directory that hold one of the texts.
func holding(t *testing.T, dir string, texts []string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // servers rename and delete files meanwhile
		}
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, text := range texts {
			if bytes.Contains(content, []byte(text)) {
				files = append(files, strings.TrimPrefix(path, dir))
				break
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// Where the group names recipients, what a Secret holds is in no store, file or log of either site, while what a ConfigMap
// holds is in both; the DR API server and a replay have it. An applier without the identity names the Secret that it can't read.
func TestSecretsAreEncrypted(t *testing.T) {
	path, recipient := identity(t)
	other, _ := identity(t)
	recovery := "identities: [%s]"
	s := start(t, options{spec: "namespaces: [bank], recipients: [" + recipient + "]", recovery: fmt.Sprintf(recovery, other)})
	secret, open := rand.Text()+rand.Text(), rand.Text()+rand.Text()
	for i := range 3 { // new values, as of a rotation, and one of binary data
		s.primary.apply(manifest("v1", "Secret", "bank", "password", fmt.Sprintf("stringData: {value: %q, more: %q}", secret, strings.Repeat(secret, i))) +
			config("open", fmt.Sprint(open, i)))
	}
	s.Recovered("first", limit)
	s.status("the Secret that can't be decrypted is named", func(st *group.Status) error { return refused(st, "secrets", "password", "").error })
	if s.dr.get(secrets, "bank", "password") != nil {
		t.Error("a Secret that can't be decrypted is there")
	}
	s.SetObjects(braces("namespaces: [bank], recipients: ["+recipient+"]"), braces(fmt.Sprintf(recovery, path)))
	var obj *unstructured.Unstructured
	harness.Eventually(t, limit, "the Secret is applied", func() error {
		if obj = s.dr.get(secrets, "bank", "password"); obj == nil {
			return errors.New("it is not there")
		}
		return nil
	})
	s.applied("second")
	encoded, _, _ := unstructured.NestedString(obj.Object, "data", "value")
	if text, err := base64.StdEncoding.DecodeString(encoded); err != nil || string(text) != secret {
		t.Errorf("the DR site's Secret holds %q, %v", text, err)
	}
	view := s.view("second")
	raw, err := view.Raw(events.ObjectKey{Version: "v1", Resource: "secrets", Namespace: "bank", Name: "password"})
	if err != nil || !bytes.HasPrefix(raw, []byte("age-encryption.org/")) {
		t.Errorf("the durable copy holds %.40q, %v", raw, err)
	}
	for _, p := range s.All() { // all that is going to be written is
		p.Terminate()
	}
	if files := holding(t, s.Dir, spellings(secret)); len(files) > 0 {
		t.Errorf("the Secret's content lies open in %q", files)
	}
	// Only a search that finds what isn't hidden proves something.
	for _, part := range []string{"bus-primary", "bus-dr", filepath.Base(s.Recovery)} {
		if files := holding(t, filepath.Join(s.Dir, part), spellings(open)); len(files) == 0 {
			t.Errorf("the ConfigMap's content is not found in %s: the search proves nothing", part)
		}
	}
	for _, p := range s.All() {
		if strings.Contains(p.WholeLog(), open) {
			t.Errorf("%s logs what objects hold", p.Name)
		}
	}
}
