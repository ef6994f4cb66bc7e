package postgres

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"time"
)

// A server knows its own write-ahead log by the system identifier that initdb
// gave the data directory. Copies of a template would all have the same one,
// and replay one another's log. It stands in global/pg_control, as the first 8
// bytes, under a checksum; and in the long header of each log segment.

const (
	controlSize = 8192
	// The checksum of pg_control follows its last member, whose place differs
	// from version to version: it is where the checksum of all before stands.
	controlFrom, controlTo = 128, 1024

	walInfoAt       = 2
	walLongHeader   = 0x0002
	walIdentifierAt = 24
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// newIdentity makes an identifier as initdb does, the time first; where initdb
// has the pid there is randomness, since copies are made at once.
func newIdentity() uint64 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return uint64(time.Now().Unix())<<32 | uint64(binary.NativeEndian.Uint32(b[:]))
}

// setIdentity gives a data directory that was shut down cleanly another
// identifier, for good.
func setIdentity(dir string, id uint64) error {
	if err := setControlIdentity(filepath.Join(dir, "global", "pg_control"), id); err != nil {
		return err
	}
	segments, err := filepath.Glob(filepath.Join(dir, "pg_wal", "[0-9A-F]*"))
	if err != nil {
		return err
	}
	for _, s := range segments {
		if len(filepath.Base(s)) != 24 {
			continue // .history and the like
		}
		if err := setSegmentIdentity(s, id); err != nil {
			return err
		}
	}
	return nil
}

func setControlIdentity(path string, id uint64) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	at, err := checksumAt(b)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	binary.NativeEndian.PutUint64(b, id)
	binary.NativeEndian.PutUint32(b[at:], crc32.Checksum(b[:at], castagnoli))
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b[:at+4], 0)
	return errors.Join(err, f.Sync(), f.Close())
}

func checksumAt(control []byte) (int, error) {
	if len(control) != controlSize {
		return 0, fmt.Errorf("it has %d bytes, not %d", len(control), controlSize)
	}
	for at := controlFrom; at < controlTo; at += 4 {
		if binary.NativeEndian.Uint32(control[at:]) == crc32.Checksum(control[:at], castagnoli) {
			return at, nil
		}
	}
	return 0, errors.New("its checksum was not found: it is damaged, or of a version that is not known")
}

func setSegmentIdentity(path string, id uint64) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	head := make([]byte, walIdentifierAt+8)
	if _, err := io.ReadFull(f, head); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if binary.NativeEndian.Uint16(head[walInfoAt:])&walLongHeader == 0 {
		return nil // not begun
	}
	binary.NativeEndian.PutUint64(head[walIdentifierAt:], id)
	if _, err := f.WriteAt(head[walIdentifierAt:], walIdentifierAt); err != nil {
		return err
	}
	return f.Sync()
}
