//go:build unix && !linux

package child

import "syscall"

// attributes keep the terminal's signals from a program.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
