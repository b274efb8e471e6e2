package postgres

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// settings keep PostgreSQL small and let it write every page for itself. Shared memory is of the
// kind that ends with the IPC namespace.
const settings = `
listen_addresses = ''
max_connections = 20
shared_buffers = 16MB
dynamic_shared_memory_type = sysv
max_wal_size = 48MB
min_wal_size = 16MB
checkpoint_timeout = 30s
checkpoint_flush_after = 1
backend_flush_after = 1
bgwriter_flush_after = 1
autovacuum_naptime = 2s
fsync = on
full_page_writes = on
synchronous_commit = on
log_checkpoints = off
`

// volumes are the mounts of a server, below its root: volume i of the pair is volumes[i].
var volumes = []string{"data", "wal"}

// server is a PostgreSQL server. Its data is in root/data/pg, its write-ahead log in root/wal/pg, and a
// relative symbolic link leads from one to the other, so it works wherever the two are mounted.
type server struct {
	needs
	root string
	cmd  *exec.Cmd
	done chan struct{} // closed when the postmaster has ended
}

func (s *server) data() string    { return filepath.Join(s.root, "data", "pg") }
func (s *server) sockets() string { return filepath.Join(s.root, "run") }
func (s *server) log() string     { return filepath.Join(s.root, "postgres.log") }

// command prepares one of PostgreSQL's programs, as PostgreSQL's user.
func (s *server) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH"), "PGHOST=" + s.sockets(), "PGUSER=judge"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.user, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// create makes a new cluster.
func (s *server) create(ctx context.Context) error {
	for _, volume := range volumes {
		dir := filepath.Join(s.root, volume, "pg")
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if err := os.Chown(dir, int(s.user.Uid), int(s.user.Gid)); err != nil {
			return err
		}
	}
	wal := filepath.Join(s.root, "wal", "pg")
	out, err := s.command(ctx, "initdb", "-D", s.data(), "--waldir", wal, "--wal-segsize=4", "--data-checksums",
		"--username=judge", "--auth=trust", "--encoding=UTF8", "--locale=C").CombinedOutput()
	if err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	link := filepath.Join(s.data(), "pg_wal")
	if err := os.Remove(link); err != nil {
		return err
	}
	if err := os.Symlink("../../wal/pg", link); err != nil {
		return err
	}
	conf, err := os.OpenFile(filepath.Join(s.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = conf.WriteString(settings)
	if err := errors.Join(err, conf.Close()); err != nil {
		return err
	}
	// initdb has synced what it wrote; so must we, or a crash may take the settings back.
	return s.sync()
}

// sync makes everything that was written on the volumes durable.
func (s *server) sync() error {
	for _, volume := range volumes {
		dir, err := os.Open(filepath.Join(s.root, volume))
		if err != nil {
			return err
		}
		if err := errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close()); err != nil {
			return err
		}
	}
	return nil
}

// start starts the server and waits until it has recovered and accepts connections.
func (s *server) start(ctx context.Context, options ...string) error {
	if err := os.MkdirAll(s.sockets(), 0o755); err != nil {
		return err
	}
	if err := os.Chown(s.sockets(), int(s.user.Uid), int(s.user.Gid)); err != nil {
		return err
	}
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{"-D", s.data(), "-c", "unix_socket_directories=" + s.sockets()}
	cmd := s.command(context.Background(), "postgres", append(args, options...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(done)
	}()
	s.cmd, s.done = cmd, done
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if s.said("ready to accept connections") {
			return nil
		}
		select {
		case <-done:
			return fmt.Errorf("PostgreSQL does not start: %s", s.complaint())
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL does not get ready: %w: %s", ctx.Err(), s.complaint())
		case <-tick.C:
		}
	}
}

// kill ends the server and all its processes with SIGKILL.
func (s *server) kill() {
	if s.cmd == nil {
		return
	}
	postmaster := s.cmd.Process.Pid
	_ = s.cmd.Process.Signal(syscall.SIGSTOP) // so that it starts no more; it may have ended
	children := childrenOf(postmaster)
	_ = s.cmd.Process.Kill()
	for _, pid := range children {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	<-s.done
	for range 500 {
		if len(alive(children)) == 0 {
			break
		}
		<-time.After(10 * time.Millisecond)
	}
	s.cmd = nil
}

// said tells whether the server's log has a text.
func (s *server) said(what string) bool {
	text, err := os.ReadFile(s.log())
	return err == nil && bytes.Contains(text, []byte(what))
}

// complaint returns why the server gave up, or the end of its log.
func (s *server) complaint() string {
	text, err := os.ReadFile(s.log())
	if err != nil {
		return err.Error()
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "PANIC:") || strings.Contains(line, "FATAL:") {
			return strings.TrimSpace(line)
		}
	}
	return s.tail(8)
}

// tail returns the last n lines of the server's log, in one.
func (s *server) tail(n int) string {
	text, err := os.ReadFile(s.log())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], " | ")
}

func childrenOf(parent int) []int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	if err != nil {
		return nil
	}
	var out []int
	for _, field := range strings.Fields(string(text)) {
		if pid, err := strconv.Atoi(field); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

// alive returns those of pids that have not ended.
func alive(pids []int) (out []int) {
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		if i := bytes.LastIndexByte(text, ')'); i >= 0 && bytes.HasPrefix(text[i:], []byte(") Z")) {
			continue // nobody waits for it: it was the postmaster's
		}
		out = append(out, pid)
	}
	return out
}

// session is a psql process that runs statements one after the other and ends with the first that fails.
type session struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	errs *bytes.Buffer // read after the process has ended
}

const answered = "--- answered"

func (s *server) open(ctx context.Context, database string) (*session, error) {
	cmd := s.command(ctx, "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database)
	x := &session{cmd: cmd, errs: new(bytes.Buffer)}
	cmd.Stderr = x.errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if x.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start psql: %w", err)
	}
	x.out = bufio.NewReader(out)
	return x, nil
}

// do runs statements and returns their rows, the columns separated by |. After an error the session has ended.
func (x *session) do(sql string) (rows []string, err error) {
	if _, err = fmt.Fprintf(x.in, "%s;\n\\echo '%s'\n", sql, answered); err == nil {
		for {
			var line string
			if line, err = x.out.ReadString('\n'); err != nil {
				break
			}
			if line = strings.TrimSuffix(line, "\n"); line == answered {
				return rows, nil
			}
			rows = append(rows, line)
		}
	}
	x.in.Close()
	_ = x.cmd.Wait() // what went wrong is on its standard error
	return nil, fmt.Errorf("psql: %w: %s", err, bytes.TrimSpace(x.errs.Bytes()))
}

func (x *session) close() {
	x.in.Close()
	_ = x.cmd.Wait() // nothing was asked
}
