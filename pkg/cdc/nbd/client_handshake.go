package nbd

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// clientHandshake is the client's side of the negotiation.
type clientHandshake struct {
	conn net.Conn
	in   *bufio.Reader
}

// run negotiates up to the transmission phase.
func (h *clientHandshake) run(ctx context.Context, export string, config *tls.Config) (exportInfo, error) {
	info := exportInfo{minBlock: 1, preferred: 4096, maxRequest: MaxRequest}
	if len(export) > maxName {
		return info, fmt.Errorf("export name of %d bytes, the protocol allows %d", len(export), maxName)
	}
	if err := h.greet(); err != nil {
		return info, err
	}
	if config != nil {
		if err := h.startTLS(ctx, config); err != nil {
			return info, err
		}
	}
	var err error
	if info.structured, err = h.ask(optStructuredReply, nil, nil); err != nil {
		return info, err
	}
	if info.structured {
		b := appendString(nil, export)
		b = binary.BigEndian.AppendUint32(b, 1)
		b = appendString(b, allocationName)
		_, err := h.ask(optSetMetaContext, b, func(t optReply, data []byte) error {
			if t == repMetaContext && len(data) > 4 && string(data[4:]) == allocationName {
				info.allocation, info.context = true, binary.BigEndian.Uint32(data)
			}
			return nil
		})
		if err != nil {
			return info, err
		}
	}
	b := appendString(nil, export)
	b = binary.BigEndian.AppendUint16(b, 2)
	b = binary.BigEndian.AppendUint16(b, infoBlockSize)
	b = binary.BigEndian.AppendUint16(b, infoDescription)
	agreed, err := h.ask(optGo, b, func(t optReply, data []byte) error {
		if t != repInfo || len(data) < 2 {
			return nil
		}
		return info.parse(data)
	})
	if err == nil && !agreed {
		err = errors.New("the server doesn't know NBD_OPT_GO")
	}
	if err == nil && info.flags&flagHasFlags == 0 {
		err = errors.New("the server didn't describe the export")
	}
	return info, err
}

// parse takes one information about the export.
func (i *exportInfo) parse(b []byte) error {
	kind, b := binary.BigEndian.Uint16(b), b[2:]
	switch {
	case kind == infoExport && len(b) == 10:
		i.size, i.flags = int64(binary.BigEndian.Uint64(b)), binary.BigEndian.Uint16(b[8:])
		if i.size < 0 {
			return fmt.Errorf("export of %d bytes is too large", uint64(i.size))
		}
	case kind == infoBlockSize && len(b) == 12:
		i.minBlock = binary.BigEndian.Uint32(b)
		i.preferred = binary.BigEndian.Uint32(b[4:])
		i.maxRequest = min(binary.BigEndian.Uint32(b[8:]), 1<<30)
		if i.minBlock == 0 || i.maxRequest < i.minBlock {
			return fmt.Errorf("impossible block sizes %d, %d, %d", i.minBlock, i.preferred, i.maxRequest)
		}
		i.maxRequest -= i.maxRequest % i.minBlock
	case kind == infoDescription:
		i.description = string(b)
	}
	return nil
}

// greet exchanges the handshake flags.
func (h *clientHandshake) greet() error {
	var b [18]byte
	if _, err := io.ReadFull(h.in, b[:]); err != nil {
		return fmt.Errorf("read greeting: %w", err)
	}
	if binary.BigEndian.Uint64(b[:]) != magicServer || binary.BigEndian.Uint64(b[8:]) != magicOption {
		return errors.New("this is not an NBD server of the newstyle")
	}
	flags := binary.BigEndian.Uint16(b[16:]) & (flagFixedNewstyle | flagNoZeroes)
	if flags&flagFixedNewstyle == 0 {
		return errors.New("the server doesn't speak fixed newstyle")
	}
	_, err := h.conn.Write(binary.BigEndian.AppendUint32(nil, uint32(flags)))
	return err
}

func (h *clientHandshake) startTLS(ctx context.Context, config *tls.Config) error {
	agreed, err := h.ask(optStartTLS, nil, nil)
	if err != nil {
		return err
	}
	if !agreed || h.in.Buffered() > 0 {
		return errors.New("the server doesn't offer TLS")
	}
	conn := tls.Client(h.conn, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	h.conn, h.in = conn, bufio.NewReaderSize(conn, 64<<10)
	return nil
}

// ask sends an option and reads its replies; each gets those before the last. It is false if the
// server doesn't know the option.
func (h *clientHandshake) ask(o option, data []byte, each func(optReply, []byte) error) (bool, error) {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, uint32(o))
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	if _, err := h.conn.Write(append(b, data...)); err != nil {
		return false, fmt.Errorf("send option %d: %w", o, err)
	}
	for {
		t, data, err := h.reply(o)
		switch {
		case err != nil:
			return false, err
		case t == repAck:
			return true, nil
		case t == repErrUnsup:
			return false, nil
		case t&repErr != 0:
			return false, fmt.Errorf("server refuses option %d: %s", o, refusal(t, data))
		case each != nil:
			if err := each(t, data); err != nil {
				return false, err
			}
		}
	}
}

func (h *clientHandshake) reply(o option) (optReply, []byte, error) {
	var b [optReplyHeadSize]byte
	if _, err := io.ReadFull(h.in, b[:]); err != nil {
		return 0, nil, fmt.Errorf("read reply to option %d: %w", o, err)
	}
	length := binary.BigEndian.Uint32(b[16:])
	if binary.BigEndian.Uint64(b[:]) != magicOptReply || option(binary.BigEndian.Uint32(b[8:])) != o || length > maxOptionData {
		return 0, nil, fmt.Errorf("malformed reply to option %d", o)
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(h.in, data); err != nil {
		return 0, nil, fmt.Errorf("read reply to option %d: %w", o, err)
	}
	return optReply(binary.BigEndian.Uint32(b[12:])), data, nil
}

// refusal says what a server's refusal means.
func refusal(t optReply, data []byte) string {
	s := map[optReply]string{
		repErrPolicy:   "its policy forbids it",
		repErrInvalid:  "it is invalid",
		repErrTLSReqd:  "it requires TLS; give certificates",
		repErrUnknown:  "there is no such export",
		repErrShutdown: "it is shutting down",
	}[t]
	if s == "" {
		s = fmt.Sprintf("error %d", t&^repErr)
	}
	if len(data) > 0 {
		s += " (" + string(data) + ")"
	}
	return s
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}
