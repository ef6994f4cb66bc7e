package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/rpc/seal"
	"github.com/gotrove/gotrove/internal/rpc/wire"
	"github.com/gotrove/gotrove/internal/rpcapi/conductor"
	"github.com/gotrove/gotrove/internal/trove"
)

const (
	drainGuests = 1000
	drainBeats  = 50_000
	drainWait   = 3 * time.Minute
	latencies   = 200
)

// sealedBeat is the body of a heartbeat as an agent sends it.
func sealedBeat(ctx context.Context, g seedGuest, status trove.ServiceStatus, sent float64, done ...string) ([]byte, error) {
	payload, err := json.Marshal(conductor.Payload{ServiceStatus: status.Description, Done: done, AgentVersion: "bench"})
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(sent)
	if err != nil {
		return nil, err
	}
	q := wire.Request{Method: "heartbeat", Version: conductor.Version, UniqueID: strings.ReplaceAll(trove.NewID(), "-", ""),
		Args:    map[string]json.RawMessage{"instance_id": json.RawMessage(`"` + g.id + `"`), "payload": payload, "sent": text},
		Context: map[string]json.RawMessage{}}
	for _, k := range []string{"user", "user_id", "project_id", "project", "tenant", "system_scope", "domain", "user_domain", "project_domain",
		"auth_token", "request_id", "global_request_id", "resource_uuid", "limit", "marker", "service_catalog"} {
		q.Context[k] = json.RawMessage("null")
	}
	q.Context["is_admin"], q.Context["read_only"], q.Context["roles"], q.Context["user_identity"] =
		json.RawMessage("false"), json.RawMessage("false"), json.RawMessage("[]"), json.RawMessage(`"- - - - -"`)
	if _, err := g.keys.SealRequest(ctx, conductor.Topic, &q); err != nil {
		return nil, err
	}
	return wire.EncodeRequest(q)
}

// publisher puts bodies into the conductors' queue, all confirmed.
type publisher struct {
	conn *amqp091.Connection
	ch   *amqp091.Channel
}

func (r *backbone) publisher() (*publisher, error) {
	conn, err := amqp091.Dial(r.rabbit.URL())
	if err != nil {
		return nil, err
	}
	ch, err := conn.Channel()
	if err == nil {
		err = ch.Confirm(false)
	}
	return &publisher{conn, ch}, err
}

func (p *publisher) send(ctx context.Context, bodies [][]byte) error {
	var last *amqp091.DeferredConfirmation
	for i, b := range bodies {
		var err error
		if last, err = p.ch.PublishWithDeferredConfirmWithContext(ctx, "trove", conductor.Topic, false, false, amqp091.Publishing{
			Headers: amqp091.Table{}, ContentType: wire.ContentType, ContentEncoding: wire.ContentEncoding,
			DeliveryMode: amqp091.Persistent, Body: b}); err != nil {
			return err
		}
		if i%1000 != 999 && i != len(bodies)-1 {
			continue
		}
		if ok, err := last.WaitContext(ctx); err != nil || !ok {
			return errors.Join(err, errors.New("not confirmed"))
		}
	}
	return nil
}

// waiting is how many messages wait in the conductors' queue, delivered and not
// acknowledged ones not counted.
func (p *publisher) waiting() (int, error) {
	q, err := p.ch.QueueDeclarePassive(conductor.Topic, false, false, false, false, nil)
	return q.Messages, err
}

func (b *bench) conductor(ctx context.Context, r *backbone) error {
	for _, d := range []drain{{form: seal.Authenticated, processes: 1}, {form: seal.Authenticated, processes: 2},
		{form: seal.Original, processes: 1}, {form: seal.Authenticated, processes: 1, kills: true}} {
		if err := b.drain(ctx, r, d); err != nil {
			return err
		}
	}
	if err := b.beatLatency(ctx, r); err != nil {
		return err
	}
	return b.rabbitCall(ctx, r)
}

// drain is how a backlog is taken.
type drain struct {
	form      seal.Form
	processes int
	kills     bool
}

// backlog is what is published before a drain and what must be there after it.
type backlog struct {
	bodies [][]byte
	last   float64 // when each guest sent its last
	status map[string]trove.ServiceStatus
}

