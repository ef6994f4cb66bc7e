package wire_test

import (
	"encoding/base64"
	"errors"
	"testing"

	"github.com/gotrove/gotrove/internal/rpc/wire"
)

// As Python's kombu writes them: zlib.compress and bz2.compress of b"a" * 1000.
const (
	gzipped = "eJxLTBwFo2AUDHcAAPnYevg="
	bzipped = "QlpoOTFBWSZTWUncT2MAAAGBAaAAAIAACCAAIKptQZi6g8XckU4UJBJ3E9jA"
)

func TestDecompress(t *testing.T) {
	for name, c := range map[string]struct {
		header, body string
		limit        int
		want         error
	}{
		"gzip":    {"application/x-gzip", gzipped, 1000, nil},
		"bz2":     {"application/x-bz2", bzipped, 1000, nil},
		"bomb":    {"application/x-gzip", gzipped, 999, wire.ErrTooLarge},
		"bomb 2":  {"application/x-bz2", bzipped, 999, wire.ErrTooLarge},
		"rubbish": {"application/x-gzip", "AAAA", 1000, wire.ErrForm},
		"cut":     {"application/x-gzip", gzipped[:12], 1000, wire.ErrForm},
		"cut 2":   {"application/x-bz2", bzipped[:40], 1000, wire.ErrForm},
		"unknown": {"application/x-lzma", gzipped, 1000, wire.ErrForm},
	} {
		t.Run(name, func(t *testing.T) {
			body, err := base64.StdEncoding.DecodeString(c.body)
			if err != nil {
				t.Fatal(err)
			}
			got, err := wire.Decompress(c.header, body, c.limit)
			if !errors.Is(err, c.want) || c.want == nil && len(got) != 1000 {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	if got, err := wire.Decompress("", []byte("plain"), 1); err != nil || string(got) != "plain" {
		t.Error(string(got), err)
	}
}
