// Package objects is the durable copy of a group's Kubernetes objects at the recovery site.
//
// A Store holds the objects at one commit: an append-only log of the very events that the journal had, and in memory where
// in it each object is. What is beyond the length that the store was opened with counts for nothing, so what is appended
// becomes part of the store only when somebody names the new length durably: the checkpoint of a set of replicas
// does, together with the volumes'. A crash leaves the old length or the new one, and with it the old objects or the new
// ones. A log that holds mostly what is no longer wanted is written anew into another file, which the next checkpoint
// names; until then the old one stays.
//
// A View is the objects at one commit. Readers of it and the store don't disturb each other.
package objects

import "errors"

// ErrDamaged says that a log is not what was written.
var ErrDamaged = errors.New("the log of the objects is damaged")
