package store_test

import (
	"context"
	"database/sql"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/store/dbtest"
	"github.com/gotrove/gotrove/internal/trove"
)

// address is one that leads to a server now and may lead to another later.
type address struct {
	net.Listener
	to    atomic.Pointer[string]
	taken atomic.Int64 // connections
}

func newAddress(t *testing.T, server string) *address {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	a := &address{Listener: l}
	a.to.Store(&server)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			a.taken.Add(1)
			go a.pass(c)
		}
	}()
	return a
}

func (a *address) pass(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", *a.to.Load())
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		defer client.Close()
		_, _ = io.Copy(client, server)
	}()
	_, _ = io.Copy(server, client)
}

// of is a server's URL with this address.
func (a *address) of(url string, server *dbtest.Server) string {
	return strings.Replace(url, server.Addr(), a.Addr().String(), 1)
}

// holding counts the instances of a tenant.
func holding(t *testing.T, db *sql.DB) (n int) {
	t.Helper()
	must(t, db.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM instances").Scan(&n))
	return n
}

// TestFailover: the server behind the address was demoted and another took its
// place. Connections to the first live on, and no request fails of it.
func TestFailover(t *testing.T) {
	t.Parallel()
	for e, demote := range map[dbtest.Engine][]string{
		dbtest.MariaDB:    {"SET GLOBAL read_only = 1"},
		dbtest.PostgreSQL: {"ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"},
	} {
		t.Run(string(e), func(t *testing.T) {
			t.Parallel()
			ctx := within(t)
			first, second := dbtest.Start(t, e), dbtest.Start(t, e)
			url, other := first.Database(t), second.Database(t)
			name := url[strings.LastIndex(url, "/")+1:]
			must(t, openURL(t, other).Migrate(ctx))
			a := newAddress(t, first.Addr())
			s := openURL(t, a.of(url, first))
			must(t, s.Migrate(ctx))
			create := func() error {
				n := newInstance("t")
				n.Limits = nil
				return s.CreateInstance(ctx, n)
			}
			var writers sync.WaitGroup
			for range 6 {
				writers.Go(func() { must(t, create()) })
			}
			writers.Wait()
			for _, statement := range demote {
				_, err := first.Admin(t).ExecContext(ctx, statement)
				must(t, err)
			}
			// As long as the address leads there, it is told what is wrong.
			for {
				err := create()
				if err != nil {
					if !trove.IsKind(err, trove.KindUnavailable) || !strings.Contains(err.Error(), "only be read") {
						t.Fatal(err)
					}
					break
				}
				must(t, ctx.Err()) // PostgreSQL's sessions hear of it a little later
			}
			server := second.Addr()
			a.to.Store(&server)
			for range 6 {
				writers.Go(func() {
					if err := create(); err != nil {
						t.Error(err)
					}
				})
			}
			writers.Wait()
			if n := holding(t, second.AdminOf(t, name)); n != 6 {
				t.Errorf("the new server has %d instances", n)
			}
		})
	}
}

// TestNoConnectionLeft: others have all connections of a server, and give one
// back a little later.
func TestNoConnectionLeft(t *testing.T) {
	t.Parallel()
	for _, e := range []dbtest.Engine{dbtest.MariaDB, dbtest.PostgreSQL} {
		t.Run(string(e), func(t *testing.T) {
			t.Parallel()
			ctx := within(t)
			server := dbtest.Start(t, e)
			url := server.Database(t)
			must(t, openURL(t, url).Migrate(ctx))
			a := newAddress(t, server.Addr())
			limit, lift := "SET GLOBAL max_connections = 10", "SET GLOBAL max_connections = 100"
			admin, err := server.Admin(t).Conn(ctx)
			must(t, err)
			defer admin.Close()
			through := a.of(url, server)
			if e == dbtest.PostgreSQL { // whose owner of the database has no limit here
				limit, lift = "ALTER ROLE limited CONNECTION LIMIT 1", "ALTER ROLE limited CONNECTION LIMIT -1"
				_, err := admin.ExecContext(ctx, "CREATE ROLE limited LOGIN PASSWORD 'limited' IN ROLE "+dbtest.User)
				must(t, err)
				through = "postgresql://limited:limited" + through[strings.LastIndex(through, "@"):]
			}
			s := openURL(t, through)
			_, err = admin.ExecContext(ctx, limit)
			must(t, err)
			for what, call := range map[string]func(context.Context) error{
				"a transaction": func(ctx context.Context) error {
					n := newInstance("t")
					n.Limits = nil
					return s.CreateInstance(ctx, n)
				},
				"a read": func(ctx context.Context) error { _, err := s.LiveInstances(ctx); return err },
			} {
				release := store.HoldAllForTest(ctx, s)
				defer release()
				ended := make(chan error, 1)
				before := a.taken.Load()
				go func() { ended <- call(ctx) }()
				for a.taken.Load() < before+3 { // refused twice
					select {
					case err := <-ended:
						t.Fatalf("%s did not wait: %v", what, err)
					case <-ctx.Done():
						t.Fatal("it did not try again")
					case <-time.After(time.Millisecond):
					}
				}
				_, err := admin.ExecContext(ctx, lift)
				must(t, err)
				if err := <-ended; err != nil {
					t.Errorf("%s: %v", what, err)
				}
				_, err = admin.ExecContext(ctx, limit)
				must(t, err)
			}
		})
	}
}
