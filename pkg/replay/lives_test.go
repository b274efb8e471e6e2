package replay_test

import (
	"errors"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/replay"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

// [I] What was archived in an earlier life of a group is restored by itself, and is never gone on from by the journal of a later one, though that has
// the same names, sequences, epochs and barriers, and its beginning was trimmed.
func TestLivesAreToldApart(t *testing.T) {
	t.Parallel()
	earlier := rig(t)
	stop := earlier.Follow(nil)
	archived := earlier.Fill(5, 2, "a", "b")
	earlier.AppliedTo(archived)
	stop()
	vault := newVault(t, "g")
	vault.keep(t, earlier.Dir())

	later := rig(t)
	now := archived.Time.Add(time.Hour)
	later.Clock = func() time.Time {
		now = now.Add(time.Second)
		return now
	}
	for range 6 {
		later.PassBarrier()
	}
	stop = later.Follow(nil)
	later.Fill(4, 8, "a", "b")
	last := later.Fill(4, 8, "a", "b")
	later.AppliedTo(last)
	mirrored(later, "a", "b")
	stop()
	for _, v := range []string{"a", "b"} {
		later.DeleteFromMirror(v, 1)
	}
	for i, position := range last.Vector {
		if position.Position.Seq < archived.Vector[i].Position.Seq {
			t.Fatalf("the later life is at %v, the earlier one was at %v", last.Vector, archived.Vector)
		}
	}
	try := func(target string) (*replay.Result, error) {
		dir := t.TempDir()
		return replay.Run(t.Context(), replay.Options{
			Site: later.Pair.DR, Archive: vault.Archive, Group: "g", Dir: filepath.Join(dir, "none"), Target: target, Into: filepath.Join(dir, "into"),
		})
	}
	var trimmed *replay.TrimmedError
	result, err := try(strconv.FormatUint(last.Token.Barrier, 10))
	if !errors.As(err, &trimmed) || !strings.Contains(err.Error(), "nothing before") {
		t.Errorf("the later life's newest point: %+v, %v", result, err)
	}
	for _, target := range []string{replay.Latest, strconv.FormatUint(archived.Token.Barrier, 10)} {
		result, err := try(target)
		must(t, err)
		paths := make(map[string]string)
		for _, v := range result.Volumes {
			paths[v.Name] = v.Path
		}
		if result.Point.Barrier != archived.Token.Barrier || result.From != replay.Archived {
			t.Fatalf("to %s: %+v", target, result)
		}
		replicatest.SameFiles(t, earlier.State(archived.Token.Barrier), func(v string) string { return paths[v] })
	}
}
