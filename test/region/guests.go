package region

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/gotrove/gotrove/internal/keyring"
	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/rpc/seal"
	"github.com/gotrove/gotrove/internal/rpcapi/conductor"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// Guest is a simulated guest agent: an instance that is in the database only,
// with a key of its own, and a client that reports for it.
type Guest struct {
	ID        string
	Conductor *conductor.Client
}

// Guests makes n simulated guests of a project, which share a few connections,
// with the control plane's login. They have no server, charge no quota, and are
// gone from the database when the test ends.
func (r *Region) Guests(n int, project string) []Guest {
	r.TB.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	tb := r.TB
	db, err := store.Open(ctx, store.Config{URL: secret.New(r.DatabaseURL)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { db.Close() })
	ring, err := keyring.New(keyring.Config{Master: []secret.String{secret.New(r.masterKey)}, NewKeys: true, NewForm: seal.Authenticated},
		db, slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		tb.Fatal(err)
	}
	var conns []*amqp.Conn
	for range 8 {
		conn, err := amqp.New(amqp.Config{URL: r.BrokerURL(r.Broker.Addr()), Name: "simulated guests"})
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { r.end(conn.Close) })
		conns = append(conns, conn)
	}
	var out []Guest
	for i := range n {
		id, key := trove.NewID(), ring.MakeKey()
		clear, err := ring.OpenKey(ctx, id, key)
		if err != nil {
			tb.Fatal(err)
		}
		if err := db.CreateInstance(ctx, store.NewInstance{Instance: &trove.Instance{ID: id, Name: fmt.Sprintf("simulated-%d", i), TenantID: project,
			FlavorID: "1", Task: trove.TaskNone, EncryptedKey: key}}); err != nil {
			tb.Fatal(err)
		}
		agent, err := keyring.NewAgent(id, secret.New(clear))
		if err != nil {
			tb.Fatal(err)
		}
		client := rpc.NewClient(conns[i%len(conns)], rpc.ClientOptions{Exchange: "trove", Seal: agent})
		tb.Cleanup(func() { r.end(client.Close) })
		out = append(out, Guest{id, conductor.NewClient(client, conductor.Topic)})
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		defer cancel()
		for _, g := range out {
			for _, from := range []string{"service_statuses WHERE instance_id", "conductor_lastseen WHERE instance_id", "instances WHERE id"} {
				if _, err := r.SQL.ExecContext(ctx, "DELETE FROM "+from+" = '"+g.ID+"'"); err != nil {
					tb.Error(err)
				}
			}
		}
	})
	return out
}

// end closes something at the end of a test.
func (r *Region) end(closed func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	if err := closed(ctx); err != nil {
		r.TB.Error(err)
	}
}