// makeBacklog makes rounds of heartbeats of all guests, whose statuses change
// from one to the next. One in twenty is late: older than what was sent before
// it, and says what must not be believed. In the last round each acknowledges a
// cast.
func (r *backbone) makeBacklog(ctx context.Context, guests []seedGuest) (backlog, error) {
	base, rounds := float64(time.Now().Unix()), drainBeats/len(guests)
	l := backlog{status: map[string]trove.ServiceStatus{}}
	states := []trove.ServiceStatus{trove.ServiceRunning, trove.ServiceHealthy, trove.ServiceShutdown}
	var rows []any
	for k := range rounds {
		for i, g := range guests {
			sent, status, done := base+float64(k)*0.001, states[(k+i)%len(states)], []string(nil)
			switch {
			case k == rounds-1:
				l.last, l.status[g.id] = sent, status
				id := trove.NewID()
				rows, done = append(rows, id, g.id, g.id), []string{id}
			case (k+i)%20 == 0:
				sent, status = base-3600, trove.ServiceCrashed
			}
			body, err := sealedBeat(ctx, g, status, sent, done...)
			if err != nil {
				return l, err
			}
			l.bodies = append(l.bodies, body)
		}
	}
	if _, err := r.db.ExecContext(ctx, "DELETE FROM outbox"); err != nil {
		return l, err
	}
	values := strings.TrimSuffix(strings.Repeat("(?, 'guest', 'm', ?, ?, '', 0, 9000000000000000, 0), ", len(guests)), ", ")
	_, err := r.db.ExecContext(ctx, "INSERT INTO outbox (id, topic, method, subject, instance_id, body, created, next_at, deadline) VALUES "+values, rows...)
	return l, err
}

// arrived is of how many guests the last heartbeat is written.
func (r *backbone) arrived(ctx context.Context, last float64) (n int, err error) {
	err = r.db.QueryRowContext(ctx, "SELECT COUNT(*) FROM conductor_lastseen WHERE method_name = 'heartbeat' AND sent >= ?", last-1e-4).Scan(&n)
	return n, err
}

// wrong is how many guests have not what the backlog leaves behind.
func (r *backbone) wrong(ctx context.Context, l backlog) (int, error) {
	rows, err := r.db.QueryContext(ctx, `SELECT s.instance_id, s.status_id, s.status_description, c.sent,
		(SELECT COUNT(*) FROM outbox o WHERE o.instance_id = s.instance_id)
		FROM service_statuses s JOIN conductor_lastseen c ON c.instance_id = s.instance_id AND c.method_name = 'heartbeat'`)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	right := 0
	for rows.Next() {
		var id string
		var status trove.ServiceStatus
		var sent float64
		var outbox int
		if err := rows.Scan(&id, &status.Code, &status.Description, &sent, &outbox); err != nil {
			return 0, err
		}
		if want, ours := l.status[id]; ours && status == want && sent == l.last && outbox == 0 {
			right++
		}
	}
	return len(l.status) - right, rows.Err()
}

