package nbd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

const (
	maxOptions    = 4096    // a client asks that many times at most
	maxSkipped    = 1 << 20 // bytes of an oversize option that are read past
	handshakeRoom = 8 << 10 // read buffer
)

// errDone ends a handshake without an error: the client aborted.
var errDone = errors.New("handshake ended by the client")

// handshake is the server's side of the negotiation.
type handshake struct {
	s     *Server
	conn  net.Conn
	in    *bufio.Reader
	plain bool // TLS isn't wanted

	secure     bool // TLS is up
	noZeroes   bool
	structured bool
	chosen     entry // what the client goes on with
	size       int64 // of it, as the client was told
	allocation *string
	out        []byte
}

// run negotiates until the client has chosen an export. It returns errDone when the client left.
func (h *handshake) run(ctx context.Context) error {
	b := binary.BigEndian.AppendUint64(nil, magicServer)
	b = binary.BigEndian.AppendUint64(b, magicOption)
	b = binary.BigEndian.AppendUint16(b, flagFixedNewstyle|flagNoZeroes)
	if _, err := h.conn.Write(b); err != nil {
		return err
	}
	var f [4]byte
	if _, err := io.ReadFull(h.in, f[:]); err != nil {
		return err
	}
	flags := binary.BigEndian.Uint32(f[:])
	if flags&^(flagFixedNewstyle|flagNoZeroes) != 0 {
		return fmt.Errorf("unknown client flags %#x", flags)
	}
	h.noZeroes = flags&flagNoZeroes != 0
	for range maxOptions {
		chosen, err := h.next(ctx)
		if err != nil || chosen {
			return err
		}
	}
	return fmt.Errorf("client sent %d options without choosing an export", maxOptions)
}

