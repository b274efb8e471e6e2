package link

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// echo answers with what it gets.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	return l.Addr().String()
}

func dial(t *testing.T, l *Link) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// there sends content and reads it back.
func there(c net.Conn, content []byte) error {
	sent := make(chan error, 1)
	go func() { _, err := c.Write(content); sent <- err }()
	back := make([]byte, len(content))
	if _, err := io.ReadFull(c, back); err != nil {
		return err
	}
	if !bytes.Equal(back, content) {
		return io.ErrUnexpectedEOF
	}
	return <-sent
}

func TestCutAndHeal(t *testing.T) {
	l := New(t, echo(t))
	c := dial(t, l)
	if err := there(c, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	l.Cut()
	if err := there(c, []byte("hello")); err == nil {
		t.Error("an open connection outlives a cut")
	}
	if err := there(dial(t, l), []byte("hello")); err == nil {
		t.Error("a new connection passes a cut")
	}
	l.Heal()
	if err := there(dial(t, l), []byte("hello")); err != nil {
		t.Errorf("after the cut: %v", err)
	}
}

// What passes a narrow link takes as long as its bandwidth says, at least.
func TestLimit(t *testing.T) {
	const rate, length = 1 << 20, 256 << 10
	l := New(t, echo(t))
	l.Limit(rate)
	start := time.Now()
	if err := there(dial(t, l), make([]byte, length)); err != nil {
		t.Fatal(err)
	}
	if took, least := time.Since(start), time.Second*length/rate; took < least {
		t.Errorf("%d bytes passed in %v, want at least %v", length, took, least)
	}
	if l.Carried() < 2*length {
		t.Errorf("%d bytes counted, want %d", l.Carried(), 2*length)
	}
}
