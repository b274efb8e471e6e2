//go:build mutation

package replica

import (
	"os"
	"strconv"
	"sync/atomic"
)

var (
	forgetOneIn, _ = strconv.ParseUint(os.Getenv("FARSHORE_DROP_ONE_IN"), 10, 64)
	writesSeen     atomic.Uint64
)

// forgets tells whether what a write is about to overwrite is not kept for snapshots: one in FARSHORE_DROP_ONE_IN of the process's writes, none
// where that isn't set. It exists to prove that tests notice.
func forgets() bool { return forgetOneIn != 0 && writesSeen.Add(1)%forgetOneIn == 0 }
