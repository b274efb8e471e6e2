package rebuild

// Manifest is one object as a file.
type Manifest struct {
	Object Ref
	Phase  string // of the order, see Phases
	// Content is YAML, or, where Encrypted, an age file of the Secret as the primary had it, before any mapping.
	Content   []byte
	Encrypted bool
}

// Broken is an object that no manifest can be made of.
type Broken struct {
	Object Ref
	Reason string
}

// Manifests returns every object of state as it would be applied after a release, mapped by rules, in the
// order in which it can be applied. A Secret that none of the identities opens is returned Encrypted.
func Manifests(o Rules, state State) ([]Manifest, []Broken, error) {
	return nil, nil, nil
}
