package events

// NewFrame makes a frame of ops whose writes hold content, concatenated.
func NewFrame(ops []Op, content []byte, c Compression) (*Frame, error) { return nil, ErrMalformed }

// Content returns the content of the frame's writes.
func (f *Frame) Content(buf []byte) ([]byte, error) { return nil, ErrMalformed }
