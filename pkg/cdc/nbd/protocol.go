package nbd

import "encoding/binary"

// Numbers of the protocol, as in https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md.

const (
	magicServer     = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption     = 0x49484156454f5054 // "IHAVEOPT"
	magicOptReply   = 0x0003e889045565a9
	magicRequest    = 0x25609513
	magicSimple     = 0x67446698
	magicStructured = 0x668e33ef
)

const (
	flagFixedNewstyle = 1 << 0 // handshake flags, of server and client
	flagNoZeroes      = 1 << 1
)

// option is what a client asks for during the handshake.
type option uint32

const (
	optExportName      option = 1
	optAbort           option = 2
	optList            option = 3
	optStartTLS        option = 5
	optInfo            option = 6
	optGo              option = 7
	optStructuredReply option = 8
	optListMetaContext option = 9
	optSetMetaContext  option = 10
)

// optReply is the type of a reply to an option; those from repErr on are errors.
type optReply uint32

const (
	repAck         optReply = 1
	repServer      optReply = 2
	repInfo        optReply = 3
	repMetaContext optReply = 4

	repErr         optReply = 1 << 31
	repErrUnsup    optReply = repErr + 1
	repErrPolicy   optReply = repErr + 2
	repErrInvalid  optReply = repErr + 3
	repErrTLSReqd  optReply = repErr + 5
	repErrUnknown  optReply = repErr + 6
	repErrShutdown optReply = repErr + 7
	repErrTooBig   optReply = repErr + 9
)

const (
	infoExport      uint16 = 0
	infoName        uint16 = 1
	infoDescription uint16 = 2
	infoBlockSize   uint16 = 3
)

// Transmission flags.
const (
	flagHasFlags        uint16 = 1 << 0
	flagReadOnly        uint16 = 1 << 1
	flagSendFlush       uint16 = 1 << 2
	flagSendFUA         uint16 = 1 << 3
	flagSendTrim        uint16 = 1 << 5
	flagSendWriteZeroes uint16 = 1 << 6
	flagSendDF          uint16 = 1 << 7
	flagCanMultiConn    uint16 = 1 << 8
	flagSendCache       uint16 = 1 << 10
	flagSendFastZero    uint16 = 1 << 11
)

// command is the type of a request.
type command uint16

const (
	cmdRead command = iota
	cmdWrite
	cmdDisc
	cmdFlush
	cmdTrim
	cmdCache
	cmdWriteZeroes
	cmdBlockStatus
	commands // how many there are
)

func (c command) String() string {
	names := [...]string{"read", "write", "disconnect", "flush", "trim", "cache", "zero", "block status"}
	if int(c) < len(names) {
		return names[c]
	}
	return "unknown"
}

// Command flags.
const (
	cmdFlagFUA      uint16 = 1 << 0
	cmdFlagNoHole   uint16 = 1 << 1
	cmdFlagDF       uint16 = 1 << 2
	cmdFlagReqOne   uint16 = 1 << 3
	cmdFlagFastZero uint16 = 1 << 4
)

// Structured reply chunks.
const (
	chunkDone uint16 = 1 << 0 // flag

	chunkNone        uint16 = 0 // types
	chunkOffsetData  uint16 = 1
	chunkOffsetHole  uint16 = 2
	chunkBlockStatus uint16 = 5
	chunkError       uint16 = 1<<15 + 1
	chunkErrorOffset uint16 = 1<<15 + 2
)

const (
	stateHole uint32 = 1 << 0 // base:allocation
	stateZero uint32 = 1 << 1
)

const (
	requestSize      = 28
	simpleReplySize  = 16
	chunkHeaderSize  = 20
	optHeaderSize    = 16
	optReplyHeadSize = 20

	// MaxRequest is the most one read or write may carry, in bytes; it is announced to clients.
	MaxRequest = 32 << 20

	maxName       = 4096     // bytes of an export's or a context's name, by the protocol
	maxOptionData = 64 << 10 // bytes; an option with more is refused

	allocationName = "base:allocation"
	allocationID   = 1
)

// request is a request's header.
type request struct {
	flags  uint16
	cmd    command
	cookie uint64
	offset uint64
	length uint32
}

// parseRequest reads a header of requestSize bytes; it is false if the magic is wrong.
func parseRequest(b []byte) (request, bool) {
	_ = b[requestSize-1]
	return request{
		flags:  binary.BigEndian.Uint16(b[4:]),
		cmd:    command(binary.BigEndian.Uint16(b[6:])),
		cookie: binary.BigEndian.Uint64(b[8:]),
		offset: binary.BigEndian.Uint64(b[16:]),
		length: binary.BigEndian.Uint32(b[24:]),
	}, binary.BigEndian.Uint32(b) == magicRequest
}

func appendRequest(b []byte, r request) []byte {
	b = binary.BigEndian.AppendUint32(b, magicRequest)
	b = binary.BigEndian.AppendUint16(b, r.flags)
	b = binary.BigEndian.AppendUint16(b, uint16(r.cmd))
	b = binary.BigEndian.AppendUint64(b, r.cookie)
	b = binary.BigEndian.AppendUint64(b, r.offset)
	return binary.BigEndian.AppendUint32(b, r.length)
}

func appendSimple(b []byte, cookie uint64, e errno) []byte {
	b = binary.BigEndian.AppendUint32(b, magicSimple)
	b = binary.BigEndian.AppendUint32(b, uint32(e))
	return binary.BigEndian.AppendUint64(b, cookie)
}

// appendChunk appends the header of a chunk whose payload has length bytes.
func appendChunk(b []byte, flags, kind uint16, cookie uint64, length int) []byte {
	b = binary.BigEndian.AppendUint32(b, magicStructured)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint64(b, cookie)
	return binary.BigEndian.AppendUint32(b, uint32(length))
}

// appendErrorChunk appends a whole error chunk, without a message.
func appendErrorChunk(b []byte, flags uint16, cookie uint64, e errno) []byte {
	b = appendChunk(b, flags, chunkError, cookie, 6)
	b = binary.BigEndian.AppendUint32(b, uint32(e))
	return binary.BigEndian.AppendUint16(b, 0)
}

// appendErrorOffsetChunk appends a whole error chunk that names the place, without a message.
func appendErrorOffsetChunk(b []byte, flags uint16, cookie uint64, e errno, off uint64) []byte {
	b = appendChunk(b, flags, chunkErrorOffset, cookie, 14)
	b = binary.BigEndian.AppendUint32(b, uint32(e))
	b = binary.BigEndian.AppendUint16(b, 0)
	return binary.BigEndian.AppendUint64(b, off)
}
