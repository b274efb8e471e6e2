package group

import "testing"

// FuzzParse: whatever the document, Parse ends with a group that passes its own checks or with problems.
func FuzzParse(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte(onlyObjects))
	f.Add([]byte("spec: {volumes: [1, {name: [}], journal: null}"))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("{1: {true: 0x10, ~: 1e400}}"))
	f.Fuzz(func(t *testing.T, doc []byte) {
		g, err := Parse(doc)
		if (g == nil) == (err == nil) {
			t.Fatalf("got %v and %v", g, err)
		}
	})
}
