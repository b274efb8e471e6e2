package cdc

import "github.com/farshore/farshore/pkg/events"

// compressor compresses frames and gives up for a while on content that doesn't shrink: after each
// failure in a row it lets twice as many frames pass as before, up to maxPause.
type compressor struct {
	on    bool
	pause int // frames that the next failure skips
	skip  int // frames left to skip
	tried int // frames
}

const (
	maxPause  = 64
	worthwile = 16 // a frame has to shrink by one part in so many
)

func (c *compressor) frame(ops []events.Op, content []byte) (*events.Frame, error) {
	if !c.on || len(content) == 0 {
		return events.NewFrame(ops, content, events.Uncompressed)
	}
	if c.skip > 0 {
		c.skip--
		return events.NewFrame(ops, content, events.Uncompressed)
	}
	c.tried++
	f, err := events.NewFrame(ops, content, events.S2)
	if err != nil {
		return nil, err
	}
	if len(f.Payload) <= len(content)-len(content)/worthwile {
		c.pause = 0
		return f, nil
	}
	c.pause = min(max(1, 2*c.pause), maxPause)
	c.skip = c.pause
	return f, nil
}
