package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gotrove/gotrove/internal/guestlogin"
	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/rpc/amqp/rabbittest"
	"github.com/gotrove/gotrove/internal/rpc/seal"
	"github.com/gotrove/gotrove/internal/rpcapi/conductor"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

const (
	ownConnections = 1000   // guests with a login and a connection each
	multiplexed    = 10_000 // guests over sharedLinks connections
	sharedLinks    = 10
	storm          = 500 // of them are being created
	beatEvery      = 30 * time.Second
	beatLimit      = 10 * time.Second
	guestsWait     = 5 * time.Minute
	atATime        = 32 // logins made, connections opened
)

// simulated is a guest agent as the conductor sees it: like the real one it
// tells each change at once, repeats what it told every half minute, give or
// take a tenth, and tries again what the broker did not take.
type simulated struct {
	seedGuest
	client  *rpc.Client
	changes []trove.ServiceStatus // to come, if it is being created
}

// run beats until ctx ends; told counts what the broker confirmed.
func (g *simulated) run(ctx context.Context, told *atomic.Int64) {
	to := conductor.NewClient(g.client, conductor.Topic)
	status := trove.ServiceHealthy
	if len(g.changes) > 0 {
		status, g.changes = g.changes[0], g.changes[1:]
	}
	wait := time.Duration(rand.Int64N(int64(beatEvery)))
	if len(g.changes) > 0 {
		wait /= 3
	}
	for pause(ctx, wait) {
		sent := float64(time.Now().UnixMicro()) / 1e6
		limited, cancel := context.WithTimeout(ctx, beatLimit)
		err := to.Heartbeat(limited, conductor.Heartbeat{InstanceID: g.id, Sent: &sent,
			Payload: conductor.Payload{ServiceStatus: status.Description, AgentVersion: "bench"}})
		cancel()
		switch {
		case err != nil:
			wait = time.Second + rand.N(2*time.Second)
			continue
		case len(g.changes) > 0:
			status, g.changes = g.changes[0], g.changes[1:]
			wait = time.Second + rand.N(5*time.Second)
		default:
			wait = beatEvery - beatEvery/10 + rand.N(beatEvery/5)
		}
		told.Add(1)
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// links connects guests: the first with a login of their own, the others over a
// few connections of the control plane.
func (r *backbone) links(ctx context.Context, guests []seedGuest) (clients []*rpc.Client, conns []*amqp.Conn, err error) {
	clients, conns = make([]*rpc.Client, len(guests)), make([]*amqp.Conn, ownConnections+sharedLinks)
	passwords, err := guestlogin.NewPasswords([]byte(r.logins.Reveal()))
	if err != nil {
		return nil, nil, err
	}
	management, err := guestlogin.NewManagement(guestlogin.ManagementConfig{URLs: []string{r.rabbit.ManagementURL()},
		User: rabbittest.AdminName, Password: secret.New(rabbittest.AdminPassword)})
	if err != nil {
		return nil, nil, err
	}
	defer management.Close()
	transport := "rabbit://" + rabbittest.AdminName + ":" + rabbittest.AdminPassword + "@" + r.rabbit.Addr() + "/"
	keeper, err := guestlogin.NewRabbitMQ(management, passwords, guestlogin.Place{Exchange: "trove"}, transport)
	if err != nil {
		return nil, nil, err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	gate := make(chan struct{}, atATime)
	quiet := slog.New(slog.DiscardHandler)
	for i := range conns {
		gate <- struct{}{}
		wg.Go(func() {
			defer func() { <-gate }()
			url := transport
			var e error
			if i < ownConnections {
				var c guestlogin.Credentials
				c, e = keeper.Ensure(ctx, guests[i].id, 0)
				url = c.TransportURL.Reveal()
			}
			if e == nil {
				conns[i], e = amqp.New(amqp.Config{URL: url, Name: "bench", Log: quiet})
			}
			if e == nil {
				e = conns[i].Ready(ctx)
			}
			mu.Lock()
			defer mu.Unlock()
			err = errors.Join(err, e)
		})
	}
	wg.Wait()
	if err != nil {
		return nil, conns, err
	}
	for i, g := range guests {
		at := i
		if i >= ownConnections {
			at = ownConnections + i%sharedLinks
		}
		clients[i] = rpc.NewClient(conns[at], rpc.ClientOptions{Exchange: "trove", Passive: i < ownConnections, Seal: g.keys, Log: quiet})
	}
	return clients, conns, nil
}

// guests lets many beat and a part of them be created, half of these on
// connections of their own, restarts RabbitMQ in the middle of that, and looks
// whether each told its final state in the end.
func (b *bench) guests(ctx context.Context, r *backbone) error {
	const name, n = "guests", ownConnections + multiplexed
	ctx, cancel := context.WithTimeout(ctx, guestsWait)
	defer cancel()
	var conductors []*role
	for range 2 {
		c, err := r.start(ctx, "conductor")
		if err != nil {
			return err
		}
		conductors = append(conductors, c)
	}
	defer func() {
		for _, c := range conductors {
			c.end(syscall.SIGTERM)
		}
	}()
	guests, err := r.seed(ctx, name, n, seal.Authenticated)
	if err != nil {
		return err
	}
	created := func(i int) bool { return i < storm/2 || i >= ownConnections && i < ownConnections+storm/2 }
	for i, g := range guests {
		if !created(i) {
			continue
		}
		if _, err := r.db.ExecContext(ctx, "UPDATE instances SET task_id = ?, task_description = ? WHERE id = ?",
			int(trove.TaskBuilding), trove.TaskBuilding.Description(), g.id); err != nil {
			return err
		}
	}
	if _, err := r.db.ExecContext(ctx, "UPDATE service_statuses SET status_id = ?, status_description = ? WHERE instance_id IN (SELECT id FROM instances WHERE tenant_id = ? AND task_id = ?)",
		trove.ServiceNew.Code, trove.ServiceNew.Description, name, int(trove.TaskBuilding)); err != nil {
		return err
	}
	rabbit, _, err := r.servers()
	if err != nil {
		return err
	}
	before, err := rss(rabbit)
	if err != nil {
		return err
	}
	began := time.Now()
	clients, conns, err := r.links(ctx, guests)
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWait)
		defer cancel()
		var wg sync.WaitGroup
		for _, c := range conns {
			if c != nil {
				wg.Go(func() { _ = c.Close(end) })
			}
		}
		wg.Wait()
	}()
	if err != nil {
		return err
	}
	connected := time.Since(began)
	after, err := rss(rabbit)
	if err != nil {
		return err
	}
	if err := b.info(name+"_rabbitmq", (after-before)*1024/ownConnections, "KiB each",
		fmt.Sprintf("resident memory of RabbitMQ for each guest with a login and a connection of its own, %d of them; made and connected in %.0f s", ownConnections, connected.Seconds())); err != nil {
		return err
	}
	beating, stop := context.WithCancel(ctx)
	var told atomic.Int64
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for i := range guests {
		g := &simulated{seedGuest: guests[i], client: clients[i]}
		if created(i) {
			g.changes = []trove.ServiceStatus{trove.ServiceBuilding, trove.ServiceRunning, trove.ServiceBuilding, trove.ServiceHealthy}
		}
		wg.Go(func() { g.run(beating, &told) })
	}
	w := watched{conductors: conductors}
	if err := w.watch(ctx, 12*time.Second); err != nil {
		return err
	}
	r.rabbit.Shutdown(ctx)
	if err := r.rabbit.Start(ctx); err != nil {
		return err
	}
	back := time.Now()
	// What RabbitMQ forgot is told again with the next beat.
	if err := w.watch(ctx, beatEvery+beatEvery/10+3*time.Second); err != nil {
		return err
	}
	wrong := -1
	err = until(ctx, func() (bool, error) {
		if err := w.sample(); err != nil {
			return false, err
		}
		row := r.db.QueryRowContext(ctx, `SELECT COUNT(*) FROM instances i JOIN service_statuses s ON s.instance_id = i.id
			LEFT JOIN conductor_lastseen c ON c.instance_id = i.id AND c.method_name = 'heartbeat'
			WHERE i.tenant_id = ? AND (s.status_description <> ? OR c.sent IS NULL OR c.sent < ?)`,
			name, trove.ServiceHealthy.Description, float64(back.Unix()))
		if err := row.Scan(&wrong); err != nil {
			return false, err
		}
		return wrong == 0 || time.Since(back) > 2*time.Minute, nil
	})
	if err != nil {
		return err
	}
	late := time.Since(back)
	rate := float64(told.Load()) / (w.wall.Seconds())
	if err := b.most(name+"_lost", float64(wrong), "guests", "<=", 0,
		fmt.Sprintf("of %d guests, 1000 on connections and with logins of their own and the others over 10 (%d of them rows in BUILDING, whose last beat says HEALTHY; no API or cloud behind them) without their last state after RabbitMQ was restarted in the middle; all there %.0f s after it was back; %.0f heartbeats/s",
			n, storm, late.Seconds(), rate)); err != nil {
		return err
	}
	if err := b.info(name+"_conductor_rss", w.most, "MiB", fmt.Sprintf("largest resident memory of 2 conductors meanwhile; %.3g MiB at the end", w.last)); err != nil {
		return err
	}
	return b.info(name+"_conductor_cpu", w.cpu().Seconds()/w.wall.Seconds()*100, "% of a core", "both conductors together, restart and storm included")
}

// watched takes samples of conductors.
type watched struct {
	conductors []*role
	most, last float64
	wall       time.Duration
}

func (w *watched) sample() error {
	for _, c := range w.conductors {
		now, err := rss(c.pid())
		if err != nil {
			return err
		}
		w.last, w.most = now, max(w.most, now)
	}
	w.wall = time.Since(w.conductors[0].began)
	return nil
}

func (w *watched) cpu() (sum time.Duration) {
	for _, c := range w.conductors {
		sum += cpu(c.pid())
	}
	return sum
}

func (w *watched) watch(ctx context.Context, d time.Duration) error {
	for end := time.Now().Add(d); time.Now().Before(end); {
		if err := w.sample(); err != nil {
			return err
		}
		if !pause(ctx, time.Second) {
			return ctx.Err()
		}
	}
	return nil
}
