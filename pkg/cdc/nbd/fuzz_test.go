package nbd

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"
)

// converse sends input to a server of its own, reads past what comes back, and returns when the
// server has closed the connection.
func converse(t *testing.T, v *volume, input []byte) {
	t.Helper()
	s := NewServer(Options{HandshakeTimeout: 5 * time.Second, Grace: time.Second})
	s.AddExport("", v, false)
	s.AddExport("ro", v, true)
	a, b := net.Pipe()
	srv := &service{Server: s, plain: true, watch: newWatch(), conns: map[*conn]struct{}{}}
	go srv.watch.run(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		newConn(srv, b).serve(t.Context())
	}()
	go io.Copy(io.Discard, a)
	a.SetDeadline(time.Now().Add(10 * time.Second))
	a.Write(input) // fails when the server has had enough
	a.Close()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the server doesn't close the connection")
	}
}

// FuzzHandshake sends anything at all to the negotiation: the server must neither panic nor hang,
// nor call the export.
func FuzzHandshake(f *testing.F) {
	greeting := []byte{0, 0, 0, 3}
	query := binary.BigEndian.AppendUint32(appendString(nil, "ro"), 1)
	query = appendString(query, allocationName)
	for _, b := range [][]byte{
		nil,
		withLength(optExportName, nil),
		withLength(optGo, append(appendString(nil, "ro"), 0, 1, 0, 3)),
		withLength(optSetMetaContext, query),
		append(withLength(optStructuredReply, nil), withLength(optListMetaContext, query)...),
		append(withLength(optList, nil), withLength(optStartTLS, nil)...),
		withLength(optAbort, nil),
		withLength(option(99), make([]byte, 100)),
	} {
		f.Add(append(greeting[:4:4], b...))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		converse(t, newVolume(1<<16), input)
	})
}

func withLength(o option, data []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, uint32(o))
	return append(b, appendString(nil, string(data))...)
}

// FuzzTransmission sends anything at all as requests: the server must neither panic nor hang, nor
// let anything outside of the volume pass (the volume panics), nor write what wasn't received.
func FuzzTransmission(f *testing.F) {
	seed := func(requests ...request) {
		var b []byte
		for _, q := range requests {
			b = appendRequest(b, q)
			if q.cmd == cmdWrite {
				b = append(b, make([]byte, min(q.length, 100<<10))...)
			}
		}
		f.Add(b, true)
		f.Add(b, false)
	}
	seed()
	seed(request{cmd: cmdRead, length: 4096}, request{cmd: cmdWrite, length: 4096}, request{cmd: cmdFlush}, request{cmd: cmdDisc})
	seed(request{cmd: cmdRead, length: 1 << 19, flags: cmdFlagDF}, request{cmd: cmdRead, length: 1 << 19})
	seed(request{cmd: cmdWrite, length: 64 << 10, flags: cmdFlagFUA}, request{cmd: cmdBlockStatus, length: 1 << 20})
	seed(request{cmd: cmdWrite, length: 1 << 30}, request{cmd: cmdWrite, offset: 1<<64 - 1, length: 10})
	seed(request{cmd: cmdTrim, offset: 100, length: 9999}, request{cmd: cmdWriteZeroes, flags: cmdFlagNoHole | cmdFlagFastZero, length: 1 << 20}, request{cmd: cmdCache, length: 1 << 20})
	f.Fuzz(func(t *testing.T, input []byte, structured bool) {
		v := newVolume(1 << 20)
		received := int64(len(input))
		v.before = func(op string, _, length int64) error {
			if op == "write" && length > received {
				t.Errorf("wrote %d bytes after %d were sent", length, received)
			}
			return nil
		}
		b := []byte{0, 0, 0, 3}
		if structured {
			b = append(b, withLength(optStructuredReply, nil)...)
			q := binary.BigEndian.AppendUint32(appendString(nil, ""), 1)
			b = append(b, withLength(optSetMetaContext, appendString(q, allocationName))...)
		}
		b = append(b, withLength(optExportName, nil)...)
		converse(t, v, append(b, input...))
	})
}
