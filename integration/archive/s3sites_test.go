package archive

import (
	"fmt"
	"testing"
	"time"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/internal/s3rig"
)

// Both sites run with an archive in an object store that is killed and started again under load, while points are archived every second and labels
// are made. The programs wait; in the end the bucket is all that is left, and every point in it holds every byte that was written up to it.
func TestSitesWhoseObjectStoreIsKilled(t *testing.T) {
	for _, name := range s3rig.Stores() {
		t.Run(name, func(t *testing.T) {
			const kills = 6
			random := harness.Seeded(t)
			server := s3rig.Start(t, name)
			o := server.Bucket("farshore")
			where := fmt.Sprintf("{every: 1s, s3: {endpoint: %q, bucket: %q, prefix: DR/one, insecure: true, credentials: %q}}", o.Endpoint, o.Bucket, o.Credentials)
			p, load := begun(t, harness.Options{Archive: where}, random)
			var labels []uint64
			for i := range kills {
				<-time.After(upTo(random, 2*time.Second)) // a random moment
				server.Kill()
				if i%2 == 0 {
					labels = append(labels, p.Mark(fmt.Sprintf("away-%d", i), limit))
				}
				<-time.After(upTo(random, time.Second)) // how long it is away is the fault itself
				server.Restart()
				labels = append(labels, p.Mark(fmt.Sprintf("back-%d", i), limit))
			}
			p.WaitArchived(limit, labels...)
			harness.Eventually(t, limit, "points are archived by the clock as well", func() error {
				points, err := p.Archived()
				if n := len(points) - labelled(points); err == nil && n < 3 {
					err = fmt.Errorf("%d are", n)
				}
				return err
			})
			load.Stop()
			points, truth := truth(t, p)
			t.Logf("%d points archived, %d of them labelled", len(points), labelled(points))
			for _, x := range p.All() {
				if x.Running() {
					x.Kill()
				}
			}
			p.LoseDR()
			restorable(t, p, points, truth)
		})
	}
}
