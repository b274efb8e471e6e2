package postgres

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// disk is a protected volume as a pod has it: the capturer's NBD export, a file by nbdfuse, a loop
// device, a file system.
type disk struct {
	fuse    string // where nbdfuse is mounted
	mounted string // where the file system is mounted; "": nowhere yet
	nbdfuse *exec.Cmd
	ended   chan struct{} // closed when nbdfuse has ended
}

// attach serves the NBD export behind socket as a file below dir.
func attach(dir, socket, export string) (*disk, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	d := &disk{fuse: dir, ended: make(chan struct{})}
	d.nbdfuse = exec.Command("nbdfuse", d.file(), "nbd+unix:///"+export+"?socket="+socket)
	var errs bytes.Buffer
	d.nbdfuse.Stderr = &errs
	d.nbdfuse.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.nbdfuse.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = d.nbdfuse.Wait() // what it had to say is on its standard error
		close(d.ended)
	}()
	limit := time.After(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(d.file()); err == nil {
			return d, nil
		}
		select {
		case <-d.ended:
			return nil, fmt.Errorf("nbdfuse ended: %s", errs.Bytes())
		case <-limit:
			return nil, errors.Join(fmt.Errorf("nbdfuse does not serve %s", export), d.detach())
		case <-tick.C:
		}
	}
}

func (d *disk) file() string { return filepath.Join(d.fuse, "nbd") }

// format makes a file system on the disk and mounts it at dir.
func (d *disk) format(dir string) error {
	device, err := loop(d.file(), true)
	if err != nil {
		return err
	}
	defer device.Close()
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", device.Name()).CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %s", err, out)
	}
	if err := mount(device, dir); err != nil {
		return err
	}
	d.mounted = dir
	return nil
}

// cut kills nbdfuse: whatever waits for the disk fails at once.
func (d *disk) cut() {
	_ = d.nbdfuse.Process.Kill() // it may have ended
	<-d.ended
}

// detach cuts the disk and removes its mounts.
func (d *disk) detach() error {
	d.cut()
	var err error
	if d.mounted != "" {
		err = unmount(d.mounted)
	}
	return errors.Join(err, unix.Unmount(d.fuse, unix.MNT_DETACH))
}

// loop makes a block device of a file. The device goes with the last of its mounts and openers; the
// caller closes the file that it gets.
func loop(path string, direct bool) (*os.File, error) {
	backing, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(backing.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
	if direct {
		config.Info.Flags |= unix.LO_FLAGS_DIRECT_IO
	}
	for range 100 {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(device.Fd()), &config)
		if err == nil {
			return device, nil
		}
		device.Close()
		if !errors.Is(err, unix.EBUSY) { // busy: somebody else was quicker
			return nil, fmt.Errorf("make %s a loop device: %w", path, err)
		}
	}
	return nil, fmt.Errorf("make %s a loop device: others took every free one", path)
}

// mountImage mounts a recovered volume at dir: the file system's own recovery happens here.
func mountImage(file, dir string) error {
	device, err := loop(file, false)
	if err != nil {
		return err
	}
	defer device.Close()
	return mount(device, dir)
}

func mount(device *os.File, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(device.Name(), dir, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", filepath.Base(dir), err)
	}
	return nil
}

// unmount unmounts dir, which may be busy for a moment after its users were killed. At last it is taken
// out of the tree, and the test's namespace ends what is left.
func unmount(dir string) error {
	var err error
	for range 100 {
		if err = unix.Unmount(dir, 0); !errors.Is(err, unix.EBUSY) {
			return err
		}
		<-time.After(20 * time.Millisecond)
	}
	return errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH))
}

// fsck returns what e2fsck says of an image, without changing it: "clean", or its first lines.
func fsck(file string) string {
	out, err := exec.Command("e2fsck", "-fn", file).CombinedOutput()
	if err == nil {
		return "clean"
	}
	lines := strings.SplitN(string(out), "\n", 6)
	return fmt.Sprintf("%v: %s", err, strings.Join(lines[:len(lines)-1], " | "))
}
