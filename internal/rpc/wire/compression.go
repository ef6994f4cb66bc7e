package wire

import (
	"bytes"
	"compress/bzip2"
	"compress/zlib"
	"fmt"
	"io"
)

// CompressionHeader is the message header that names how a body is compressed,
// as the option kombu_compression of its sender has it.
const CompressionHeader = "compression"

// Decompress gives the body that was compressed as header says, which is empty
// for one that was not. What would exceed limit bytes (0: DefaultMaxBody) is
// ErrTooLarge, however little came.
func Decompress(header string, body []byte, limit int) ([]byte, error) {
	if limit <= 0 {
		limit = DefaultMaxBody
	}
	var r io.Reader
	switch header {
	case "":
		return body, nil
	case "application/x-gzip": // so called, and the form of zlib
		z, err := zlib.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, fmt.Errorf("%w: compressed: %w", ErrForm, err)
		}
		r = z
	case "application/x-bz2":
		r = bzip2.NewReader(bytes.NewReader(body))
	default:
		return nil, fmt.Errorf("%w: compressed as %.40q, which is not gzip or bz2", ErrForm, header)
	}
	out, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: compressed: %w", ErrForm, err)
	case len(out) > limit:
		return nil, fmt.Errorf("%w: more than %d bytes uncompressed", ErrTooLarge, limit)
	}
	return out, nil
}
