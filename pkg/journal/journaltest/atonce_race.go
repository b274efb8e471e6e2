//go:build race

package journaltest

// atOnce is how many parallel tests run for each processor, which has much to do for each with the race detector.
const atOnce = 2
