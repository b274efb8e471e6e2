//go:build !mutation

package resourcewatch

// dropped tells whether a change is to be left out of the stream: never. A build with the tag
// mutation leaves some out, to prove that tests notice.
func dropped() bool { return false }
