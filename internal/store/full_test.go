package store_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// A store on a disk that is full goes on with the room it holds, then with what
// is made for it, then says what is the matter, and works again when there is
// room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=32m"); err != nil {
		t.Skipf("this machine does not let us mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	r, err := durable.OpenReserve(filepath.Join(dir, "reserve"), 4<<20)
	if err != nil {
		t.Fatal(err)
	}
	if whole, err := r.Fill(); !whole || err != nil {
		t.Fatal(whole, err)
	}
	ctx := context.Background()
	s, err := store.Open(ctx, store.Config{Path: filepath.Join(dir, "trove.db"), MakeRoom: r.Release})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	var size int64
	fill := func() {
		t.Helper()
		free, err := durable.FreeSpace(dir)
		if err != nil || free == 0 {
			t.Fatalf("%d bytes are free, %v", free, err)
		}
		size += free
		if err := syscall.Fallocate(int(filler.Fd()), 0, 0, size); err != nil {
			t.Fatal(err)
		}
	}
	body := []byte(strings.Repeat("x", 64<<10))
	n := 0
	write := func() error {
		n++
		return s.InsertOutbox(ctx, store.OutboxRow{ID: fmt.Sprint("m", n), Topic: "t", Method: "m", Body: body})
	}
	fill()
	var held int // writes before anything was given up
	for ; r.Missing() == 0; held++ {
		if held > 10000 {
			t.Fatal("the disk does not get full")
		}
		if err := write(); err != nil {
			t.Fatal(err)
		}
	}
	if held < 16 {
		t.Errorf("the database held room for %d writes", held)
	}
	for err = nil; err == nil; err = write() {
		if n > 20000 {
			t.Fatal("the reserve does not come to an end")
		}
	}
	if !trove.IsKind(err, trove.KindUnavailable) || !strings.Contains(err.Error(), "disk is full") || trove.ActionOf(err) == "" {
		t.Errorf("without any room: %v", err)
	}
	if r.Missing() != 4<<20 {
		t.Errorf("%d bytes of the reserve are left", 4<<20-r.Missing())
	}
	if err := filler.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if err := write(); err != nil {
		t.Errorf("with room again: %v", err)
	}
	rows, err := s.Outbox(ctx, 0, 1)
	if err != nil || len(rows) != 1 || len(rows[0].Body) != len(body) {
		t.Errorf("what was written: %d rows, %v", len(rows), err)
	}
}
