package demo

import "syscall"

// attributes give a child a process group of its own and let the kernel kill it when the demo is
// gone, however it went.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
