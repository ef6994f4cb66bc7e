package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gotrove/gotrove/internal/api"
	"github.com/gotrove/gotrove/internal/broker"
	"github.com/gotrove/gotrove/internal/guestlogin"
	"github.com/gotrove/gotrove/internal/identity"
	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// inside measures what cannot be seen from outside.
func (b *bench) inside(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "gtb")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := b.list(ctx, dir); err != nil {
		return err
	}
	return b.call(ctx, dir)
}

const project = "bench"

// everybody is who has any token.
type everybody struct{}

func (everybody) Validate(context.Context, string) (identity.Identity, error) {
	return identity.Identity{UserID: "u", ProjectID: project, Roles: []string{"member"}, ExpiresAt: time.Now().Add(time.Hour)}, nil
}

// A list needs neither of these; it would panic if it did.
type (
	noGuest struct{ api.Guest }
	noCloud struct{ api.Cloud }
)

// list counts the SQL statements of a detailed list, through the API.
func (b *bench) list(ctx context.Context, dir string) error {
	st, err := store.Open(ctx, store.Config{Path: filepath.Join(dir, "trove.db")})
	if err != nil {
		return err
	}
	defer st.Close()
	if err := st.Migrate(ctx); err != nil {
		return err
	}
	version, err := st.EnsureVersion(ctx, trove.DatastoreVersion{DatastoreName: "mariadb", Name: "10.11", Number: "10.11",
		Manager: "mariadb", Active: true}, true)
	if err != nil {
		return err
	}
	const most = 1000
	h, err := api.New(api.Config{PageSize: most, RatePerMinute: -1},
		api.Deps{Store: st, Guest: noGuest{}, Cloud: noCloud{}, Tokens: everybody{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	var counts []float64
	var took time.Duration
	made := 0
	for _, n := range []int{10, 100, most} {
		for ; made < n; made++ {
			id := fmt.Sprintf("00000000-0000-4000-8000-%012x", made)
			if err := st.CreateInstance(ctx, store.NewInstance{Instance: &trove.Instance{ID: id, Name: "i", TenantID: project,
				FlavorID: "1", VolumeSize: 1, Version: trove.DatastoreVersion{ID: version}}}); err != nil {
				return err
			}
		}
		before, began := st.Stats().Statements, time.Now()
		q := httptest.NewRequestWithContext(ctx, http.MethodGet, "/v1.0/"+project+"/instances/detail?limit=1000", nil)
		q.Header.Set("X-Auth-Token", "any")
		answer := httptest.NewRecorder()
		h.ServeHTTP(answer, q)
		if answer.Code != http.StatusOK {
			return fmt.Errorf("list of %d instances: %d %s", n, answer.Code, answer.Body)
		}
		took = time.Since(began)
		counts = append(counts, float64(st.Stats().Statements-before))
	}
	if err := b.most("list_1000_more_statements", slices.Max(counts)-slices.Min(counts), "SQL statements", "<=", 0,
		fmt.Sprintf("%v statements for details of 10, 100 and 1000 instances", counts)); err != nil {
		return err
	}
	return b.info("list_1000", took.Seconds(), "s", "details of 1000 instances in one page, without the network")
}

const calls = 2000

// call measures a call and its answer over the embedded broker's socket.
func (b *bench) call(ctx context.Context, dir string) (err error) {
	const exchange = "trove"
	socket := filepath.Join(dir, "bus")
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	quiet := slog.New(slog.DiscardHandler)
	logins := guestlogin.New(make([]byte, 32), guestlogin.Place{Exchange: exchange}, socket)
	bus := broker.New(broker.Options{Auth: logins, Logger: quiet})
	serving, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- bus.Serve(serving, l) }()
	defer func() {
		stop()
		if e := <-ended; e != nil && !errors.Is(e, broker.ErrClosed) {
			err = errors.Join(err, e)
		}
	}()
	times, err := roundTrips(ctx, logins.URL(guestlogin.ControlPlane).Reveal(), exchange)
	if err != nil {
		return err
	}
	return b.info("bus_call", median(times), "ms",
		fmt.Sprintf("a call and its answer over the embedded broker's socket, median of %d, p99 %.2g", calls, times[calls*99/100]))
}

// rabbitCall measures the same over RabbitMQ.
func (b *bench) rabbitCall(ctx context.Context, r *backbone) error {
	times, err := roundTrips(ctx, r.rabbit.URL(), "bench")
	if err != nil {
		return err
	}
	return b.most("rabbitmq_call", median(times), "ms", "<=", 2,
		fmt.Sprintf("a call and its answer over RabbitMQ, caller and server on a connection each, median of %d, p99 %.2g; Python 5.0, p95 13.5", calls, times[calls*99/100]))
}

// roundTrips calls a server that does nothing, one call after the other, and
// gives how many milliseconds each took.
func roundTrips(ctx context.Context, url, exchange string) ([]float64, error) {
	quiet := slog.New(slog.DiscardHandler)
	connect := func() (*amqp.Conn, error) {
		c, err := amqp.New(amqp.Config{URL: url, Name: "bench", Log: quiet})
		if err != nil {
			return nil, err
		}
		return c, c.Ready(ctx)
	}
	there, err := connect()
	if err != nil {
		return nil, err
	}
	defer there.Close(ctx)
	here, err := connect()
	if err != nil {
		return nil, err
	}
	defer here.Close(ctx)
	server := rpc.NewServer(there, rpc.Router{Version: "1.0", Methods: map[string]rpc.Method{
		"echo": rpc.Bind(func(_ context.Context, a struct{ Text string }) (string, error) { return a.Text, nil })}},
		rpc.ServerOptions{Exchange: exchange, Topic: "bench", Server: "bench", Log: quiet})
	defer server.Close(ctx)
	if err := server.Ready(ctx); err != nil {
		return nil, err
	}
	client := rpc.NewClient(here, rpc.ClientOptions{Exchange: exchange, Log: quiet})
	defer client.Close(ctx)
	var times []float64
	for range calls {
		began := time.Now()
		var text string
		if err := client.Call(ctx, rpc.Message{Topic: "bench", Method: "echo", Version: "1.0", Args: map[string]any{"text": "x"}}, &text); err != nil {
			return nil, err
		}
		times = append(times, time.Since(began).Seconds()*1000)
	}
	return times, nil
}
