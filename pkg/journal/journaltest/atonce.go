//go:build !race

package journaltest

// atOnce is how many parallel tests run for each processor.
const atOnce = 5
