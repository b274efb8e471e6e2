package replay

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// disk is what tells the disk behind a device's path from others: after a reboot the path may lead to another one.
type disk struct {
	Size int64 `json:"size"` // bytes
	// Serial is a name that the disk keeps, where it has one. Others have what they keep until they are attached anew.
	Serial   string `json:"serial,omitempty"`
	Number   string `json:"number,omitempty"`   // major:minor
	Sequence string `json:"sequence,omitempty"` // "": the kernel counts none
}

// serials are the files of a disk in sysfs that may name it for good.
var serials = []string{"dm/uuid", "md/uuid", "wwid", "device/wwid", "serial", "device/serial"}

// diskOf returns what tells the disk at a path.
func diskOf(path string) (disk, error) {
	number, err := deviceNumber(path)
	if err != nil {
		return disk{}, err
	}
	var d disk
	if d.Size, err = deviceSize(path); err != nil {
		return d, err
	}
	name := fmt.Sprintf("%d:%d", unix.Major(number), unix.Minor(number))
	dir, err := filepath.EvalSymlinks(filepath.Join("/sys/dev/block", name))
	if err != nil {
		d.Number = name
		return d, nil // what sysfs tells is not to be had
	}
	suffix := ""
	if partition := attribute(dir, "partition"); partition != "" {
		suffix = fmt.Sprintf(" partition %s at %s", partition, attribute(dir, "start"))
		dir = filepath.Dir(dir)
	}
	for _, file := range serials {
		if s := attribute(dir, file); s != "" {
			d.Serial = s + suffix
			return d, nil
		}
	}
	d.Number, d.Sequence = name, attribute(dir, "diskseq")
	return d, nil
}

// attribute returns what a file of sysfs has; "": nothing, or there is none.
func attribute(dir, file string) string {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func deviceSize(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.Seek(0, io.SeekEnd)
}

// disks returns what tells the disks behind the devices of volumes.
func disks(devices map[string]string) (map[string]disk, error) {
	out := make(map[string]disk)
	for volume, device := range devices {
		d, err := diskOf(device)
		if err != nil {
			return nil, &DeviceError{volume, device, err}
		}
		out[volume] = d
	}
	return out, nil
}

// sameDisks refuses devices that are other disks now than those that the replay began with.
func (m *marker) sameDisks() error {
	for _, volume := range slices.Sorted(maps.Keys(m.Disks)) {
		device := m.Devices[volume]
		now, err := diskOf(device)
		if was := m.Disks[volume]; err == nil && now != was {
			err = fmt.Errorf("it may be another disk than the unfinished replay began with (%v, it was %v): "+
				"bring that one back there, or, to begin anew on this one, remove the directory with what the replay left", now, was)
		}
		if err != nil {
			return &DeviceError{volume, device, err}
		}
	}
	return nil
}

// String implements fmt.Stringer.
func (d disk) String() string {
	name := "serial " + d.Serial
	if d.Serial == "" {
		name = fmt.Sprintf("number %s, sequence %s", d.Number, d.Sequence)
	}
	return fmt.Sprintf("%d bytes, %s", d.Size, name)
}
