package archive

import (
	"bytes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"filippo.io/age"
	"golang.org/x/crypto/chacha20poly1305"
)

// keyLength is how many random bytes an archive's key has: the first half makes names, the second one seals.
const keyLength = 64

// keys are what an archive names chunks with, and seals what it stores with. In an archive that isn't encrypted, names are
// plain SHA-256 and sealing does nothing. Methods may be called concurrently.
type keys struct {
	aead cipher.AEAD // nil: not encrypted
	macs sync.Pool   // of hash.Hash
}

// newKeys makes keys of keyLength bytes; none: for an archive that isn't encrypted.
func newKeys(secret []byte) (*keys, error) {
	k := new(keys)
	if secret == nil {
		k.macs.New = func() any { return sha256.New() }
		return k, nil
	}
	if len(secret) != keyLength {
		return nil, fmt.Errorf("the key has %d bytes, want %d", len(secret), keyLength)
	}
	name := bytes.Clone(secret[:keyLength/2])
	k.macs.New = func() any { return hmac.New(sha256.New, name) }
	var err error
	k.aead, err = chacha20poly1305.NewX(secret[keyLength/2:])
	return k, err
}

// id names a chunk.
func (k *keys) id(chunk []byte) (id ID) {
	h := k.macs.Get().(hash.Hash)
	h.Reset()
	_, _ = h.Write(chunk) // never fails, as hash.Hash says
	h.Sum(id[:0])
	k.macs.Put(h)
	return id
}

// overhead is how many bytes longer something is when it is sealed.
func (k *keys) overhead() int {
	if k.aead == nil {
		return 0
	}
	return k.aead.NonceSize() + k.aead.Overhead()
}

// seal appends plain, sealed, to dst, which must not overlap it. What it is bound to is needed to open it.
func (k *keys) seal(dst, plain, bound []byte) []byte {
	if k.aead == nil {
		return append(dst, plain...)
	}
	n := len(dst)
	dst = append(dst, make([]byte, k.aead.NonceSize())...)
	nonce := dst[n:]
	_, _ = rand.Read(nonce) // never fails, as crypto/rand says
	return k.aead.Seal(dst, nonce, plain, bound)
}

var errSeal = errors.New("it is not what was sealed with this archive's key")

// open returns what was sealed, appended to dst, which must not overlap it; in an archive that isn't encrypted, sealed itself.
func (k *keys) open(dst, sealed, bound []byte) ([]byte, error) {
	if k.aead == nil {
		return sealed, nil
	}
	n := k.aead.NonceSize()
	if len(sealed) < k.overhead() {
		return nil, errSeal
	}
	plain, err := k.aead.Open(dst, sealed[:n], sealed[n:], bound)
	if err != nil {
		return nil, errSeal
	}
	return plain, nil
}

// wrapKey encrypts a key for recipients, as an age file.
func wrapKey(secret []byte, recipients []age.Recipient) ([]byte, error) {
	var out bytes.Buffer
	w, err := age.Encrypt(&out, recipients...)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(secret); err != nil {
		return nil, err
	}
	err = w.Close()
	return out.Bytes(), err
}

// unwrapKey opens an age file. The error is ErrKey where no identity fits, else the file is damaged.
func unwrapKey(file []byte, identities []age.Identity) ([]byte, error) {
	if len(identities) == 0 {
		return nil, ErrKey
	}
	r, err := age.Decrypt(bytes.NewReader(file), identities...)
	if none := new(age.NoIdentityMatchError); errors.As(err, &none) {
		return nil, ErrKey
	}
	if err != nil {
		return nil, err
	}
	secret, err := io.ReadAll(io.LimitReader(r, keyLength+1))
	if err == nil && len(secret) != keyLength {
		err = fmt.Errorf("the key has %d bytes, want %d", len(secret), keyLength)
	}
	return secret, err
}
