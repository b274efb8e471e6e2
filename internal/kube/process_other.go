//go:build unix && !linux

package kube

import "syscall"

// attributes keep the terminal's signals from a server.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
