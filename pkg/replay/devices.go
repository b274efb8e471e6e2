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
// with a replica on them. What is on a device doesn't matter: one that a replay goes on with is checked just so.
func (r *run) checkDevices(from *replica.Checkpoint, p *Point) error {
	numbers := make(map[uint64]string)
	for _, volume := range slices.Sorted(maps.Keys(r.o.Devices)) {
		device := r.o.Devices[volume]
		number, err := deviceNumber(device)
		if other, taken := numbers[number]; err == nil && taken {
			err = fmt.Errorf("volume %s is to go onto the same device", other)
		}
		if err == nil && !slices.Contains(p.Volumes, volume) {
			err = fmt.Errorf("%s has no such volume; it has %v", describe(p), p.Volumes)
		}
		if err == nil {
			err = r.apart(number)
		}
		if err != nil {
			return &DeviceError{volume, device, err}
		}
		numbers[number] = volume
	}
	for volume, device := range r.o.Devices {
		t, err := replica.OpenDevice(device, from.Volumes[volume].Size)
		if err == nil {
			err = t.Close()
		}
		if errors.Is(err, unix.EBUSY) {
			err = errors.New("it is in use: mounted, or part of something else that is")
		}
		if err != nil {
			return &DeviceError{volume, device, err}
		}
	}
	return nil
}

// apart refuses a device that the DR site's replicas are on.
func (r *run) apart(number uint64) error {
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
	return nil
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
