package store_test

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// crashFile names the database of the child process that TestPowerCut kills.
const crashFile = "GOTROVE_STORE_CRASH_FILE"

func crash(path string) {
	fmt.Fprintln(os.Stderr, churn(path))
	os.Exit(1) // it is to be killed
}

// churn writes until it is killed: four writers that create, change and delete
// instances. It prints a line for every instance it was told is made or gone.
func churn(path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s, err := store.Open(ctx, store.Config{Path: path})
	if err != nil {
		return err
	}
	errs := make(chan error)
	for w := range 4 {
		go func() {
			for n := 0; ; n++ {
				id := fmt.Sprintf("%d-%d-%d", os.Getpid(), w, n)
				if err := life(ctx, s, id, n); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	return <-errs
}

func life(ctx context.Context, s *store.Store, id string, n int) error {
	message := func(method string) []store.OutboxRow {
		return []store.OutboxRow{{ID: id + method, Topic: "t", Method: method, Body: []byte("b")}}
	}
	err := s.CreateInstance(ctx, store.NewInstance{
		Instance: &trove.Instance{ID: id, Name: "n", TenantID: "t", Task: trove.TaskBuilding, VolumeSize: 3},
		Cost:     trove.QuotaDelta{trove.ResourceInstances: 1, trove.ResourceRAM: 7, trove.ResourceVolumes: 3},
		Outbox:   message("create"),
	})
	if err != nil {
		return err
	}
	fmt.Println("made", id)
	if err := s.SetTask(ctx, id, trove.TaskNone); err != nil {
		return err
	}
	if _, err := s.Heartbeat(ctx, id, store.Beat{Status: &trove.ServiceHealthy}); err != nil {
		return err
	}
	if n%2 == 0 {
		return nil
	}
	if err := s.BeginDelete(ctx, id, message("delete")); err != nil {
		return err
	}
	if err := s.FinishDelete(ctx, id); err != nil {
		return err
	}
	fmt.Println("gone", id)
	return nil
}

// TestPowerCut kills a process in the middle of its writes, again and again on
// the same database, and makes sure that what it reported is there, and nothing
// by halves.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "trove.db")
	if err := openAt(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	told := map[string]string{}
	for range 5 {
		cut(t, path, told, 20+rand.IntN(200))
		check(t, path, told)
	}
}

// cut runs a child until it has reported so many lines, kills it, and adds what
// it reported to told.
func cut(t *testing.T, path string, told map[string]string, lines int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, os.Args[0])
	c.Env = append(os.Environ(), crashFile+"="+path)
	c.Stderr = t.Output()
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewScanner(out)
	n := 0
	for in.Scan() {
		if n++; n == lines {
			if err := c.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		// A line may be cut as well.
		if what, id, ok := strings.Cut(in.Text(), " "); ok && strings.Count(id, "-") == 2 && n <= lines {
			told[id] = what
		}
	}
	_ = c.Wait() // killed
	if n < lines {
		t.Fatalf("the child ended after %d lines", n)
	}
}

func check(t *testing.T, path string, told map[string]string) {
	t.Helper()
	s := openAt(t, path)
	defer s.Close()
	refs, err := s.LiveInstances(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	live := map[string]bool{}
	for _, r := range refs {
		live[r.ID] = true
	}
	for id, what := range told {
		if what == "gone" && live[id] {
			t.Errorf("%s was deleted and is there", id)
		}
	}
	qs, err := s.Quotas(t.Context(), "t", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range qs {
		want := map[trove.Resource]int{trove.ResourceInstances: 1, trove.ResourceRAM: 7, trove.ResourceVolumes: 3}[q.Resource] * len(refs)
		if q.InUse != want {
			t.Errorf("%s: %d in use, want %d for %d instances", q.Resource, q.InUse, want, len(refs))
		}
	}

	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for what, query := range map[string]string{
		"instances without a status":           "SELECT COUNT(*) FROM instances i WHERE (SELECT COUNT(*) FROM service_statuses s WHERE s.instance_id = i.id) <> 1",
		"statuses without an instance":         "SELECT COUNT(*) FROM service_statuses s WHERE s.instance_id NOT IN (SELECT id FROM instances)",
		"live instances without their message": "SELECT COUNT(*) FROM instances i WHERE i.deleted = 0 AND (SELECT COUNT(*) FROM outbox o WHERE o.subject = i.id AND o.method = 'create') <> 1",
		"live instances without their charges": "SELECT COUNT(*) FROM instances i WHERE i.deleted = 0 AND (SELECT COUNT(*) FROM charges c WHERE c.instance_id = i.id) <> 3",
		"rows left of deleted instances":       "SELECT (SELECT COUNT(*) FROM outbox WHERE subject IN (SELECT id FROM instances WHERE deleted = 1)) + (SELECT COUNT(*) FROM charges WHERE instance_id IN (SELECT id FROM instances WHERE deleted = 1))",
		"broken references":                    "SELECT COUNT(*) FROM pragma_foreign_key_check",
	} {
		var n int
		if err := db.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
			t.Fatal(what, err)
		}
		if n != 0 {
			t.Errorf("%d %s", n, what)
		}
	}
	var integrity string
	if err := db.QueryRowContext(t.Context(), "PRAGMA integrity_check").Scan(&integrity); err != nil || integrity != "ok" {
		t.Errorf("integrity: %s, %v", integrity, err)
	}
	for id := range told {
		var n int
		if err := db.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM instances WHERE id = ?", id).Scan(&n); err != nil || n != 1 {
			t.Errorf("%s was reported and is not there (%v)", id, err)
		}
	}
}
