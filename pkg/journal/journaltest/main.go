package journaltest

import (
	"flag"
	"runtime"
	"strconv"
	"testing"
)

// atOnce is how many parallel tests run for each processor: with brokers they mostly wait, for leaders, for links that come
// back, for readers that find out.
const atOnce = 5

// Main runs a package's tests, for TestMain: as many at once as brokers allow, unless -parallel says how many.
func Main(m *testing.M) int {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", strconv.Itoa(atOnce*runtime.GOMAXPROCS(0))); err != nil {
			panic(err) // there is no such flag any more
		}
	}
	return m.Run()
}
