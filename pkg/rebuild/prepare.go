package rebuild

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/farshore/farshore/pkg/events"
)

// sealed is how an age file begins.
var sealed = []byte("age-encryption.org/")

// errSealed means that no identity opens a Secret.
var errSealed = errors.New("is encrypted, and none of spec.recovery.objects.identities opens it")

// target names an object at the DR site, in whatever version.
type target struct{ group, resource, namespace, name string }

// prepared is an object as it is to be sent.
type prepared struct {
	ref  Ref
	gvr  schema.GroupVersionResource
	kind kind
	// obj is what is applied: with labels and annotations, without a UID or a resourceVersion.
	obj  map[string]any
	hash string
	held map[string]any // what the form replaced, by path
	// ended: a Pod or Job that had ended at the primary. A Pod is not made again, a Job stays suspended.
	ended bool
}

func (p *prepared) target() target {
	return target{p.ref.Group, p.ref.Resource, p.ref.Namespace, p.ref.Name}
}

// preparer makes objects of a State into what is applied.
type preparer struct {
	group string
	rules Rules
	// volumes are the PersistentVolumes of the state, by name.
	volumes map[string]bool
	// sole leaves out what has no namespace, but namespaces.
	sole bool
}

// form is how an object is applied.
type form int

// The forms.
const (
	formHeld     form = iota // doesn't act
	formReleased             // acts, and says that it was released
	formPlain                // acts, without a word of Farshore: manifests
)

// prepare makes one object. raw is as State.Raw gives it. The error of what can't be made is worth showing and holds no content.
func (p *preparer) prepare(e Entry, raw []byte, f form) (*prepared, error) {
	raw, err := p.open(raw)
	if err != nil {
		return nil, err
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(raw); err != nil {
		return nil, fmt.Errorf("the captured object is no JSON of an object") // the cause could quote a Secret
	}
	out := &prepared{ended: ended(u.GetKind(), u.Object)}
	mirrored := u.GetAnnotations()["kubernetes.io/config.mirror"] != ""
	bound := volumeOf(u.Object)
	mapping := p.rules.Transform
	if mapping == nil {
		mapping = unmapped
	}
	if err := mapping.Apply(u); err != nil {
		return nil, fmt.Errorf("map object: %w", err)
	}
	gvk := u.GroupVersionKind()
	out.gvr = schema.GroupVersionResource{Group: gvk.Group, Version: gvk.Version, Resource: e.Key.Resource}
	out.kind = kindOf(out.gvr.GroupResource(), p.rules.Inert)
	out.ref = Ref{gvk.Group, gvk.Version, e.Key.Resource, gvk.Kind, u.GetNamespace(), u.GetName()}
	out.kind.never = out.kind.never || mirrored || p.sole && out.ref.Namespace == "" && out.kind.phase != phaseNamespaces
	out.obj = u.Object
	mendCommon(out.obj, f)
	switch out.ref.Kind {
	case "Secret":
		// stringData is write-only, a captured Secret has none; a patch could have added it.
		err = foldStrings(out.obj)
	case "PersistentVolumeClaim":
		err = mendClaim(out.obj, bound, p.volumes)
	}
	if err != nil {
		return nil, err
	}
	return out, p.finish(e, out, f)
}

// finish gives an object its form and what Farshore says on it.
func (p *preparer) finish(e Entry, out *prepared, f form) error {
	if f == formPlain {
		if out.ended && out.kind.hold != nil {
			out.kind.hold(out.obj)
		}
		return nil
	}
	if out.kind.hold != nil && (f == formHeld || out.ended) {
		out.held = out.kind.hold(out.obj)
	}
	u := &unstructured.Unstructured{Object: out.obj}
	labels, annotations := u.GetLabels(), u.GetAnnotations()
	if labels == nil {
		labels = make(map[string]string)
	}
	if annotations == nil {
		annotations = make(map[string]string)
	}
	labels[LabelGroup] = p.group
	annotations[AnnotationSource] = e.UID
	if f == formReleased {
		annotations[AnnotationReleased] = "true"
	} else if len(out.held) > 0 {
		held, err := json.Marshal(out.held)
		if err != nil {
			return fmt.Errorf("note what is held: %w", err)
		}
		annotations[AnnotationHeld] = string(held)
	}
	u.SetLabels(labels)
	u.SetAnnotations(annotations)
	body, err := json.Marshal(out.obj)
	if err != nil {
		return fmt.Errorf("encode object: %w", err)
	}
	sum := sha256.Sum256(body)
	out.hash = base64.RawURLEncoding.EncodeToString(sum[:18])
	annotations[AnnotationHash] = out.hash
	u.SetAnnotations(annotations)
	return nil
}

// open returns the JSON of an object.
func (p *preparer) open(raw []byte) ([]byte, error) {
	if !bytes.HasPrefix(raw, sealed) {
		return raw, nil
	}
	if len(p.rules.Identities) == 0 {
		return nil, errSealed
	}
	r, err := age.Decrypt(bytes.NewReader(raw), p.rules.Identities...)
	if err != nil {
		return nil, errSealed
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("decrypt: %w", err)
	}
	return plain, nil
}

// foldStrings moves what stringData has to data, as the API server would, so that it can be compared.
func foldStrings(obj map[string]any) error {
	text, found, err := unstructured.NestedStringMap(obj, "stringData")
	if err != nil {
		return errors.New("stringData of the Secret is no map of strings")
	}
	if !found {
		return nil
	}
	delete(obj, "stringData")
	for k, v := range text {
		if err := unstructured.SetNestedField(obj, base64.StdEncoding.EncodeToString([]byte(v)), "data", k); err != nil {
			return errors.New("data of the Secret is no map")
		}
	}
	return nil
}

// refOf names an object that can't be prepared as the primary does.
func refOf(k events.ObjectKey) Ref {
	return Ref{Group: k.Group, Version: k.Version, Resource: k.Resource, Namespace: k.Namespace, Name: k.Name}
}

// namespaceEntry and its JSON are for a namespace that objects are in and that no object of the state makes.
func namespaceEntry(name string) (Entry, []byte) {
	raw, _ := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name}}) // strings always encode
	return Entry{Key: events.ObjectKey{Version: "v1", Resource: "namespaces", Name: name}}, raw
}
