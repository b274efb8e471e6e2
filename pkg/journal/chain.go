package journal

import (
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// Headers of a publish that JetStream checks before it stores a message.
const (
	expectedStream       = "Nats-Expected-Stream"
	expectedLastSequence = "Nats-Expected-Last-Sequence"
	expectedLastMsgID    = "Nats-Expected-Last-Msg-Id"
)

// chain binds each message of a tenure to the one before it. The server checks two things: the number
// of the message before, and whose tenure it is. The number alone is no fence: when another
// writer appends n messages, those that the older one still has in flight fit by number again from
// the n-th on.
//
// A stream with one replica checks the tenure by message ids: each message names its predecessor's id, which
// only its own writer knows. With more replicas that would wedge the servers: a replica that
// catches up by a snapshot doesn't learn the last id, refuses the next message that names it, and
// stops (nats-server 2.15). There the tenure is the stream's subject: a takeover gives the stream a new
// one, and what is sent to the old subject reaches no stream any more.
type chain struct {
	stream  string
	subject string // where the messages are sent
	nonce   string // of this tenure and no other
	ids     bool   // messages name their predecessor's id
}

func newChain(id StreamID) chain {
	return chain{stream: id.Name(), subject: id.Subject(), nonce: nuid.Next()}
}

// fit chooses how the tenure is checked on a stream of this configuration.
func (c *chain) fit(id StreamID, config jetstream.StreamConfig) {
	c.ids = config.Replicas <= 1
	c.subject = id.Subject()
	if !c.ids {
		c.subject += tenureMark + c.nonce
	}
}

// holds tells whether the stream takes messages on this tenure's subject. A stream that was scaled from
// several replicas to one keeps the last tenure's until somebody takes it over.
func (c *chain) holds(config jetstream.StreamConfig) bool {
	return len(config.Subjects) == 1 && config.Subjects[0] == c.subject
}

// message makes the message for sequence seq.
func (c *chain) message(data []byte, seq uint64, reply string) *nats.Msg {
	m := c.first(data, seq, reply)
	if c.ids {
		m.Header[expectedLastMsgID] = []string{c.msgID(seq - 1)}
	}
	return m
}

// first makes the tenure's first message: its predecessor is somebody else's.
func (c *chain) first(data []byte, seq uint64, reply string) *nats.Msg {
	m := &nats.Msg{Subject: c.subject, Reply: reply, Data: data, Header: nats.Header{
		expectedStream:       {c.stream},
		expectedLastSequence: {formatSeq(seq - 1)},
	}}
	if c.ids {
		m.Header[nats.MsgIdHdr] = []string{c.msgID(seq)}
	}
	return m
}

func (c *chain) msgID(seq uint64) string { return c.nonce + "." + formatSeq(seq) }
