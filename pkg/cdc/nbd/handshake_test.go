package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

func TestHandshakeOptions(t *testing.T) {
	s := serve(t, newVolume(1<<20), Options{})
	s.AddExport("other", newVolume(4096), true)
	r := s.raw(t)
	r.put(uint32(flagFixedNewstyle | flagNoZeroes))
	expect := func(o option, want ...optReply) (last []byte) {
		t.Helper()
		for _, w := range want {
			got, reply, data := r.optReply()
			if got != o || reply != w {
				t.Fatalf("option %d: reply %#x to %d, want %#x", o, reply, got, w)
			}
			last = data
		}
		return last
	}
	r.option(77)
	expect(77, repErrUnsup)
	r.option(optStartTLS)
	expect(optStartTLS, repErrUnsup)
	r.option(optList, "junk")
	expect(optList, repErrInvalid)
	r.option(optList)
	expect(optList, repServer, repServer, repAck)
	r.option(optSetMetaContext, "disk", uint32(1), allocationName) // before structured replies
	expect(optSetMetaContext, repErrInvalid)
	r.option(optStructuredReply, uint32(1))
	expect(optStructuredReply, repErrInvalid)
	r.option(optStructuredReply)
	expect(optStructuredReply, repAck)
	r.option(optListMetaContext, "disk", uint32(0))
	expect(optListMetaContext, repMetaContext, repAck)
	r.option(optListMetaContext, "disk", uint32(1), "qemu:")
	expect(optListMetaContext, repAck)
	r.option(optListMetaContext, "none", uint32(0))
	expect(optListMetaContext, repErrUnknown)
	r.option(optSetMetaContext, "disk", uint32(1<<31), allocationName) // more than there are
	expect(optSetMetaContext, repErrInvalid)
	r.option(optSetMetaContext, "disk", uint32(2), "base:", allocationName)
	expect(optSetMetaContext, repMetaContext, repAck)
	r.option(optInfo, "none", uint16(0))
	expect(optInfo, repErrUnknown)
	r.option(optInfo, "", uint16(0)) // two exports: none is the default
	expect(optInfo, repErrUnknown)
	r.option(optInfo, "disk", uint16(3), uint16(0))
	expect(optInfo, repErrInvalid)
	r.option(optInfo, uint32(5000), make([]byte, 6000))
	expect(optInfo, repErrInvalid)
	r.option(optInfo, make([]byte, maxOptionData+1))
	expect(optInfo, repErrTooBig)
	r.option(optInfo, "disk", uint16(2), infoName, infoDescription)
	if d := expect(optInfo, repInfo, repInfo, repInfo, repInfo, repAck); len(d) != 0 {
		t.Fatalf("%d bytes with the acknowledgement", len(d))
	}
	r.option(optGo, "other", uint16(0))
	b := expect(optGo, repInfo)
	flags := binary.BigEndian.Uint16(b[10:])
	if binary.BigEndian.Uint64(b[2:]) != 4096 || flags&flagReadOnly == 0 || flags&(flagSendTrim|flagSendWriteZeroes) != 0 || flags&flagCanMultiConn == 0 {
		t.Fatalf("size %d, flags %#x", binary.BigEndian.Uint64(b[2:]), flags)
	}
	expect(optGo, repInfo, repAck)
	// The context was set for another export: it isn't this one's.
	r.request(request{cmd: cmdBlockStatus, cookie: 1, length: 512})
	if b := r.take(chunkHeaderSize + 6); binary.BigEndian.Uint32(b[chunkHeaderSize:]) != uint32(eInval) {
		t.Fatalf("block status without a context: %x", b)
	}
	r.request(request{cmd: cmdDisc})
	r.closed()
}

func TestExportName(t *testing.T) {
	s := serve(t, newVolume(12345), Options{})
	for _, zeroes := range []bool{true, false} {
		r := s.raw(t)
		flags := uint32(flagFixedNewstyle)
		n := 10 + 124
		if !zeroes {
			flags |= flagNoZeroes
			n = 10
		}
		r.put(flags)
		r.put(uint64(magicOption), optExportName, uint32(0)) // the only one is the default
		if b := r.take(n); binary.BigEndian.Uint64(b) != 12345 {
			t.Fatalf("size %d", binary.BigEndian.Uint64(b))
		}
		r.request(request{cmd: cmdRead, cookie: 7, length: 100})
		if e, cookie, _ := r.simple(100); e != ok || cookie != 7 {
			t.Fatalf("error %d, cookie %d", e, cookie)
		}
	}
	r := s.raw(t)
	r.put(uint32(flagFixedNewstyle))
	r.put(uint64(magicOption), optExportName, uint32(4), "none")
	r.closed()
}