// next handles one option. It is true when the transmission phase begins.
func (h *handshake) next(ctx context.Context) (bool, error) {
	var head [optHeaderSize]byte
	if _, err := io.ReadFull(h.in, head[:]); err != nil {
		return false, err
	}
	if m := binary.BigEndian.Uint64(head[:]); m != magicOption {
		return false, fmt.Errorf("option with magic %#x", m)
	}
	o, length := option(binary.BigEndian.Uint32(head[8:])), binary.BigEndian.Uint32(head[12:])
	if length > maxOptionData {
		if length > maxSkipped || o == optExportName {
			return false, fmt.Errorf("option %d of %d bytes", o, length)
		}
		if _, err := io.CopyN(io.Discard, h.in, int64(length)); err != nil {
			return false, err
		}
		return false, h.reply(o, repErrTooBig, nil)
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(h.in, data); err != nil {
		return false, err
	}
	if !h.plain && !h.secure && o != optStartTLS && o != optAbort {
		if o == optExportName {
			return false, errors.New("client chose an export without the TLS that is required")
		}
		return false, h.reply(o, repErrTLSReqd, []byte("use TLS"))
	}
	switch o {
	case optExportName:
		return true, h.exportName(string(data))
	case optAbort:
		if err := h.reply(o, repAck, nil); err != nil {
			return false, err
		}
		return false, errDone
	case optList:
		return false, h.list(o, data)
	case optStartTLS:
		return false, h.startTLS(ctx, data)
	case optInfo, optGo:
		return h.info(o, data)
	case optStructuredReply:
		if len(data) > 0 {
			return false, h.reply(o, repErrInvalid, nil)
		}
		h.structured = true
		return false, h.reply(o, repAck, nil)
	case optListMetaContext, optSetMetaContext:
		return false, h.metaContext(o, data)
	}
	return false, h.reply(o, repErrUnsup, nil)
}

func (h *handshake) reply(o option, t optReply, data []byte) error {
	h.queue(o, t, data)
	return h.flush()
}

// queue is reply for one of several.
func (h *handshake) queue(o option, t optReply, data []byte) {
	h.out = binary.BigEndian.AppendUint64(h.out, magicOptReply)
	h.out = binary.BigEndian.AppendUint32(h.out, uint32(o))
	h.out = binary.BigEndian.AppendUint32(h.out, uint32(t))
	h.out = appendString(h.out, string(data))
}

func (h *handshake) flush() error {
	_, err := h.conn.Write(h.out)
	h.out = h.out[:0]
	return err
}

func (h *handshake) startTLS(ctx context.Context, data []byte) error {
	switch {
	case len(data) > 0 || h.secure:
		return h.reply(optStartTLS, repErrInvalid, nil)
	case h.s.o.TLS == nil:
		return h.reply(optStartTLS, repErrUnsup, nil)
	case h.plain:
		return h.reply(optStartTLS, repErrPolicy, []byte("no TLS on a unix socket"))
	case h.in.Buffered() > 0:
		// Whoever sent this ahead may not be who will be authenticated.
		return errors.New("client sent data between STARTTLS and its reply")
	}
	if err := h.reply(optStartTLS, repAck, nil); err != nil {
		return err
	}
	conn := tls.Server(h.conn, h.s.o.TLS)
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	h.conn, h.secure = conn, true
	h.in.Reset(conn)
	// What was agreed on without TLS is void.
	h.structured, h.allocation = false, nil
	return nil
}

func (h *handshake) list(o option, data []byte) error {
	if len(data) > 0 {
		return h.reply(o, repErrInvalid, nil)
	}
	for _, name := range h.s.names() {
		h.queue(o, repServer, appendString(nil, name))
	}
	return h.reply(o, repAck, nil)
}

// exportName is the old way to choose; it has no way to refuse but to close the connection.
func (h *handshake) exportName(name string) error {
	e, found := h.s.lookup(name)
	if !found {
		return fmt.Errorf("there is no export %q", name)
	}
	h.choose(e, name, e.export.Size())
	b := binary.BigEndian.AppendUint64(nil, uint64(h.size))
	b = binary.BigEndian.AppendUint16(b, h.flagsOf(e))
	if !h.noZeroes {
		b = append(b, make([]byte, 124)...)
	}
	_, err := h.conn.Write(b)
	return err
}

// choose makes e the connection's export. A context that was set for another name is void.
func (h *handshake) choose(e entry, name string, size int64) {
	h.chosen, h.size = e, size
	if h.allocation != nil && *h.allocation != name {
		h.allocation = nil
	}
}

func (h *handshake) flagsOf(e entry) uint16 {
	f := flagHasFlags | flagSendFlush | flagSendFUA | flagCanMultiConn | flagSendCache
	if h.structured {
		f |= flagSendDF
	}
	if e.readOnly {
		return f | flagReadOnly
	}
	return f | flagSendTrim | flagSendWriteZeroes | flagSendFastZero
}

// info answers INFO and GO. It is true when GO succeeded.
func (h *handshake) info(o option, data []byte) (bool, error) {
	name, rest, valid := cutString(data)
	if !valid || len(rest) < 2 || len(rest) != 2+2*int(binary.BigEndian.Uint16(rest)) {
		return false, h.reply(o, repErrInvalid, nil)
	}
	e, found := h.s.lookup(name)
	if !found {
		return false, h.reply(o, repErrUnknown, []byte("there is no such export"))
	}
	b := binary.BigEndian.AppendUint16(nil, infoExport)
	size := e.export.Size()
	b = binary.BigEndian.AppendUint64(b, uint64(size))
	h.queue(o, repInfo, binary.BigEndian.AppendUint16(b, h.flagsOf(e)))
	b = binary.BigEndian.AppendUint16(nil, infoBlockSize)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint32(b, preferred(e.export.BlockSize()))
	h.queue(o, repInfo, binary.BigEndian.AppendUint32(b, MaxRequest))
	for rest = rest[2:]; len(rest) > 0; rest = rest[2:] {
		kind := binary.BigEndian.Uint16(rest)
		b := binary.BigEndian.AppendUint16(nil, kind)
		switch kind {
		case infoName:
			h.queue(o, repInfo, append(b, e.name...))
		case infoDescription:
			if d, is := e.export.(described); is {
				s := d.Description()
				h.queue(o, repInfo, append(b, s[:min(len(s), maxName)]...))
			}
		}
	}
	if o == optGo {
		h.choose(e, name, size)
	}
	return o == optGo, h.reply(o, repAck, nil)
}

// preferred is the block size to announce: a power of two from 512 bytes to MaxRequest.
func preferred(size int64) uint32 {
	p := int64(page)
	for p < size && p < MaxRequest {
		p *= 2
	}
	return uint32(p)
}

// metaContext answers LIST_META_CONTEXT and SET_META_CONTEXT.
func (h *handshake) metaContext(o option, data []byte) error {
	if o == optSetMetaContext {
		h.allocation = nil // whatever comes of this, it replaces what was set before
	}
	name, rest, valid := cutString(data)
	if !valid || len(rest) < 4 || !h.structured {
		return h.reply(o, repErrInvalid, nil)
	}
	queries := binary.BigEndian.Uint32(rest)
	rest = rest[4:]
	match := queries == 0 && o == optListMetaContext
	for range queries {
		var q string
		if q, rest, valid = cutString(rest); !valid {
			return h.reply(o, repErrInvalid, nil)
		}
		match = match || q == allocationName || q == "base:" && o == optListMetaContext
	}
	if len(rest) > 0 {
		return h.reply(o, repErrInvalid, nil)
	}
	if _, found := h.s.lookup(name); !found {
		return h.reply(o, repErrUnknown, nil)
	}
	if match {
		var id uint32
		if o == optSetMetaContext {
			h.allocation, id = &name, allocationID
		}
		h.queue(o, repMetaContext, append(binary.BigEndian.AppendUint32(nil, id), allocationName...))
	}
	return h.reply(o, repAck, nil)
}

// cutString takes a string with its length before it, of no more than maxName bytes, from b.
func cutString(b []byte) (s string, rest []byte, valid bool) {
	if len(b) < 4 {
		return "", nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if b = b[4:]; n > maxName || int(n) > len(b) || bytes.IndexByte(b[:n], 0) >= 0 {
		return "", nil, false
	}
	return string(b[:n]), b[n:], true
}
