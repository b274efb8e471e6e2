package events

// Append encodes e behind dst and returns the extended slice.
func Append(dst []byte, h Header, e Event) ([]byte, error) { return dst, ErrMalformed }

// Decode reads one message.
func Decode(stream string, seq uint64, msg []byte) (Header, Event, error) {
	return Header{}, nil, &MessageError{stream, seq, ErrMalformed}
}

// DecodeHeader reads the header and kind of one message.
func DecodeHeader(stream string, seq uint64, msg []byte) (Header, Kind, error) {
	return Header{}, 0, &MessageError{stream, seq, ErrMalformed}
}
