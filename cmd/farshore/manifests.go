package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"filippo.io/age"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/farshore/farshore/pkg/rebuild"
	"github.com/farshore/farshore/pkg/replica/objects"
)

// manifestsDir is where a replay puts manifests, in the directory that it fills.
const manifestsDir = "manifests"

// clusterScoped is the directory of what has no namespace. No namespace is called so, and it sorts before most.
const clusterScoped = "_cluster"

// leftOut is an object that no manifest was made of.
type leftOut struct {
	Object rebuild.Ref `json:"object"`
	Reason string      `json:"reason"`
}

// errNoIdentity is a Secret that stays closed.
var errNoIdentity = errors.New("encrypted, and no --identity opens it")

// mappedManifests are those of the objects as a release would apply them.
func mappedManifests(rules rebuild.Rules, view rebuild.State) ([]rebuild.Manifest, []leftOut, error) {
	made, broken, err := rebuild.Manifests(rules, view)
	if err != nil {
		return nil, nil, err
	}
	var without []leftOut
	open := made[:0]
	for _, m := range made {
		if m.Encrypted {
			without = append(without, leftOut{m.Object, errNoIdentity.Error()})
			continue
		}
		open = append(open, m)
	}
	for _, b := range broken {
		without = append(without, leftOut{b.Object, b.Reason})
	}
	return open, without, nil
}

// rawManifests are those of the objects as the primary had them.
func rawManifests(identities []age.Identity, view rebuild.State) (made []rebuild.Manifest, without []leftOut, err error) {
	for e := range view.All() {
		ref := rebuild.Ref{Group: e.Key.Group, Version: e.Key.Version, Resource: e.Key.Resource, Namespace: e.Key.Namespace, Name: e.Key.Name}
		raw, err := view.Raw(e.Key)
		if err != nil {
			return nil, nil, err
		}
		if raw, err = unseal(raw, identities); err != nil {
			without = append(without, leftOut{ref, err.Error()})
			continue
		}
		var object unstructured.Unstructured
		if err := object.UnmarshalJSON(raw); err != nil {
			return nil, nil, fmt.Errorf("decode %s: it is no object", objects.Name(e.Key)) // the cause could quote a Secret
		}
		ref.Kind = object.GetKind()
		text, err := yaml.JSONToYAML(raw)
		if err != nil {
			return nil, nil, fmt.Errorf("write %s as YAML: it is no JSON", objects.Name(e.Key))
		}
		made = append(made, rebuild.Manifest{Object: ref, Content: text})
	}
	return made, without, nil
}

// unseal returns the JSON of an object.
func unseal(raw []byte, identities []age.Identity) ([]byte, error) {
	if !bytes.HasPrefix(raw, []byte("age-encryption.org/")) {
		return raw, nil
	}
	if len(identities) == 0 {
		return nil, errNoIdentity
	}
	r, err := age.Decrypt(bytes.NewReader(raw), identities...)
	if err != nil {
		return nil, errNoIdentity
	}
	return io.ReadAll(r)
}

// writeManifests writes each manifest into a file below dir: NAMESPACE/KIND-NAME.yaml, readable for its owner only.
func writeManifests(dir string, manifests []rebuild.Manifest) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir) // no name leads out of it, whatever the journal says
	if err != nil {
		return err
	}
	defer root.Close()
	taken := make(map[string]bool)
	for _, m := range manifests {
		name := manifestName(m.Object, taken)
		taken[name] = true
		if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
			return fmt.Errorf("write manifest of %s: %w", m.Object, err)
		}
		if err := root.WriteFile(name, m.Content, 0o600); err != nil {
			return fmt.Errorf("write manifest of %s: %w", m.Object, err)
		}
	}
	return nil
}

// manifestName is the path of an object's file. Kinds of several API groups can have one name: the second one's says its group.
func manifestName(r rebuild.Ref, taken map[string]bool) string {
	dir := clusterScoped
	if r.Namespace != "" {
		dir = fileName(r.Namespace)
	}
	kind := strings.ToLower(r.Kind)
	if kind == "" {
		kind = r.Resource
	}
	name := path.Join(dir, fileName(kind+"-"+r.Name)+".yaml")
	if taken[name] {
		name = path.Join(dir, fileName(kind+"."+r.Group+"-"+r.Name)+".yaml")
	}
	return name
}

// fileName is s as one element of a path. One that would be too long is cut and stays unique.
func fileName(s string) string {
	const longest = 240 // bytes; file systems take 255
	s = strings.Map(func(r rune) rune {
		if r == '/' || r == '\\' || r < ' ' {
			return '_'
		}
		return r
	}, s)
	if s == "." || s == ".." {
		return "_" + s
	}
	if len(s) > longest {
		sum := sha256.Sum256([]byte(s))
		s = s[:longest-9] + "-" + hex.EncodeToString(sum[:4])
	}
	return s
}
