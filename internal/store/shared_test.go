package store

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// sharing is a shared with a table to write to.
func sharing(t *testing.T) *shared {
	writer, reader, err := openSQLite(filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(writer.Close(), reader.Close()); err != nil {
			t.Error(err)
		}
	})
	if _, err := writer.ExecContext(t.Context(), "CREATE TABLE t (n INTEGER PRIMARY KEY)"); err != nil {
		t.Fatal(err)
	}
	return &shared{db: writer}
}

func insert(ctx context.Context, tx *sql.Tx, n int) error {
	_, err := tx.ExecContext(ctx, "INSERT INTO t (n) VALUES (?)", n)
	return err
}

func (c *shared) numbers(t *testing.T) (all []int) {
	t.Helper()
	rows, err := c.db.QueryContext(t.Context(), "SELECT n FROM t ORDER BY n")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var n int
		if err := rows.Scan(&n); err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// queue returns when n wait for the turn.
func (c *shared) queue(t *testing.T, n int) {
	t.Helper()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for end := time.Now().Add(30 * time.Second); ; <-look.C {
		c.mu.Lock()
		waiting := len(c.waiting)
		c.mu.Unlock()
		if waiting == n {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d wait for the turn, not %d", waiting, n)
		}
	}
}

// together runs members so that all of them are in one batch, in their order,
// and gives their errors.
func (c *shared) together(ctx context.Context, t *testing.T, members ...func(context.Context, *sql.Tx) error) []error {
	t.Helper()
	errs := make([]error, len(members))
	var all sync.WaitGroup
	all.Go(func() {
		_, errs[0] = c.do(ctx, false, func(within context.Context, tx *sql.Tx) error {
			for i, f := range members[1:] {
				all.Go(func() { _, errs[i+1] = c.do(ctx, false, f) })
				c.queue(t, i+1)
			}
			return members[0](within, tx)
		})
	})
	all.Wait()
	return errs
}

func adds(n int) func(context.Context, *sql.Tx) error {
	return func(ctx context.Context, tx *sql.Tx) error { return insert(ctx, tx, n) }
}

func TestSharedCommit(t *testing.T) {
	errOwn := errors.New("own")
	then := func(n int, err error) func(context.Context, *sql.Tx) error {
		return func(ctx context.Context, tx *sql.Tx) error { return errors.Join(insert(ctx, tx, n), err) }
	}
	// What the engine does by itself when the disk is full.
	undoes := func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "ROLLBACK")
		return errors.Join(err, errOwn)
	}
	swallows := func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "ROLLBACK")
		return err
	}
	for _, c := range []struct {
		name    string
		members []func(context.Context, *sql.Tx) error
		errs    []error
		want    []int
	}{
		{"all", []func(context.Context, *sql.Tx) error{adds(1), adds(2), adds(3)}, []error{nil, nil, nil}, []int{1, 2, 3}},
		{"the first fails", []func(context.Context, *sql.Tx) error{then(1, errOwn), adds(2), adds(3)}, []error{errOwn, nil, nil}, []int{2, 3}},
		{"one between fails", []func(context.Context, *sql.Tx) error{adds(1), then(2, errOwn), adds(3)}, []error{nil, errOwn, nil}, []int{1, 3}},
		{"the last fails", []func(context.Context, *sql.Tx) error{adds(1), adds(2), then(3, errOwn)}, []error{nil, nil, errOwn}, []int{1, 2}},
		{"one undoes all", []func(context.Context, *sql.Tx) error{adds(1), undoes, adds(3)}, []error{errTorn, errTorn, nil}, []int{3}},
		{"one undoes all and does not say so", []func(context.Context, *sql.Tx) error{adds(1), swallows, adds(3)}, []error{errTorn, errTorn, nil}, []int{3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := sharing(t)
			for i, err := range s.together(t.Context(), t, c.members...) {
				if !errors.Is(err, c.errs[i]) {
					t.Errorf("transaction %d: %v, want %v", i+1, err, c.errs[i])
				}
			}
			if got := s.numbers(t); !slices.Equal(got, c.want) {
				t.Errorf("committed %v, want %v", got, c.want)
			}
		})
	}
}

