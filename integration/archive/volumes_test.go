package archive

import (
	"fmt"
	"testing"

	"github.com/farshore/farshore/integration/harness"
)

// The archive is added to the document of a group that runs. Then a volume grows and another one joins, both are written to, and every label
// between restores to what the volumes were at its time.
func TestVolumesGrowAndJoin(t *testing.T) {
	t.Parallel()
	random := harness.Seeded(t)
	p, load := begun(t, harness.Options{}, random)
	p.SetArchive("{every: 2s}")
	var labels []uint64
	mark := func(name string) {
		load.Progress(t, 100)
		labels = append(labels, p.Recovered(name, limit))
	}
	write := func(volume int, size int64) {
		harness.Eventually(t, limit, fmt.Sprintf("%s has its size and takes writes", harness.Volume(volume)), func() error {
			client, err := p.Dial(t.Context(), volume)
			if err != nil {
				return err
			}
			defer func() { _ = client.Disconnect() }()
			if client.Size() != size {
				return fmt.Errorf("its size is %d", client.Size())
			}
			content := make([]byte, 300<<10)
			for i := range content {
				content[i] = byte(random.Uint32())
			}
			return client.Write(t.Context(), content, size-int64(len(content)))
		})
	}
	mark("small")
	const grown, odd = 40 << 20, 5<<20 + 4096 // no multiple of a chunk
	p.Resize(0, grown)
	write(0, grown)
	mark("grown")
	joined := p.Join(odd)
	write(joined, odd)
	mark("joined")
	write(joined, odd)
	p.WaitArchived(limit, labels...)
	harness.Restart(p.Applier)
	mark("again")
	load.Stop()
	p.WaitArchived(limit, labels...)
	points, truth := truth(t, p)
	p.LoseDR()
	restorable(t, p, points, truth)
}
