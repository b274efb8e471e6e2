package selection

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"filippo.io/age"
)

const secretManifest = `{apiVersion: v1, kind: Secret, metadata: {name: key, namespace: bank, managedFields: [{manager: m}],
 annotations: {kubectl.kubernetes.io/last-applied-configuration: "{\"stringData\":{\"password\":\"correct-horse\"}}"}},
 data: {password: Y29ycmVjdC1ob3JzZQ==}, stringData: {password: correct-horse}}`

// TestSecretsLeaveEncrypted: no plaintext of a Secret is in what Encode returns for recipients, and each of them can
// read it.
func TestSecretsLeaveEncrypted(t *testing.T) {
	var identities []age.Identity
	var names []string
	for range 2 {
		i, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		identities, names = append(identities, i), append(names, i.Recipient().String())
	}
	recipients, err := Recipients(names)
	if err != nil {
		t.Fatal(err)
	}
	obj := parse(t, secretManifest)[0]
	sealed, err := Encode(kindFor(obj), obj, recipients)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(sealed, []byte("age-encryption.org/")) {
		t.Errorf("it begins with %q", sealed[:20])
	}
	for _, plain := range []string{"correct-horse", "Y29ycmVjdC1ob3JzZQ", "password", "bank"} {
		if bytes.Contains(sealed, []byte(plain)) {
			t.Errorf("%q can be read", plain)
		}
	}
	for _, i := range identities {
		r, err := age.Decrypt(bytes.NewReader(sealed), i)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(r)
		if err != nil || !strings.Contains(string(raw), "correct-horse") || strings.Contains(string(raw), "managedFields") {
			t.Errorf("decrypted: %s, %v", raw, err)
		}
	}
	config := parse(t, `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: bank}, data: {a: b}}`)[0]
	if raw, err := Encode(kindFor(config), config, recipients); err != nil || !json.Valid(raw) {
		t.Errorf("a ConfigMap is %q, %v", raw, err)
	}
	if raw, err := Encode(kindFor(obj), obj, nil); err != nil || !strings.Contains(string(raw), "correct-horse") {
		t.Errorf("without recipients it is %q, %v", raw, err)
	}
}

// TestRawLeavesTheObjectAlone: informers share it.
func TestRawLeavesTheObjectAlone(t *testing.T) {
	obj := parse(t, secretManifest)[0]
	raw, err := Raw(obj)
	if err != nil || bytes.Contains(raw, []byte("managedFields")) {
		t.Errorf("raw is %s, %v", raw, err)
	}
	if len(obj.GetManagedFields()) != 1 {
		t.Error("the object has lost its managedFields")
	}
}

// TestOddRecipientsAreRefused: an entry that yields no recipient must not leave Secrets readable.
func TestOddRecipientsAreRefused(t *testing.T) {
	good, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	r := good.Recipient().String()
	for _, odd := range []string{"", "# " + r, r + "\n" + r, "age1x", good.String()} {
		got, err := Recipients([]string{odd})
		if err == nil || got != nil {
			t.Errorf("%q is taken for %d recipients", odd, len(got))
		}
		if err != nil && strings.Contains(err.Error(), "AGE-SECRET-KEY") {
			t.Error("an identity given by mistake is shown")
		}
	}
}

func TestSplitCoversEverything(t *testing.T) {
	for _, n := range []int{0, 1, 9, 10, 11, 20, 21} {
		raw := bytes.Repeat([]byte("x"), n)
		parts := Split(raw, 10)
		if !bytes.Equal(bytes.Join(parts, nil), raw) || len(parts) != max(1, (n+9)/10) {
			t.Errorf("%d bytes: %d parts", n, len(parts))
		}
		for _, p := range parts {
			if len(p) > 10 {
				t.Errorf("%d bytes: a part of %d", n, len(p))
			}
		}
	}
}
