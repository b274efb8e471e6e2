//go:build mutation

package archiver

import (
	"os"
	"strconv"
	"sync/atomic"

	"github.com/farshore/farshore/internal/grid"
)

var (
	forgetOneIn, _ = strconv.ParseUint(os.Getenv("FARSHORE_DROP_ONE_IN"), 10, 64)
	chunksSeen     atomic.Uint64
)

// forget leaves one in FARSHORE_DROP_ONE_IN of the process's changed chunks out, none where that isn't set. It exists to prove
// that tests notice.
func forget(changed *grid.Set) {
	for c := range changed.Clone().All() {
		if forgetOneIn != 0 && chunksSeen.Add(1)%forgetOneIn == 0 {
			changed.Remove(c)
		}
	}
}
