package replica

import (
	"fmt"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/farshore/farshore/pkg/journal"
)

// Plant makes a set at dir of parts that are in place, durably: volumes where VolumePath has them, or on the block devices that cp
// names, and the objects' log where LogPath has it. cp is what they hold, whole or not. Each volume gets its identity; the
// checkpoint comes last, and gets a new UUID: it is returned as it was written. Volumes of cp that hold nothing yet begin blank.
// A crash leaves the old checkpoint, where there was one, or the new one.
func Plant(dir string, cp Checkpoint) (Checkpoint, error) {
	cp = cp.Clone()
	cp.Replica = uuid.NewString()
	if cp.Volumes == nil {
		cp.Volumes = make(map[string]Volume)
	}
	if err := (OS{}).MkdirAll(filepath.Join(dir, volumesDir)); err != nil {
		return Checkpoint{}, fmt.Errorf("make a set of replicas: %w", err)
	}
	for name, v := range cp.Volumes {
		if name == journal.Objects || v.Seq == 0 {
			continue
		}
		id := identity{Replica: cp.Replica, Volume: name, Device: v.Device}
		if err := writeIdentity(OS{}, filepath.Join(dir, volumesDir, name+".json"), id); err != nil {
			return Checkpoint{}, fmt.Errorf("make a set of replicas: volume %s: %w", name, err)
		}
	}
	if err := writeCheckpoint(OS{}, dir, &cp); err != nil {
		return Checkpoint{}, fmt.Errorf("make a set of replicas: %w", err)
	}
	return cp, nil
}

// LogPath returns where the set at dir has the log of its objects; "": at is without one.
func LogPath(dir string, at Volume) string {
	if at.Log.File == "" {
		return ""
	}
	return filepath.Join(dir, objectsDir, at.Log.File)
}