func TestHandshakeIsRefused(t *testing.T) {
	s := serve(t, newVolume(1<<20), Options{})
	for name, bytes := range map[string][]any{
		"unknown flags": {uint32(1 << 7)},
		"wrong magic":   {uint32(1), uint64(magicOption + 1), uint64(0)},
		"huge option":   {uint32(1), uint64(magicOption), optInfo, uint32(1 << 31)},
		"huge name":     {uint32(1), uint64(magicOption), optExportName, uint32(maxOptionData + 1)},
	} {
		t.Run(name, func(t *testing.T) {
			r := s.raw(t)
			r.put(bytes...)
			r.closed()
		})
	}
	r := s.raw(t)
	r.put(uint32(1))
	r.option(optAbort)
	if _, reply, _ := r.optReply(); reply != repAck {
		t.Fatalf("reply %#x to an abort", reply)
	}
	r.closed()
}

func TestHandshakeDeadline(t *testing.T) {
	s := serve(t, newVolume(1<<20), Options{HandshakeTimeout: 20 * time.Millisecond})
	r := s.raw(t)
	r.closed()
	// There is none afterwards.
	c, err := Dial(t.Context(), "unix", s.path, "disk")
	for err != nil { // the machine may be that slow
		c, err = Dial(t.Context(), "unix", s.path, "disk")
	}
	defer c.Close()
	s.raw(t).closed() // a later one's deadline has passed
	must(t, c.Flush(t.Context()))
}

func TestConnectionLimit(t *testing.T) {
	s := serve(t, newVolume(1<<20), Options{Connections: 2})
	a, b := s.dial(t), s.dial(t)
	if _, err := Dial(t.Context(), "unix", s.path, "disk"); err == nil {
		t.Fatal("a third connection was admitted")
	}
	must(t, a.Disconnect())
	waitFor(t, func() bool { return s.metrics.connections.Load() == 1 })
	must(t, s.dial(t).Flush(t.Context()))
	must(t, b.Flush(t.Context()))
}

func TestDialRefusals(t *testing.T) {
	s := serve(t, newVolume(1<<20), Options{})
	if _, err := Dial(t.Context(), "unix", s.path, "none"); err == nil || !strings.Contains(err.Error(), "there is no such export") {
		t.Errorf("unknown export: %v", err)
	}
	if _, err := Dial(t.Context(), "unix", s.path, strings.Repeat("x", maxName+1)); err == nil {
		t.Error("a name too long was accepted")
	}
	ctx, cancel := context.WithCancel(t.Context())
	mute, err := net.Listen("unix", s.path+"2")
	must(t, err)
	defer mute.Close()
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := Dial(ctx, "unix", s.path+"2", ""); !errors.Is(err, context.Canceled) {
		t.Errorf("a server that is silent: %v", err)
	}
}

// What a client may not ask for is answered with the protocol's error, touches nothing, and leaves
// the connection in step.
func TestBadRequests(t *testing.T) {
	const size = 1 << 20
	v := newVolume(size)
	s := serve(t, v, Options{})
	s.AddExport("ro", v, true)
	v.before = func(op string, _, _ int64) error {
		if op != "flush" {
			return fmt.Errorf("%s reached the export", op)
		}
		return nil
	}
	type bad struct {
		request
		want errno
	}
	check := func(export string, cases []bad) {
		r := s.raw(t)
		r.open(export)
		for i, x := range cases {
			x.cookie = uint64(i + 1)
			var payload []byte
			if x.cmd == cmdWrite {
				payload = bytes.Repeat([]byte{0x25}, int(x.length))
			}
			go r.Write(append(appendRequest(nil, x.request), payload...))
			if e, cookie, _ := r.simple(0); e != x.want || cookie != x.cookie {
				t.Errorf("%s: %s %#x of %d at %d: error %d for %d, want %d for %d", export, x.cmd, x.flags, x.length, x.offset, e, cookie, x.want, x.cookie)
			}
		}
		r.request(request{cmd: cmdFlush, cookie: 99})
		if e, cookie, _ := r.simple(0); e != ok || cookie != 99 {
			t.Errorf("%s: flush afterwards: %d for %d", export, e, cookie)
		}
	}
	check("disk", []bad{
		{request{cmd: cmdRead, offset: size, length: 1}, eInval},
		{request{cmd: cmdRead, offset: size - 1, length: 2}, eInval},
		{request{cmd: cmdRead, offset: 1<<64 - 1, length: 2}, eInval},
		{request{cmd: cmdRead, offset: 1 << 63, length: 512}, eInval},
		{request{cmd: cmdRead}, eInval},
		{request{cmd: cmdRead, length: 512, flags: cmdFlagDF}, eInval}, // structured replies weren't agreed on
		{request{cmd: cmdRead, length: 512, flags: cmdFlagNoHole}, eInval},
		{request{cmd: cmdWrite, offset: size, length: 1}, eNoSpace},
		{request{cmd: cmdWrite, offset: size - 100, length: 200 << 10}, eNoSpace},
		{request{cmd: cmdWrite, offset: 1<<64 - 10, length: 100}, eNoSpace},
		{request{cmd: cmdWrite, length: 0}, eInval},
		{request{cmd: cmdWrite, length: 4096, flags: 1 << 15}, eInval},
		{request{cmd: cmdWrite, length: MaxRequest + 1}, eNoSpace},
		{request{cmd: cmdTrim, offset: 1, length: size}, eInval},
		{request{cmd: cmdWriteZeroes, offset: 1, length: size}, eNoSpace},
		{request{cmd: cmdWriteZeroes, offset: 1, length: 1<<32 - 1}, eNoSpace},
		{request{cmd: cmdCache, offset: 1, length: size}, eInval},
		{request{cmd: cmdFlush, offset: 1}, eInval},
		{request{cmd: cmdFlush, length: 1}, eInval},
		{request{cmd: cmdBlockStatus, length: 512}, eInval}, // no context
		{request{cmd: commands, length: 512}, eInval},
		{request{cmd: 1<<16 - 1, length: 512}, eInval},
	})
	check("ro", []bad{
		{request{cmd: cmdWrite, length: 4096}, ePerm},
		{request{cmd: cmdWrite, length: 1 << 20}, ePerm},
		{request{cmd: cmdTrim, length: 4096}, ePerm},
		{request{cmd: cmdWriteZeroes, length: 4096}, ePerm},
	})
	big := newVolume(100 << 20)
	big.before = v.before
	s.AddExport("big", big, false)
	check("big", []bad{
		{request{cmd: cmdRead, length: MaxRequest + 1}, eInval},
		{request{cmd: cmdWrite, length: MaxRequest + 1}, eInval},
		{request{cmd: cmdCache, length: MaxRequest + 1}, eOverflow},
	})
}

