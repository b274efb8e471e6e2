package archive

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

// A sealed file has a second one beside it, with its length and CRC-32C: it is as it was when it was sealed. bbolt follows what its pages say
// without looking whether it can be so, and with a page that has altered it may read anywhere in memory, or take all of it.

func sealOf(name string) string { return name + ".sum" }

// seal seals a file that nobody writes to any more. It needs not be durable: a seal that is lost, or isn't the file's, costs time.
func seal(name string) error {
	sum, err := summary(name)
	if err != nil {
		return err
	}
	if err := os.WriteFile(sealOf(name), []byte(sum), 0o600); err != nil {
		return errors.Join(err, os.Remove(sealOf(name)))
	}
	return nil
}

// unseal looks whether a file is as it was when it was sealed, which is errIndex if not, and removes the seal: the file may be written to.
// One without a seal was in use when its process ended; bbolt's transactions are for that.
func unseal(name string) error {
	want, err := os.ReadFile(sealOf(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	got, err := summary(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Remove(sealOf(name)); err != nil {
		return err
	}
	if got != string(want) {
		return errIndex
	}
	return nil
}

// summary is what a seal says of a file.
func summary(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close() // it was only read
	sum := crc32.New(castagnoli)
	n, err := io.Copy(sum, f)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return fmt.Sprintf("%d %08x\n", n, sum.Sum32()), nil
}
