package store_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/archive/store/storetest"
)

func openDir(t *testing.T, root string) *store.Dir {
	t.Helper()
	d, err := store.NewDir(root)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDir(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return openDir(t, filepath.Join(t.TempDir(), "a", "b")) })
}

func TestMemory(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return new(storetest.Memory) })
}

// What is in the directory beside objects is none of the store's business, and what writers that died left goes away.
func TestDirForeignFiles(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"lost+found/a", ".snapshot/b", "packs/.nfs0001", "packs/Readme", ".unfinished/new", ".unfinished/old"} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(filepath.Join(root, ".unfinished", "old"), old, old); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("elsewhere", filepath.Join(root, "packs", "link")); err != nil {
		t.Fatal(err)
	}
	d := openDir(t, root)
	if err := d.Put(t.Context(), "packs/a", []byte("a")); err != nil {
		t.Fatal(err)
	}
	var names []string
	for info, err := range d.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, info.Name)
	}
	if !slices.Equal(names, []string{"packs/a"}) {
		t.Errorf("listed: %v", names)
	}
	entries, err := os.ReadDir(filepath.Join(root, ".unfinished"))
	if err != nil || len(entries) != 1 || entries[0].Name() != "new" {
		t.Errorf("unfinished objects: %v, error %v", entries, err)
	}
}

// A put that fails leaves nothing of it.
func TestDirPutFails(t *testing.T) {
	root := t.TempDir()
	d := openDir(t, root)
	if err := d.Put(t.Context(), "a/b", []byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := d.Put(t.Context(), "a", []byte("a file where a directory is")); err == nil {
		t.Error("a directory was replaced by an object")
	}
	if entries, err := os.ReadDir(filepath.Join(root, ".unfinished")); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, error %v", entries, err)
	}
	if os.Getuid() == 0 {
		t.Skip("root may write everywhere: a directory that may not be written is not tried")
	}
	if err := os.Chmod(filepath.Join(root, "a"), 0o500); err != nil {
		t.Fatal(err)
	}
	err := d.Put(t.Context(), "a/b", []byte("new"))
	if !errors.Is(err, store.ErrDenied) || !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a put into a directory that may not be written: %v", err)
	}
	if got, err := d.Get(t.Context(), "a/b", 0, -1); err != nil || string(got) != "old" {
		t.Errorf("afterwards there is %q, error %v", got, err)
	}
}
