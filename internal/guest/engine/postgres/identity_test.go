package postgres

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/guest/engine"
	"github.com/gotrove/gotrove/internal/guest/runtime/process"
)

// fakeData writes the two kinds of files that hold an identifier, with the
// checksum where a version has it.
func fakeData(t *testing.T, checksumAt int) string {
	t.Helper()
	dir := t.TempDir()
	control := make([]byte, controlSize)
	binary.NativeEndian.PutUint64(control, 1)
	for i := 8; i < checksumAt; i++ {
		control[i] = byte(i)
	}
	binary.NativeEndian.PutUint32(control[checksumAt:], crc32.Checksum(control[:checksumAt], castagnoli))
	segment := make([]byte, 64)
	binary.NativeEndian.PutUint16(segment[walInfoAt:], walLongHeader)
	binary.NativeEndian.PutUint64(segment[walIdentifierAt:], 1)
	for name, b := range map[string][]byte{
		"global/pg_control":                 control,
		"pg_wal/000000010000000000000001":   segment,
		"pg_wal/00000002.history":           []byte("x"),
		"pg_wal/000000010000000000000002":   make([]byte, 64),
		"pg_wal/archive_status/placeholder": nil,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestSetIdentity(t *testing.T) {
	t.Parallel()
	for _, at := range []int{288, 292, 296, 304} {
		dir := fakeData(t, at)
		if err := setIdentity(dir, 42); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, "global", "pg_control"))
		if err != nil {
			t.Fatal(err)
		}
		if binary.NativeEndian.Uint64(b) != 42 || len(b) != controlSize {
			t.Errorf("identifier %d, %d bytes", binary.NativeEndian.Uint64(b), len(b))
		}
		if got, err := checksumAt(b); got != at {
			t.Errorf("checksum at %d (%v), want %d", got, err, at)
		}
		w, err := os.ReadFile(filepath.Join(dir, "pg_wal", "000000010000000000000001"))
		if err != nil || binary.NativeEndian.Uint64(w[walIdentifierAt:]) != 42 {
			t.Errorf("segment %v, %v", w, err)
		}
		w, err = os.ReadFile(filepath.Join(dir, "pg_wal", "000000010000000000000002"))
		if err != nil || binary.NativeEndian.Uint64(w[walIdentifierAt:]) != 0 {
			t.Errorf("a segment not begun became %v, %v", w, err)
		}
	}
}

func TestSetIdentityOfDamaged(t *testing.T) {
	t.Parallel()
	dir := fakeData(t, 288)
	path := filepath.Join(dir, "global", "pg_control")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[100] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := setIdentity(dir, 42); err == nil {
		t.Error("a damaged pg_control was given an identifier")
	}
}

// TestIdentityOfCopies: two instances of one template are two systems, also to
// the server that reads the log back after a kill.
func TestIdentityOfCopies(t *testing.T) {
	if len(candidates()) == 0 {
		t.Skip("PostgreSQL is not installed: apt-get install postgresql")
	}
	templates := t.TempDir()
	seen := map[string]bool{}
	for n := range 2 {
		root, err := os.MkdirTemp("", "i")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(root) })
		set := engine.Settings{InstanceID: filepath.Base(root), DataDir: filepath.Join(root, "data"), ConfigDir: filepath.Join(root, "etc"),
			RunDir: filepath.Join(root, "run"), LogDir: root, TemplateDir: templates,
			Address: "127.31.0." + strconv.Itoa(n+1), Port: 20000 + os.Getpid()%10000, MemoryMB: 256}
		if err := os.Mkdir(set.RunDir, 0o700); err != nil {
			t.Fatal(err)
		}
		e := New(set)
		t.Cleanup(func() { _ = e.Close() })
		began := time.Now()
		if err := e.Initialise(t.Context()); err != nil {
			t.Fatal(err)
		}
		made := time.Since(began)
		r, err := process.New(process.Options{})
		if err != nil {
			t.Fatal(err)
		}
		spec, err := e.Command()
		if err != nil {
			t.Fatal(err)
		}
		h, err := r.Start(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Stop(context.WithoutCancel(t.Context()), h, spec.StopSignal, 10*time.Second) })
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for e.Ready(t.Context()) != nil {
			select {
			case <-tick.C:
			case <-time.After(time.Until(began.Add(time.Minute))):
				t.Fatalf("not ready\n%s", e.LogTail())
			}
		}
		t.Logf("data directory %s, serving %s", made.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
		pool, err := e.admin()
		if err != nil {
			t.Fatal(err)
		}
		var id string
		if err := pool.QueryRow(t.Context(), "SELECT system_identifier::text FROM pg_control_system()").Scan(&id); err != nil {
			t.Fatal(err)
		}
		if seen[id] {
			t.Errorf("two instances have the system identifier %s", id)
		}
		seen[id] = true
	}
}
