package store_test

import (
	"bytes"
	"context"
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

// swallower stands between a store and its server. Armed, it lets the next
// COMMIT through, but its answer is lost with the connection.
type swallower struct {
	net.Listener
	server    string
	armed     atomic.Bool
	swallowed atomic.Int64
}

func newSwallower(t *testing.T, server string) *swallower {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	s := &swallower{Listener: l, server: server}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.pass(c)
		}
	}()
	return s
}

func (s *swallower) pass(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", s.server)
	if err != nil {
		return
	}
	defer server.Close()
	var drop atomic.Bool
	go func() { // answers
		defer client.Close()
		defer server.Close()
		b := make([]byte, 64<<10)
		for {
			n, err := server.Read(b)
			if err != nil || drop.Load() {
				return
			}
			if _, err := client.Write(b[:n]); err != nil {
				return
			}
		}
	}()
	b := make([]byte, 64<<10)
	for {
		n, err := client.Read(b)
		if err != nil {
			return
		}
		if bytes.Contains(bytes.ToUpper(b[:n]), []byte("COMMIT")) && s.armed.CompareAndSwap(true, false) {
			drop.Store(true)
			s.swallowed.Add(1)
		}
		if _, err := server.Write(b[:n]); err != nil {
			return
		}
	}
}

// A COMMIT whose answer is lost is done once, and reported as done.
func TestCommitWithoutAnswer(t *testing.T) {
	t.Parallel()
	for _, e := range []dbtest.Engine{dbtest.MariaDB, dbtest.PostgreSQL} {
		t.Run(string(e), func(t *testing.T) {
			t.Parallel()
			ctx := within(t)
			server := servers[e].Get(t)
			url := server.Database(t)
			direct := openURL(t, url)
			must(t, direct.Migrate(ctx))
			proxy := newSwallower(t, server.Addr())
			s := openURL(t, strings.Replace(url, server.Addr(), proxy.Addr().String(), 1))
			swallow := func(what string, f func() error) {
				t.Helper()
				before := proxy.swallowed.Load()
				proxy.armed.Store(true)
				if err := f(); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if proxy.swallowed.Load() != before+1 {
					t.Fatalf("%s: no answer was lost", what)
				}
			}
			n := newInstance("t")
			id := n.Instance.ID
			swallow("create", func() error { return s.CreateInstance(ctx, n) })
			if got := used(t, direct, "t", trove.ResourceRAM); got != 512 {
				t.Errorf("%d MiB are charged", got)
			}
			must(t, s.SetTask(ctx, id, trove.TaskNone))
			must(t, s.SetServiceStatus(ctx, id, trove.ServiceHealthy))
			must(t, s.Observe(ctx, map[string]trove.ServerObservation{id: {Status: trove.ServerActive}}))
			message := store.OutboxRow{ID: trove.NewID(), Topic: "t", Method: "restart", Body: []byte("b")}
			swallow("begin", func() error {
				return s.BeginTask(ctx, id, store.TaskChange{Task: trove.TaskRebooting, Outbox: []store.OutboxRow{message}})
			})
			other := store.OutboxRow{ID: trove.NewID(), Topic: "t", Method: "other", Body: []byte("b")}
			swallow("outbox", func() error { return s.InsertOutbox(ctx, other) })
			work := store.NewWork{ID: trove.NewID(), Kind: "k", Subject: id, RequestID: message.ID, Step: "one", State: []byte("{}")}
			swallow("accept", func() error {
				accepted, err := s.AcceptWork(ctx, work)
				if !accepted {
					t.Error("not accepted")
				}
				return err
			})
			var leased *store.Work
			swallow("lease", func() (err error) {
				leased, err = s.LeaseWork(ctx, "me", []string{"k"}, time.Minute)
				if leased == nil {
					t.Fatal("nothing was leased", err)
				}
				return err
			})
			u := store.WorkUpdate{ID: work.ID, Owner: "me", Version: leased.Version, Step: "two", State: []byte("{}"), Lease: time.Minute,
				Events: []trove.OperationEvent{{OperationID: work.ID, InstanceID: id, Step: "one", State: trove.OperationDone}}}
			swallow("save", func() error {
				saved, err := s.SaveWork(ctx, u)
				u.Version = saved.Version
				return err
			})
			u.Finished = trove.OperationDone
			swallow("finish", func() error { _, err := s.SaveWork(ctx, u); return err })
			swallow("delete", func() error { return s.FinishDelete(ctx, id) })
			if got := used(t, direct, "t", trove.ResourceRAM); got != 0 {
				t.Errorf("%d MiB are in use", got)
			}
			rows, err := direct.Outbox(ctx, 0, 10)
			must(t, err)
			if len(rows) != 1 || rows[0].ID != other.ID {
				t.Errorf("messages: %+v", rows)
			}
			events, err := direct.Events(ctx, id, 0, 100)
			must(t, err)
			if len(events) != 5 { // pending, running, running the step, and done twice
				t.Errorf("%d events: %+v", len(events), events)
			}
		})
	}
}

