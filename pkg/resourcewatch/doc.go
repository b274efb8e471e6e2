// Package resourcewatch turns the Kubernetes objects of a protection group into events.
//
// A Watcher follows every kind that its selection is interested in, for as long as Run runs, and keeps what the API
// server holds of it. Record is one tenure of the objects stream: it appends what the reader of the stream lacks, judged by
// what is remembered of earlier tenures, and then every change. What it appends of one kind has the order of the API
// server's changes; an object that is unchanged since it was last sent is never sent again. A change is remembered as
// sent only once its event is stored, so a crash may repeat an event and never loses one.
//
// The watcher takes part in barriers through Hold, Revision, Mark, Release and Ready, which the tap of
// pkg/barrier wants. It knows nothing of NATS: cmd/capturer hands it the stream and the memory.
package resourcewatch
