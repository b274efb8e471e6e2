package selection

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"filippo.io/age"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Recipients reads age recipients, as the group's document lists them ("age1…"): as many as the list has.
func Recipients(list []string) ([]age.Recipient, error) {
	var out []age.Recipient
	for i, one := range list {
		r, err := age.ParseRecipients(strings.NewReader(one))
		if err != nil || len(r) != 1 {
			// It isn't shown: it may be an identity, given by mistake.
			return nil, fmt.Errorf("read recipient %d of %d: it is not one age recipient, as \"age1…\"", i+1, len(list))
		}
		out = append(out, r[0])
	}
	return out, nil
}

// Raw returns an object as JSON without its managedFields, the same bytes for the same content. obj itself
// stays as it is. What it returns of a Secret is plain: it must not leave the process, see Seal.
func Raw(obj *unstructured.Unstructured) ([]byte, error) {
	content := obj.Object
	if meta, ok := content["metadata"].(map[string]any); ok && meta["managedFields"] != nil {
		content = shallow(content)
		meta = shallow(meta)
		delete(meta, "managedFields")
		content["metadata"] = meta
	}
	raw, err := json.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("encode object: %w", err) // names no value: json's errors name types only
	}
	return raw, nil
}

func shallow(m map[string]any) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

// Seal returns what may leave the process of an object that Raw returned: a Secret encrypted for the
// recipients, as a binary age file, where there are any; everything else as it is.
func Seal(k Kind, raw []byte, recipients []age.Recipient) ([]byte, error) {
	if len(recipients) == 0 || !secret(k) {
		return raw, nil
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, recipients...)
	if err == nil {
		if _, err = w.Write(raw); err == nil {
			err = w.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("encrypt secret: %w", err)
	}
	return out.Bytes(), nil
}

// secret tells whether objects of a kind must not be readable on the way.
func secret(k Kind) bool { return k.Group == "" && k.Resource == "secrets" }

// Encode is Raw and then Seal.
func Encode(k Kind, obj *unstructured.Unstructured, recipients []age.Recipient) ([]byte, error) {
	raw, err := Raw(obj)
	if err != nil {
		return nil, err
	}
	return Seal(k, raw, recipients)
}

// Split cuts raw into parts of at most limit bytes, at least one part. The parts share raw's memory.
func Split(raw []byte, limit int) [][]byte {
	parts := make([][]byte, 0, len(raw)/limit+1)
	for len(raw) > limit {
		parts = append(parts, raw[:limit:limit])
		raw = raw[limit:]
	}
	return append(parts, raw)
}
