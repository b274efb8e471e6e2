// Package store keeps objects: named pieces of bytes that are written whole. A directory and S3 are stores; an implementation is correct if it
// passes storetest.Run.
//
// # What an archive relies on
//
// Runs and prunes of different machines meet in the store alone, without locks of its own and without conditional writes. They are safe beside each
// other because each first writes what the other looks for, and then looks: a run puts its marker and lists what is condemned, a prune puts what it
// condemns and lists the markers. Whichever of the two lists later sees what the other one put, as long as
//
//   - a put that has returned is seen by every get and every list that begins later, from any machine, and so is a delete;
//   - a listing has every object that was there from its beginning to its end, however many answers it takes;
//   - the times of objects are of one clock, as far as minutes matter: markers and locks run out by them;
//   - what was deleted stays deleted.
//
// S3 has promised the first two since December 2020; MinIO and versitygw do it too. A bucket that is replicated to another site behind their backs keeps
// it at each site by itself: whoever writes and whoever prunes an archive must use the same endpoint. A directory keeps it on local file systems. Over
// NFS a client may list what it has in its cache, so whoever prunes there must be on the machine that writes, or both mount it with
// lookupcache=none and noac. Reading needs less: an object that isn't seen yet is a point that isn't listed yet.
//
// The last one has a gap that no store closes: an attempt to put that was given up may still take effect, once, for as long as the network or a proxy
// keeps it. An archive is built so that this does no harm: packs have one content for ever, a marker or a lock that comes back runs out, and a
// manifest that comes back after its point was removed is named as damaged by a check instead of restoring to anything wrong.
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
