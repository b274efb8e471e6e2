package replay

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/farshore/farshore/pkg/replica"
)

// DeviceError says that a block device can't take a volume. Nothing was written.
type DeviceError struct {
	Volume, Device string
	Err            error
}

// Error implements error.
func (e *DeviceError) Error() string {
	return fmt.Sprintf("recover volume %s onto %s: %v", e.Volume, e.Device, e.Err)
}

// Unwrap returns the cause.
func (e *DeviceError) Unwrap() error { return e.Err }

// checkDevices refuses devices before anything is written to any: of volumes that the point doesn't have, given twice, too small, in use, or
// with a replica on them.
func (r *run) checkDevices(from *base, p *Point) error {
	seen := make(map[uint64]string)
	for _, volume := range slices.Sorted(maps.Keys(r.o.Devices)) {
		device := r.o.Devices[volume]
		if err := r.checkDevice(from, p, volume, device, seen); err != nil {
			return &DeviceError{volume, device, err}
		}
	}
	return nil
}

func (r *run) checkDevice(from *base, p *Point, volume, device string, seen map[uint64]string) error {
	if !slices.Contains(p.Volumes, volume) {
		return fmt.Errorf("%s has no such volume; it has %v", describe(p), p.Volumes)
	}
	number, err := deviceNumber(device)
	if err != nil {
		return err
	}
	if other, ok := seen[number]; ok {
		return fmt.Errorf("volume %s is to go onto the same device", other)
	}
	seen[number] = volume
	for _, dir := range []string{r.o.Dir, replica.BaseDir(r.o.Dir)} {
		cp, err := replica.ReadCheckpoint(dir)
		if err != nil {
			continue // there is no set
		}
		for name, v := range cp.Volumes {
			if n, err := deviceNumber(v.Device); v.Device != "" && err == nil && n == number {
				return fmt.Errorf("the DR site's replica of volume %s is on it", name)
			}
		}
	}
	t, err := replica.OpenDevice(device, from.set.Volumes[volume].Size)
	if errors.Is(err, unix.EBUSY) {
		return errors.New("it is in use: mounted, or part of something else that is")
	}
	if err != nil {
		return err
	}
	return t.Close()
}

// deviceNumber returns the number of a block device.
func deviceNumber(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, errors.New("it is no block device")
	}
	return st.Rdev, nil
}
