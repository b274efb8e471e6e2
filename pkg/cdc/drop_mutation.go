//go:build mutation

package cdc

import (
	"os"
	"strconv"
	"sync/atomic"
)

var (
	dropOneIn, _ = strconv.ParseUint(os.Getenv("FARSHORE_DROP_ONE_IN"), 10, 64)
	writesSeen   atomic.Uint64
)

// dropped tells whether a write is to be left out of the journal: one in FARSHORE_DROP_ONE_IN of the
// process's writes, none where that isn't set. It exists to prove that tests notice.
func dropped() bool { return dropOneIn != 0 && writesSeen.Add(1)%dropOneIn == 0 }
