//go:build !mutation

package cdc

// dropped tells whether a write is to be left out of the journal: never. A build with the tag
// mutation leaves some out, to prove that tests notice.
func dropped() bool { return false }
