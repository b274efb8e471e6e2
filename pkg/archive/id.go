package archive

import (
	"encoding/hex"
	"fmt"
)

// ID names a chunk by its content: its SHA-256, or, in an encrypted archive, a keyed hash. The zero ID names a chunk
// of zeros, or a tree of them; it is stored nowhere.
type ID [32]byte

// IsZero tells whether the ID names zeros.
func (id ID) IsZero() bool { return id == ID{} }

// String returns the ID in hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText implements encoding.TextMarshaler. The zero ID is the empty text.
func (id ID) MarshalText() ([]byte, error) {
	if id.IsZero() {
		return nil, nil
	}
	return []byte(id.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*id = ID{}
		return nil
	}
	if len(text) != hex.EncodedLen(len(id)) {
		return fmt.Errorf("the name of a chunk has %d digits, want %d", len(text), hex.EncodedLen(len(id)))
	}
	_, err := hex.Decode(id[:], text)
	return err
}
