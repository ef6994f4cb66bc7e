package store

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// open makes a migrated store in a directory of the test's own.
func open(t *testing.T) *Store {
	t.Helper()
	s := openFile(t, filepath.Join(t.TempDir(), "trove.db"))
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func openFile(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{Path: path, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *Store) must(t *testing.T, query string, args ...any) {
	t.Helper()
	if err := s.tx(t.Context(), func(ctx context.Context, x *tx) error {
		_, err := x.exec(ctx, query, args...)
		return err
	}); err != nil {
		t.Fatal(query, err)
	}
}

func (s *Store) number(t *testing.T, query string, args ...any) (n int64) {
	t.Helper()
	if err := s.read(t.Context(), func(ctx context.Context, c session) error {
		_, err := c.one(ctx, query, args, &n)
		return err
	}); err != nil {
		t.Fatal(query, err)
	}
	return n
}

func (s *Store) make(t *testing.T) string {
	t.Helper()
	id := trove.NewID()
	if err := s.CreateInstance(t.Context(), NewInstance{Instance: &trove.Instance{ID: id, Name: "n", TenantID: "t", Task: trove.TaskNone}}); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestMigrateTwice(t *testing.T) {
	t.Parallel()
	s := open(t)
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := s.number(t, "SELECT COUNT(*) FROM alembic_version WHERE version_num = ?", headRevision); n != 1 {
		t.Error("a new database is not stamped with the original's revision")
	}
}

// A database that the original made is taken over as it is.
func TestMigrateOriginal(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	schema, err := os.ReadFile("migrations/sqlite/00001_trove_head.sql")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "trove.db")
	s := openFile(t, path)
	if _, err := s.writer.ExecContext(ctx, string(schema)); err != nil {
		t.Fatal(err)
	}
	// As Python writes: microseconds, NULLs where nothing was set.
	s.must(t, `INSERT INTO instances (id, name, created, updated, tenant_id, task_id, deleted, volume_size)
		VALUES ('a', 'old', '2024-05-06 07:08:09.000000', '2024-05-06 07:08:09.000000', 't', 1, 0, 5)`)
	s.must(t, "UPDATE alembic_version SET version_num = 'f90016d7baf8'")
	err = s.Migrate(ctx)
	if !trove.IsKind(err, trove.KindUnavailable) || !strings.Contains(err.Error(), "f90016d7baf8") || trove.ActionOf(err) == "" {
		t.Fatalf("an older schema: %v", err)
	}
	s.must(t, "UPDATE alembic_version SET version_num = ?", headRevision)
	for range 2 {
		if err := s.Migrate(ctx); err != nil {
			t.Fatal(err)
		}
	}
	i, err := s.Instance(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	if i.Name != "old" || !i.Created.Equal(time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)) || i.VolumeSize != 5 || i.Access != nil {
		t.Errorf("the original's instance reads as %+v", i)
	}
	s.must(t, "INSERT INTO quota_usages (id, tenant_id, resource, in_use, reserved) VALUES ('q', 't', 'volumes', 4, 0)")
	if err := s.FinishDelete(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if n := s.number(t, "SELECT in_use FROM quota_usages WHERE id = 'q'"); n != 0 {
		t.Errorf("%d in use: it must not go below nothing", n)
	}
}

func TestFileModes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "trove.db")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s := openFile(t, path)
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.make(t)
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 3 {
		t.Errorf("only %d files: no log of writes?", len(files))
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", f.Name(), info.Mode(), err)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	junk := filepath.Join(dir, "junk")
	if err := os.WriteFile(junk, []byte(strings.Repeat("no database ", 500)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"no directory": filepath.Join(dir, "none", "trove.db"), "a directory": dir, "not a database": junk,
	} {
		s, err := Open(t.Context(), Config{Path: path})
		if err == nil {
			t.Errorf("%s: opened", name)
			_ = s.Close()
			continue
		}
		if !trove.IsKind(err, trove.KindUnavailable) || !strings.Contains(err.Error(), path) || trove.ActionOf(err) == "" {
			t.Errorf("%s: %v (%s)", name, err, trove.ActionOf(err))
		}
	}
}

// What the driver says is for logs only.
func TestNoDriverText(t *testing.T) {
	t.Parallel()
	s := open(t)
	err := s.tx(t.Context(), func(ctx context.Context, x *tx) error {
		_, err := x.exec(ctx, "SELECT nonsense FROM nowhere")
		return err
	})
	if !trove.IsKind(err, trove.KindInternal) || strings.Contains(err.Error(), "nowhere") {
		t.Errorf("nonsense: %v", err)
	}
	// A disk without room for one more page.
	s.must(t, "CREATE TABLE filler (x TEXT)")
	if _, err := s.writer.ExecContext(t.Context(), "PRAGMA max_page_count = 1"); err != nil {
		t.Fatal(err)
	}
	err = s.tx(t.Context(), func(ctx context.Context, x *tx) error {
		_, err := x.exec(ctx, "INSERT INTO filler VALUES (?)", strings.Repeat("x", 1<<20))
		return err
	})
	if !trove.IsKind(err, trove.KindUnavailable) || !strings.Contains(err.Error(), "disk is full") || trove.ActionOf(err) == "" {
		t.Errorf("a full disk: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Instance(t.Context(), "x"); !trove.IsKind(err, trove.KindUnavailable) || strings.Contains(err.Error(), "sql:") {
		t.Errorf("a closed database: %v", err)
	}
}

// Two processes may write to one file: the second waits its turn.
func TestBusy(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "trove.db")
	one, two := openFile(t, path), openFile(t, path)
	if err := one.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	held, release := make(chan struct{}), make(chan struct{})
	done := make(chan error)
	go func() {
		done <- one.tx(t.Context(), func(context.Context, *tx) error { close(held); <-release; return nil })
	}()
	<-held
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	if err := two.RenameInstance(ctx, "x", "y"); !trove.IsKind(err, trove.KindUnavailable) {
		t.Errorf("a database that stays locked: %v", err)
	}
	if _, err := two.LiveInstances(t.Context()); err != nil {
		t.Errorf("reading beside a writer: %v", err)
	}
	time.AfterFunc(time.Second, func() { close(release) }) // longer than the driver waits
	if err := two.RenameInstance(t.Context(), "x", "y"); !trove.IsKind(err, trove.KindNotFound) {
		t.Errorf("after waiting: %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A change of status and the wish to delete reach the work of the instance, and
// no other.
func TestWorkIsWoken(t *testing.T) {
	t.Parallel()
	s := open(t)
	id, other := s.make(t), s.make(t)
	far := time.Now().Add(time.Hour).UnixMicro()
	for _, w := range []struct{ id, kind, subject, outcome string }{
		{"w1", "create_instance", id, "running"}, {"w2", "delete_instance", id, "pending"},
		{"w3", "restart", id, "done"}, {"w4", "restart", other, "running"},
	} {
		s.must(t, "INSERT INTO work (id, kind, subject, step, state, run_at, outcome, created) VALUES (?, ?, ?, '', '', ?, ?, 0)",
			w.id, w.kind, w.subject, far, w.outcome)
	}
	woken := func() (out string) {
		for _, w := range []string{"w1", "w2", "w3", "w4"} {
			if s.number(t, "SELECT wakes FROM work WHERE id = ?", w) > 0 {
				out += w
				if at := s.number(t, "SELECT run_at FROM work WHERE id = ?", w); time.Since(time.UnixMicro(at)).Abs() > time.Minute {
					t.Errorf("%s runs at %v, want now", w, time.UnixMicro(at))
				}
			}
		}
		return out
	}
	changed, cancel := s.WorkChanged()
	defer cancel()
	hinted := func() bool {
		select {
		case <-changed:
			return true
		default:
			return false
		}
	}
	beat := func(st trove.ServiceStatus) {
		if _, err := s.Heartbeat(t.Context(), id, Beat{Status: &st}); err != nil {
			t.Fatal(err)
		}
	}
	beat(trove.ServiceNew)
	if w := woken(); w != "" || hinted() {
		t.Errorf("%q was woken by no change", w)
	}
	beat(trove.ServiceHealthy)
	if w := woken(); w != "w1w2" || !hinted() {
		t.Errorf("%q was woken by a heartbeat", w)
	}
	s.must(t, "UPDATE work SET wakes = 0")
	// A deletion is being worked on: no second message, and it is not cancelled.
	if err := s.BeginDelete(t.Context(), id, []OutboxRow{{ID: "m", Topic: "t", Method: "delete_instance", Body: []byte("b")}}); err != nil {
		t.Fatal(err)
	}
	if w := woken(); w != "w1" || !hinted() {
		t.Errorf("%q was woken by the deletion", w)
	}
	if n := s.number(t, "SELECT COUNT(*) FROM work WHERE wish = 'cancel'"); n != 1 {
		t.Errorf("%d works are to be cancelled, want 1", n)
	}
	if n := s.number(t, "SELECT COUNT(*) FROM outbox"); n != 0 {
		t.Errorf("%d messages, want none", n)
	}
}

func TestBackupRunning(t *testing.T) {
	t.Parallel()
	s := open(t)
	id := s.make(t)
	s.must(t, "INSERT INTO backups (id, name, state, instance_id, deleted) VALUES ('b', 'b', 'COMPLETED', ?, 0)", id)
	running := func() bool {
		i, err := s.Instance(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return i.BackupRunning
	}
	if running() {
		t.Error("a completed backup runs")
	}
	s.must(t, "UPDATE backups SET state = 'BUILDING'")
	if !running() {
		t.Error("a running backup does not run")
	}
	if err := s.ResetStatus(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if running() {
		t.Error("it runs on after a reset")
	}
}

func TestVersionMetadata(t *testing.T) {
	t.Parallel()
	s := open(t)
	id, err := s.EnsureVersion(t.Context(), trove.DatastoreVersion{DatastoreName: "d", Name: "1"}, true)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range []struct {
		key, value string
		deleted    bool
	}{{"flavor", "b", false}, {"flavor", "a", false}, {"flavor", "c", true}, {"volume_type", "x", false}} {
		s.must(t, `INSERT INTO datastore_version_metadata (id, datastore_version_id, "key", value, created, deleted) VALUES (?, ?, ?, ?, ?, ?)`,
			i, id, m.key, m.value, s.now(), m.deleted)
	}
	got, err := s.VersionMetadata(t.Context(), id)
	if err != nil || len(got) != 2 || strings.Join(got[BindFlavor], " ") != "a b" || strings.Join(got[BindVolumeType], " ") != "x" {
		t.Errorf("values are %v, %v", got, err)
	}
}

func TestDatabaseClock(t *testing.T) {
	t.Parallel()
	s := open(t)
	before := time.Now().Add(-time.Millisecond)
	now := time.UnixMicro(s.number(t, "SELECT "+s.d.nowMicros))
	if now.Before(before) || now.After(time.Now().Add(time.Millisecond)) {
		t.Errorf("the database's clock says %v, it is %v", now, time.Now())
	}
}

// TestEventsWakeTheirInstance: what is told about one instance wakes neither
// those who watch another nor those who look for work.
func TestEventsWakeTheirInstance(t *testing.T) {
	t.Parallel()
	s := open(t)
	watch := map[string]<-chan struct{}{}
	for _, id := range []string{"a", "b"} {
		c, cancel := s.EventsAdded(id)
		defer cancel()
		watch[id] = c
	}
	due, cancel := s.WorkChanged()
	defer cancel()
	watch["due"] = due
	want := func(what string, woken ...string) {
		t.Helper()
		for name, c := range watch {
			got := false
			select {
			case <-c:
				got = true
			default:
			}
			if got != slices.Contains(woken, name) {
				t.Errorf("%s: woken is %v of %s", what, got, name)
			}
		}
	}
	if _, err := s.AcceptWork(t.Context(), NewWork{ID: "w", Kind: "k", Subject: "a", RequestID: "r", Step: "s", State: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	want("accepted", "a", "due")
	w, err := s.LeaseWork(t.Context(), "me", []string{"k"}, time.Minute)
	if err != nil || w == nil {
		t.Fatal(w, err)
	}
	want("leased", "a")
	if err := s.RecordStage(t.Context(), "a", "half", nil); err != nil {
		t.Fatal(err)
	}
	want("stage", "a")
	u := WorkUpdate{ID: "w", Owner: "me", Version: w.Version, Step: "t", State: []byte("{}"), Lease: time.Minute,
		Events: []trove.OperationEvent{{OperationID: "w", InstanceID: "a", Kind: "k", Step: "t", State: trove.OperationRunning}}}
	saved, err := s.SaveWork(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	want("next step", "a")
	u.Version, u.Release, u.Events = saved.Version, true, nil
	if _, err := s.SaveWork(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	want("released", "due")
}