// drain lets conductors take a backlog from RabbitMQ. With kills, the one is
// killed in the middle, twice, and another takes its place.
func (b *bench) drain(ctx context.Context, r *backbone, d drain) error {
	ctx, cancel := context.WithTimeout(ctx, drainWait)
	defer cancel()
	guests, err := r.seed(ctx, "drain", drainGuests, d.form)
	if err != nil {
		return err
	}
	first, err := r.start(ctx, "conductor") // declares the queue
	if err != nil {
		return err
	}
	p, err := r.publisher()
	if err != nil {
		return err
	}
	defer p.conn.Close()
	if err := until(ctx, func() (bool, error) {
		q, err := p.conn.Channel()
		if err != nil {
			return false, err
		}
		defer q.Close()
		_, err = q.QueueDeclarePassive(conductor.Topic, false, false, false, false, nil)
		return err == nil, nil
	}); err != nil {
		return err
	}
	first.end(syscall.SIGTERM)
	l, err := r.makeBacklog(ctx, guests)
	if err != nil {
		return err
	}
	if err := p.send(ctx, l.bodies); err != nil {
		return err
	}
	rabbit, maria, err := r.servers()
	if err != nil {
		return err
	}
	usedRabbit, usedMaria, began := cpu(rabbit), cpu(maria), time.Now()
	var own time.Duration
	running := make([]*role, d.processes)
	for i := range running {
		if running[i], err = r.start(ctx, "conductor"); err != nil {
			return err
		}
	}
	var most float64
	killed := 0
	if err := until(ctx, func() (bool, error) {
		for _, c := range running {
			if now, err := rss(c.pid()); err == nil {
				most = max(most, now)
			}
		}
		if d.kills && killed < 2 {
			left, err := p.waiting()
			if err != nil {
				return false, err
			}
			if left < drainBeats*(2-killed)/3 {
				running[0].end(syscall.SIGKILL)
				killed++
				if running[0], err = r.start(ctx, "conductor"); err != nil {
					return false, err
				}
			}
			return false, nil
		}
		n, err := r.arrived(ctx, l.last)
		return n >= len(guests), err
	}); err != nil {
		return err
	}
	took := time.Since(began)
	usedRabbit, usedMaria = cpu(rabbit)-usedRabbit, cpu(maria)-usedMaria
	for _, c := range running {
		own += cpu(c.pid())
	}
	for _, c := range running {
		// What it still holds it acknowledges, or the queue has it back.
		c.end(syscall.SIGTERM)
	}
	left, err := p.waiting()
	if err != nil {
		return err
	}
	wrong, err := r.wrong(ctx, l)
	if err != nil {
		return err
	}
	name := "conductor_" + d.form.String()
	if d.processes > 1 {
		name = fmt.Sprintf("conductors_%d_%s", d.processes, d.form)
	}
	if d.kills {
		return b.most("conductor_killed_lost", float64(wrong+left), "heartbeats", "<=", 0,
			fmt.Sprintf("guests of %d without their last status, time and acknowledged cast, and messages left over, after %d heartbeats; conductor killed with SIGKILL %d times", len(guests), len(l.bodies), killed))
	}
	if err := b.least(name+"_drained", float64(len(l.bodies))/took.Seconds(), "1/s", 5000,
		fmt.Sprintf("%d sealed heartbeats of %d guests, all in the queue before, from exec of %d conductor(s) to the last row; RabbitMQ and MariaDB (which syncs nothing) on the same cores; Python 63-118", len(l.bodies), len(guests), d.processes)); err != nil {
		return err
	}
	total := (own + usedRabbit + usedMaria).Seconds() * 1e6 / float64(len(l.bodies))
	each := func(d time.Duration) float64 { return d.Seconds() * 1e6 / float64(len(l.bodies)) }
	if err := b.most(name+"_cpu", total, "us each", "<=", 400,
		fmt.Sprintf("CPU: conductor %.0f, RabbitMQ %.0f, MariaDB %.0f; 400 is 5000/s on 2 cores; Python 10-11 ms and 2.5 ms in MariaDB", each(own), each(usedRabbit), each(usedMaria))); err != nil {
		return err
	}
	if err := b.info(name+"_rss", most, "MiB", "largest resident memory of a conductor meanwhile"); err != nil {
		return err
	}
	return b.most(name+"_wrong", float64(wrong+left), "", "<=", 0,
		fmt.Sprintf("guests of %d without their last status, time and acknowledged cast, and messages left over; 1 in 20 came too late", len(guests)))
}

// beatLatency is the time from publishing one heartbeat until its row is there.
func (b *bench) beatLatency(ctx context.Context, r *backbone) error {
	ctx, cancel := context.WithTimeout(ctx, drainWait)
	defer cancel()
	guests, err := r.seed(ctx, "latency", 1, seal.Authenticated)
	if err != nil {
		return err
	}
	c, err := r.start(ctx, "conductor")
	if err != nil {
		return err
	}
	defer c.end(syscall.SIGTERM)
	p, err := r.publisher()
	if err != nil {
		return err
	}
	defer p.conn.Close()
	var times []float64
	for range latencies {
		sent := float64(time.Now().UnixMicro()) / 1e6
		body, err := sealedBeat(ctx, guests[0], trove.ServiceHealthy, sent)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := p.send(ctx, [][]byte{body}); err != nil {
			return err
		}
		for n := 0; n == 0; {
			if err := r.db.QueryRowContext(ctx, "SELECT COUNT(*) FROM conductor_lastseen WHERE instance_id = ? AND sent >= ?", guests[0].id, sent-1e-5).Scan(&n); err != nil {
				return err
			}
		}
		times = append(times, time.Since(began).Seconds()*1000)
	}
	return b.info("conductor_latency", median(times), "ms",
		fmt.Sprintf("one heartbeat on an idle conductor, publish to row visible, median of %d, p95 %.3g; Python 18-35, 63-266", latencies, times[latencies*95/100]))
}

// until tries f every 20 ms until it says so, or fails.
func until(ctx context.Context, f func() (bool, error)) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if done, err := f(); done || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
