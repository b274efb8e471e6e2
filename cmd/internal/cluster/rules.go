package cluster

import (
	"errors"
	"fmt"
	"os"

	"filippo.io/age"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/rebuild"
	"github.com/farshore/farshore/pkg/transform"
)

// Rules are what a valid document says about objects at the DR site. Where an identity can't be read they come without it,
// together with an error.
func Rules(o group.RecoveryObjects) (rebuild.Rules, error) {
	rules := rebuild.Rules{}
	t, problems := transform.Compile(o.Rules)
	if len(problems) > 0 { // validation refused them
		return rules, fmt.Errorf("spec.recovery.objects.%s: %s", problems[0].Path, problems[0].Message)
	}
	rules.Transform = t
	for _, kind := range o.Inert {
		rules.Inert = append(rules.Inert, schema.GroupResource{Group: kind.Group, Resource: kind.Resource})
	}
	var err error
	rules.Identities, err = Identities(o.Identities)
	return rules, err
}

// Identities reads files of age identities. It returns those that it could read, and what kept it from the others.
func Identities(files []string) (all []age.Identity, err error) {
	var problems []error
	for _, name := range files {
		identities, err := identitiesOf(name)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		all = append(all, identities...)
	}
	return all, errors.Join(problems...)
}

func identitiesOf(name string) ([]age.Identity, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read age identity: %w", err)
	}
	defer f.Close()
	identities, err := age.ParseIdentities(f)
	if err != nil {
		return nil, fmt.Errorf("read age identity: %s: it holds none (age-keygen makes one)", name) // the cause could quote the key
	}
	return identities, nil
}