// A server that is killed in the middle of everything, again and again: what
// was reported is there, nothing by halves, every error says that the database
// was away, and the same stores go on afterwards.
func TestServerIsKilled(t *testing.T) {
	t.Parallel()
	for _, e := range []dbtest.Engine{dbtest.MariaDB, dbtest.PostgreSQL} {
		t.Run(string(e), func(t *testing.T) {
			t.Parallel()
			server := dbtest.Start(t, e)
			url := server.Database(t)
			stores := []*store.Store{openURL(t, url), openURL(t, url)}
			must(t, stores[0].Migrate(t.Context()))
			ctx, stop := context.WithCancel(within(t))
			defer stop()
			var mu sync.Mutex
			made, gone := map[string]bool{}, map[string]bool{}
			var writers sync.WaitGroup
			for w := range 6 {
				writers.Go(func() {
					s := stores[w%2]
					for n := 0; ctx.Err() == nil; n++ {
						i := newInstance("t")
						i.Limits = nil
						err := s.CreateInstance(ctx, i)
						if err == nil {
							mu.Lock()
							made[i.Instance.ID] = true
							mu.Unlock()
							if n%2 == 0 {
								if err = s.FinishDelete(ctx, i.Instance.ID); err == nil {
									mu.Lock()
									gone[i.Instance.ID] = true
									mu.Unlock()
								}
							}
						}
						if err != nil && !trove.IsKind(err, trove.KindUnavailable) {
							t.Error(err)
							return
						}
					}
				})
			}
			reported := func() int { mu.Lock(); defer mu.Unlock(); return len(made) }
			for range 3 {
				for was := reported(); reported() < was+20 && ctx.Err() == nil; {
					select {
					case <-ctx.Done():
					case <-time.After(5 * time.Millisecond):
					}
				}
				server.Kill()
				must(t, server.Start(ctx))
			}
			for was := reported(); reported() < was+20 && ctx.Err() == nil; {
				select {
				case <-ctx.Done():
				case <-time.After(5 * time.Millisecond):
				}
			}
			if ctx.Err() != nil {
				t.Error("it did not go on in time")
			}
			stop()
			writers.Wait()
			s := stores[1]
			refs, err := s.LiveInstances(t.Context())
			must(t, err)
			live := map[string]bool{}
			for _, r := range refs {
				live[r.ID] = true
			}
			for id := range made {
				if !gone[id] && !live[id] {
					// Its deletion may have been done without an answer.
					if err := s.FinishDelete(t.Context(), id); err != nil {
						t.Errorf("%s was reported and is not there: %v", id, err)
					}
				}
			}
			for id := range gone {
				if live[id] {
					t.Errorf("%s was deleted and is there", id)
				}
			}
			if n := used(t, s, "t", trove.ResourceInstances); n != len(refs) {
				t.Errorf("%d in use, %d instances", n, len(refs))
			}
			rows, err := s.Outbox(t.Context(), 0, 100000)
			must(t, err)
			for _, r := range rows {
				if !live[r.Subject] {
					t.Errorf("a message of %s, which is gone", r.Subject)
				}
			}
			if len(rows) != len(refs) {
				t.Errorf("%d messages, %d instances", len(rows), len(refs))
			}
		})
	}
}

// A server that is away, or refuses: errors say what to do and never tell the
// password.
func TestOpenServerErrors(t *testing.T) {
	t.Parallel()
	for _, e := range []dbtest.Engine{dbtest.MariaDB, dbtest.PostgreSQL} {
		url := servers[e].Get(t).Database(t)
		_, port, err := net.SplitHostPort(servers[e].Get(t).Addr())
		must(t, err)
		slash := strings.LastIndex(url, "/")
		for what, wrong := range map[string]string{
			"password": strings.Replace(url, "p%40ss", "wrong", 1), "database": url[:slash] + "/trove_none",
			"port": strings.Replace(url, ":"+port+"/", ":1/", 1), "host": strings.Replace(url, "127.0.0.1", "nowhere.invalid", 1),
		} {
			_, err := store.Open(within(t), configOf(wrong))
			if !trove.IsKind(err, trove.KindUnavailable) || trove.ActionOf(err) == "" {
				t.Errorf("%s, wrong %s: %v (%s)", e, what, err, trove.ActionOf(err))
			}
			for cause := err; cause != nil; {
				if strings.Contains(cause.Error(), "p@ss") || strings.Contains(cause.Error(), "p%40") {
					t.Errorf("%s, wrong %s: the password is in %q", e, what, cause)
				}
				u, ok := cause.(interface{ Unwrap() error }) //nolint:errorlint // every link of the chain
				if !ok {
					break
				}
				cause = u.Unwrap()
			}
		}
	}
}
