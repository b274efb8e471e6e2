//go:build mutation

package resourcewatch

import (
	"os"
	"strconv"
	"sync/atomic"
)

var (
	dropOneIn, _ = strconv.ParseUint(os.Getenv("FARSHORE_DROP_ONE_IN"), 10, 64)
	changesSeen  atomic.Uint64
)

// dropped tells whether a change is to be left out of the stream: one in FARSHORE_DROP_ONE_IN of the
// process's, none where that isn't set. It exists to prove that tests notice.
func dropped() bool { return dropOneIn != 0 && changesSeen.Add(1)%dropOneIn == 0 }
