package child

import "syscall"

// attributes keep the terminal's signals from a program, and let the kernel kill it when this process is gone.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
