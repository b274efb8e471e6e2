package cdc

// OpenFile opens a file or block device.
func OpenFile(path string, size int64) (Device, error) { panic("") }
