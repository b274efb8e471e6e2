package journaltest

import (
	"flag"
	"runtime"
	"strconv"
	"testing"
)

// Main runs a package's tests, for TestMain: several at once for each processor, unless -parallel says how many. With brokers
// tests mostly wait: for leaders, for links that come back, for readers that find out.
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
