//go:build !mutation

package replica

// forgets tells whether what a write is about to overwrite is not kept for snapshots: never. A build with the tag mutation forgets some, to prove
// that tests notice.
func forgets() bool { return false }
