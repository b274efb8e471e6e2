package archives_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/farshore/farshore/cmd/internal/archives"
	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/group"
)

func document(t *testing.T) *group.Group {
	t.Helper()
	g := new(group.Group)
	g.Metadata.Name = "bank"
	g.Spec.Recovery.Directory = t.TempDir()
	g.Spec.Recovery.Archive = new(group.Archive)
	return g
}

func identity(t *testing.T) (*age.X25519Identity, string) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "identity")
	if err := os.WriteFile(path, []byte(id.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return id, path
}

func TestDirectory(t *testing.T) {
	g := document(t)
	if _, err := archives.Open(t.Context(), g, archives.Options{}); !errors.Is(err, archive.ErrNone) || !strings.Contains(err.Error(), "bank") {
		t.Errorf("open where there is none: %v", err)
	}
	if _, err := os.Stat(g.ArchiveDirectory()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("looking for an archive made its directory: %v", err)
	}
	for range 2 { // the second time it is there
		a, err := archives.Create(t.Context(), g, archives.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(g.Spec.Recovery.Directory, "archive", "bank", "archive.json")); err != nil {
		t.Error(err)
	}
	g.Spec.Recovery.Archive = nil
	if _, err := archives.Open(t.Context(), g, archives.Options{}); !errors.Is(err, archives.ErrNotConfigured) {
		t.Errorf("a document without an archive: %v", err)
	}
}

func TestIdentities(t *testing.T) {
	g := document(t)
	id, file := identity(t)
	stranger, _ := identity(t)
	g.Spec.Recovery.Archive.Recipients = []string{id.Recipient().String()}
	g.Spec.Recovery.Archive.Identities = file
	a, err := archives.Create(t.Context(), g, archives.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !a.Encrypted() {
		t.Error("an archive with recipients is not encrypted")
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	// Where the applier's file can't be read another identity does, and without one the error names the file.
	g.Spec.Recovery.Archive.Identities = filepath.Join(t.TempDir(), "none")
	for _, tt := range []struct {
		given []age.Identity
		ok    bool
	}{{[]age.Identity{id}, true}, {[]age.Identity{stranger, id}, true}, {[]age.Identity{stranger}, false}, {nil, false}} {
		a, err := archives.Open(t.Context(), g, archives.Options{Identities: tt.given})
		if tt.ok {
			if err != nil {
				t.Errorf("with %d identities: %v", len(tt.given), err)
				continue
			}
			if err := a.Close(); err != nil {
				t.Error(err)
			}
			continue
		}
		if !errors.Is(err, archive.ErrKey) || !strings.Contains(err.Error(), g.Spec.Recovery.Archive.Identities) {
			t.Errorf("with %d identities that don't open it: %v", len(tt.given), err)
		}
	}
}

func TestS3(t *testing.T) {
	g := document(t)
	g.Spec.Recovery.Archive.S3 = &group.S3{Endpoint: "127.0.0.1:1", Bucket: "farshore", Prefix: "dr/one", Insecure: true}
	s, err := archives.Store(g, archives.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if want := "http://127.0.0.1:1/farshore/dr/one/bank"; s.String() != want {
		t.Errorf("the store is %s, want %s", s, want)
	}
	g.Spec.Recovery.Archive.S3.Credentials = filepath.Join(t.TempDir(), "none")
	if _, err := archives.Open(t.Context(), g, archives.Options{}); !errors.Is(err, store.ErrDenied) || !strings.Contains(err.Error(), g.Spec.Recovery.Archive.S3.Credentials) {
		t.Errorf("without the file of credentials: %v", err)
	}
}