// A request that can't be understood ends the connection, and half a write never happens.
func TestBrokenRequests(t *testing.T) {
	v := newVolume(64 << 20)
	v.before = func(op string, _, _ int64) error { return fmt.Errorf("%s reached the export", op) }
	s := serve(t, v, Options{})
	r := s.raw(t)
	r.open("disk")
	r.put(make([]byte, requestSize))
	r.closed()
	r = s.raw(t)
	r.open("disk")
	r.request(request{cmd: cmdWrite, length: maxSkip + 1, offset: 1 << 40})
	r.closed()
	for _, n := range []uint32{4096, maxInline + 1, 1 << 20, MaxRequest} {
		for _, flags := range []uint16{0, cmdFlagFUA} {
			r := s.raw(t)
			r.open("disk")
			r.request(request{cmd: cmdWrite, flags: flags, length: n}, make([]byte, n-1)...)
			r.Close()
		}
	}
	waitFor(t, func() bool { return s.metrics.connections.Load() == 0 })
	for c := range commands {
		if n := s.metrics.requests[c].Load(); n != 0 {
			t.Errorf("%d times %s", n, c)
		}
	}
}

// DF: one chunk of data whatever the range holds, and holes as such without it.
func TestUnfragmentedReads(t *testing.T) {
	v := newVolume(8 << 20)
	s := serve(t, v, Options{})
	must(t, s.dial(t).Write(t.Context(), []byte("data"), 1<<20))
	r := s.raw(t)
	r.put(uint32(flagFixedNewstyle | flagNoZeroes))
	r.option(optStructuredReply)
	r.optReply()
	r.option(optExportName, []byte("disk"))
	if flags := binary.BigEndian.Uint16(r.take(10)[8:]); flags&flagSendDF == 0 {
		t.Fatalf("flags %#x", flags)
	}
	r.request(request{cmd: cmdRead, flags: cmdFlagDF, length: 4 << 20})
	head := r.take(chunkHeaderSize + 8)
	if binary.BigEndian.Uint16(head[4:]) != chunkDone || binary.BigEndian.Uint16(head[6:]) != chunkOffsetData || binary.BigEndian.Uint32(head[16:]) != 8+4<<20 {
		t.Fatalf("chunk %x", head)
	}
	if data := r.take(4 << 20); string(data[1<<20:][:4]) != "data" {
		t.Fatal("the data is not there")
	}
	r.request(request{cmd: cmdRead, length: 4 << 20})
	sent, holes := 0, 0
	for done := false; !done; {
		head := r.take(chunkHeaderSize)
		done = binary.BigEndian.Uint16(head[4:])&chunkDone != 0
		b := r.take(int(binary.BigEndian.Uint32(head[16:])))
		if binary.BigEndian.Uint16(head[6:]) == chunkOffsetHole {
			holes += int(binary.BigEndian.Uint32(b[8:]))
		} else {
			sent += len(b) - 8
		}
	}
	if sent != block || holes != 4<<20-block {
		t.Fatalf("%d bytes of data, %d of holes", sent, holes)
	}
}
