package archive

import (
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/farshore/farshore/internal/grid"
)

// codec turns chunks into records and back. Methods may be called concurrently.
type codec struct {
	*keys
	enc     *zstd.Encoder
	dec     *zstd.Decoder
	buffers sync.Pool // of *[]byte: one chunk compressed, or one record opened
}

func newCodec(k *keys, workers int) (*codec, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(workers),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(grid.Chunk), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(grid.Chunk), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	c := &codec{keys: k, enc: enc, dec: dec}
	c.buffers.New = func() any {
		b := make([]byte, 0, grid.Chunk+1024)
		return &b
	}
	return c, nil
}

// sealRecord appends the record of a chunk to dst.
func (c *codec) sealRecord(dst []byte, id ID, chunk []byte) ([]byte, entry) {
	e := entry{id: id, raw: uint32(len(chunk))}
	buf := c.buffers.Get().(*[]byte)
	defer c.buffers.Put(buf)
	*buf = c.enc.EncodeAll(chunk, (*buf)[:0])
	plain := chunk
	if len(*buf) < len(chunk) {
		plain, e.flags = *buf, flagZstd
	}
	n := len(dst)
	dst = c.seal(dst, plain, id[:])
	e.stored = uint32(len(dst) - n)
	return dst, e
}

// openRecord returns the chunk of a record, in dst if that is large enough and elsewhere if not, or the error why there is none. It is
// verified by its name.
func (c *codec) openRecord(dst, record []byte, e entry) ([]byte, error) {
	if len(record) != int(e.stored) {
		return nil, fmt.Errorf("a record has %d bytes, want %d", len(record), e.stored)
	}
	compressed := e.flags&flagZstd != 0
	opened := dst[:0]
	if compressed {
		buf := c.buffers.Get().(*[]byte)
		defer c.buffers.Put(buf)
		opened = (*buf)[:0]
	}
	plain, err := c.open(opened, record, e.id[:])
	if err != nil {
		return nil, fmt.Errorf("chunk %s: %w", e.id, err)
	}
	chunk := plain
	switch {
	case compressed:
		if chunk, err = c.dec.DecodeAll(plain, dst[:0]); err != nil {
			return nil, fmt.Errorf("chunk %s is altered: %w", e.id, err)
		}
	case c.aead == nil:
		chunk = append(dst[:0], plain...)
	}
	if len(chunk) != int(e.raw) || c.id(chunk) != e.id {
		return nil, fmt.Errorf("chunk %s is altered", e.id)
	}
	return chunk, nil
}

// close releases what the codec holds.
func (c *codec) close() {
	_ = c.enc.Close() // it has nothing to write
	c.dec.Close()
}
