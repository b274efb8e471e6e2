package transform

// Rules are what a document says about the way from the primary to the DR site: spec.recovery.objects without what is
// about the rebuilding itself. docs/configuration.md tells where each of them applies.
type Rules struct {
	// Namespaces maps names of namespaces, and with them every reference to one in the kinds of Kubernetes and the Gateway API.
	Namespaces map[string]string `json:"namespaces,omitempty"`
	// StorageClasses maps names of storage classes in claims, volumes, templates of claims and quotas.
	StorageClasses map[string]string `json:"storageClasses,omitempty"`
	// IngressClasses maps names of ingress classes in Ingresses.
	IngressClasses map[string]string `json:"ingressClasses,omitempty"`
	// Registries maps registries, or registries with the beginning of a path, in the images of every Pod and Pod template.
	Registries map[string]string `json:"registries,omitempty"`
	// Hosts maps what Ingresses, Gateways and their routes are reached as; "*.a.example" stands for every name below a.example.
	Hosts map[string]string `json:"hosts,omitempty"`
	// Names maps DNS names wherever they stand as a whole in ExternalName Services, webhooks' URLs, ConfigMaps, Secrets, and the
	// environment, commands and arguments of containers. "*.a.example" stands for every name below a.example.
	Names map[string]string `json:"names,omitempty"`
	// Patches are for everything else. They are applied in order, behind everything above.
	Patches []Patch `json:"patches,omitempty"`
}

// Patch changes the objects that Target and When choose.
type Patch struct {
	Target Target      `json:"target"`
	When   string      `json:"when,omitempty"` // CEL over object; empty: always
	Patch  []Operation `json:"patch"`          // JSON patch, RFC 6902; at least one
}

// Target chooses objects as they are at the primary. "*" stands for every group, kind, namespace or name.
type Target struct {
	Group     string `json:"group,omitempty"`     // API group; empty: the core's
	Kind      string `json:"kind"`                // as manifests write it: Deployment
	Namespace string `json:"namespace,omitempty"` // at the primary; empty: every one, and none
	Name      string `json:"name,omitempty"`      // empty: every one
}

// Operation is one of a JSON patch. null can't be given as a value.
type Operation struct {
	Op    string `json:"op"`              // add, remove, replace, move, copy or test
	Path  string `json:"path"`            // JSON pointer
	From  string `json:"from,omitempty"`  // JSON pointer, of move and copy
	Value any    `json:"value,omitempty"` // JSON, of add, replace and test
}

// Problem is one thing that is wrong with rules.
type Problem struct {
	Path    string // of the field, relative to the rules, as in "patches[0].when"
	Message string // for people
}
