// Package archiver archives commits of a group at the DR site while replication goes on, and removes archived points that are no longer
// to be kept.
//
// A commit that the replicas are at is read from a snapshot of them; one that they have passed is built from an archived point
// and the journal behind it. Either way a point is listed once all of it is stored, holds what the group held at the commit and nothing else, and nothing
// waits for the store: where that is slow or away, fewer commits are archived, and the status says so. There is no state beside the
// archive: what is to be archived follows from what it has, from the journal and from the document, so a crash anywhere costs only
// the run that it broke off.
package archiver
