package group

// EnvironVariables lists the variables that Load lets override a field, by the field's path. They
// exist because the processes of a group share a document but not their keys.
func EnvironVariables() map[string]string {
	out := make(map[string]string)
	for _, f := range new(Group).overrides() {
		out[f.variable] = f.path
	}
	return out
}

type override struct {
	variable, path string
	field          *string
}

func (g *Group) overrides() []override {
	var out []override
	site := func(variable, path string, s *Site) {
		out = append(out,
			override{variable + "_URL", path + ".url", &s.URL},
			override{variable + "_NKEY_SEED", path + ".credentials.nkeySeed", &s.Credentials.NKeySeed},
			override{variable + "_CA", path + ".credentials.ca", &s.Credentials.CA},
			override{variable + "_CERT", path + ".credentials.cert", &s.Credentials.Cert},
			override{variable + "_KEY", path + ".credentials.key", &s.Credentials.Key},
		)
	}
	site("FARSHORE_PRIMARY", "spec.sites.primary", &g.Spec.Sites.Primary)
	site("FARSHORE_DR", "spec.sites.dr", &g.Spec.Sites.DR)
	return out
}

func (g *Group) environ(getenv func(string) string) {
	for _, f := range g.overrides() {
		if v := getenv(f.variable); v != "" {
			*f.field = v
		}
	}
}
