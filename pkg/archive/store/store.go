// Package store keeps objects: named pieces of bytes that are written once, whole, and never changed. A directory and S3 are
// stores; an implementation is correct if it passes storetest.Run.
package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"
)

// Store keeps objects by name: see ValidName. Methods may be called concurrently, by several processes.
type Store interface {
	// Put stores data under name, replacing what was there. Once it returned nil the object is durable and every later call
	// sees it; after an error there is the old one, the new one, or none, but never a part of one.
	Put(ctx context.Context, name string, data []byte) error
	// Get returns exactly length bytes of an object from off; a negative length means all that follow. An object that has fewer
	// gives ErrShort, one that isn't there ErrNotFound.
	Get(ctx context.Context, name string, off, length int64) ([]byte, error)
	// List gives the objects whose names begin with prefix, in the order of their names. What is put or deleted meanwhile may be
	// among them or not. The first error ends it.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
	// Delete removes an object, durably and for every later call. One that isn't there is no error.
	Delete(ctx context.Context, name string) error
	// String says where the store is, for people; it has no secrets in it.
	String() string
}

// Info is what a listing tells of an object.
type Info struct {
	Name     string
	Size     int64     // bytes
	Modified time.Time // when it was put, by the store's clock
}

// What can be wrong with a store, beside being out of reach. Errors of stores wrap these and say what to do.
var (
	ErrNotFound  = errors.New("no such object")
	ErrShort     = errors.New("the object is shorter than it should be")
	ErrDenied    = errors.New("access denied")
	ErrNoBucket  = errors.New("no such bucket")
	ErrClockSkew = errors.New("this machine's clock and the store's are too far apart")
)

// ValidName checks the name of an object: parts with '/' between them, each of lower-case letters, digits, '-', '_' and '.', of which the
// last doesn't begin one, so that names are the same thing to every store. No object's name is also a directory of another's.
func ValidName(name string) error {
	for part := range strings.SplitSeq(name, "/") {
		if !validPart(part) {
			return lasting{fmt.Errorf("%q can't name an object: parts are lower-case letters, digits, '-', '_', and '.' behind one of them", name)}
		}
	}
	return nil
}

func validPart(part string) bool {
	for _, c := range []byte(part) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return part != "" && part[0] != '.'
}