// TestSharedCommitIsOne: those that wait together have one transaction, and it
// is committed when the first of them returns.
func TestSharedCommitIsOne(t *testing.T) {
	s := sharing(t)
	var used []*sql.Tx
	var members []func(context.Context, *sql.Tx) error
	for n := range 8 {
		members = append(members, func(ctx context.Context, tx *sql.Tx) error {
			used = append(used, tx)
			return insert(ctx, tx, n)
		})
	}
	for _, err := range s.together(t.Context(), t, members...) {
		if err != nil {
			t.Error(err)
		}
	}
	if len(used) != 8 || len(slices.Compact(used)) != 1 {
		t.Errorf("eight that waited together had %d transactions, want 1", len(slices.Compact(used)))
	}
}

// TestSharedCommitLeft: who gives up waiting leaves nobody without a COMMIT.
func TestSharedCommitLeft(t *testing.T) {
	s := sharing(t)
	ctx, cancel := context.WithCancel(t.Context())
	var left, last error
	var all sync.WaitGroup
	if _, err := s.do(t.Context(), false, func(c context.Context, tx *sql.Tx) error {
		all.Go(func() { _, left = s.do(ctx, false, adds(2)) })
		s.queue(t, 1)
		all.Go(func() { _, last = s.do(ctx, true, adds(3)) })
		s.queue(t, 2)
		cancel()
		return insert(c, tx, 1)
	}); err != nil {
		t.Errorf("the first: %v", err)
	}
	all.Wait()
	for i, err := range []error{left, last} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("transaction %d, whose context ended while it waited: %v", i+2, err)
		}
	}
	if got := s.numbers(t); !slices.Equal(got, []int{1}) {
		t.Errorf("committed %v, want 1", got)
	}
	if _, err := s.do(t.Context(), false, adds(4)); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestSharedCommitPanic: a panic takes the batch with it, and nothing else.
func TestSharedCommitPanic(t *testing.T) {
	s := sharing(t)
	var first, last error
	var panicked any
	var all sync.WaitGroup
	all.Go(func() {
		_, first = s.do(t.Context(), false, func(ctx context.Context, tx *sql.Tx) error {
			all.Go(func() {
				defer func() { panicked = recover() }()
				_, _ = s.do(t.Context(), false, func(ctx context.Context, tx *sql.Tx) error {
					err := insert(ctx, tx, 2)
					panic(errors.Join(err, errors.New("on purpose")))
				})
			})
			s.queue(t, 1)
			all.Go(func() { _, last = s.do(t.Context(), false, adds(3)) })
			s.queue(t, 2)
			return insert(ctx, tx, 1)
		})
	})
	all.Wait()
	if !errors.Is(first, errTorn) || last != nil || panicked == nil {
		t.Errorf("before the panic %v, want %v; after it %v; the panic %v", first, errTorn, last, panicked)
	}
	if got := s.numbers(t); !slices.Equal(got, []int{3}) {
		t.Errorf("committed %v, want 3", got)
	}
}

// TestSharedCommitCrowd: many at once, of which some fail, and all that returned
// nil is there.
func TestSharedCommitCrowd(t *testing.T) {
	s := sharing(t)
	errOwn := errors.New("own")
	var all sync.WaitGroup
	want := make([]bool, 400)
	for g := range 8 {
		all.Go(func() {
			for i := range 50 {
				n := 50*g + i
				fails := n%7 == 0
				_, err := s.do(t.Context(), n%11 == 0, func(ctx context.Context, tx *sql.Tx) error {
					if err := insert(ctx, tx, n); err != nil {
						return err
					}
					if fails {
						return errOwn
					}
					return nil
				})
				if fails != errors.Is(err, errOwn) || !fails && err != nil {
					t.Errorf("transaction %d: %v", n, err)
				}
				want[n] = !fails
			}
		})
	}
	all.Wait()
	got := s.numbers(t)
	var expected []int
	for n, is := range want {
		if is {
			expected = append(expected, n)
		}
	}
	if !slices.Equal(got, expected) {
		t.Errorf("committed %v, want %v", got, expected)
	}
}
