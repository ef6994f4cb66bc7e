package main

import (
	"context"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/rpc/seal"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
)

// askedGuests is how many instances are shown once each. Their agents share a
// connection, with a channel each.
const askedGuests = 400

// asked measures the show of instances whose agent has to be asked, for nothing is
// known yet of the use of their volumes. The agents answer at once.
func (b *bench) asked(ctx context.Context, r *backbone, p *role, project, token string) (err error) {
	guests, err := r.seed(ctx, project, askedGuests, seal.Authenticated)
	if err != nil {
		return err
	}
	conn, err := amqp.New(amqp.Config{URL: r.rabbit.URL(), Name: "bench"})
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	stats := rpc.Router{Version: guest.Version, Methods: map[string]rpc.Method{
		"get_filesystem_stats": rpc.Bind(func(context.Context, struct{}) (guest.FilesystemStats, error) {
			return guest.FilesystemStats{Total: 1, Used: 0.25}, nil
		})}}
	servers := make([]*rpc.Server, len(guests))
	for i, g := range guests {
		servers[i] = rpc.NewServer(conn, stats, rpc.ServerOptions{Exchange: "trove", Topic: guest.Topic(g.id), Server: g.id, Open: g.keys})
		defer servers[i].Close(ctx)
	}
	for _, s := range servers {
		if err := s.Ready(ctx); err != nil {
			return err
		}
	}
	show := func(n int) []byte {
		return requestText("GET", p.url, "/v1.0/"+project+"/instances/"+guests[n].id, token, "")
	}
	return b.cost(ctx, r, p, "api_show_asked", len(guests), 4, 0,
		"an instance of whose volume nothing is known: its agent is asked over RabbitMQ, sealed, and answers at once", show)
}
