package store

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// newKeys returns the credentials in a file, or those that the surroundings have. None are an error, not an anonymous request: that a
// bucket is open to everybody is nothing to rely on.
func newKeys(file string) *credentials.Credentials {
	if file != "" {
		return credentials.New(&keys{
			providers: []credentials.Provider{&credentials.FileAWSCredentials{Filename: file}},
			hint:      fmt.Sprintf("put aws_access_key_id and aws_secret_access_key into %s, below [default]", file),
		})
	}
	providers := []credentials.Provider{&credentials.EnvAWS{}}
	if os.Getenv("AWS_EC2_METADATA_DISABLED") != "true" {
		// Where there is no role nobody may answer: it is asked with a limit.
		providers = append(providers, &credentials.IAM{Client: &http.Client{Timeout: 10 * time.Second}})
	}
	return credentials.New(&keys{
		providers: providers,
		hint:      "name a file with them as credentials, set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role",
	})
}

// keys is a provider that has the keys of the first one that has any.
type keys struct {
	providers []credentials.Provider
	hint      string // what to do where none has
	from      credentials.Provider
	static    bool // those of from don't run out
}

// RetrieveWithCredContext implements credentials.Provider.
func (k *keys) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	var problems []error
	for _, p := range k.providers {
		v, err := p.RetrieveWithCredContext(cc)
		if err == nil && v.AccessKeyID != "" && v.SecretAccessKey != "" {
			k.from, k.static = p, v.Expiration.IsZero()
			return v, nil
		}
		problems = append(problems, err)
	}
	if err := errors.Join(problems...); err != nil {
		return credentials.Value{}, fmt.Errorf("%w: there are no credentials: %s: %w", ErrDenied, k.hint, err)
	}
	return credentials.Value{}, fmt.Errorf("%w: there are no credentials: %s", ErrDenied, k.hint)
}

// Retrieve implements credentials.Provider.
func (k *keys) Retrieve() (credentials.Value, error) { return k.RetrieveWithCredContext(nil) }

// IsExpired implements credentials.Provider. A file is not read again for each request, as its own provider would have it: it may be
// in the middle of being written.
func (k *keys) IsExpired() bool { return k.from == nil || !k.static && k.from.IsExpired() }
