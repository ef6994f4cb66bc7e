package main

import (
	"context"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"github.com/gotrove/gotrove/internal/identity/keystonetest"
	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/rpc/seal"
	"github.com/gotrove/gotrove/internal/rpcapi/taskmanager"
)

const (
	projects   = 100
	manyRows   = 10_000
	pressRuns  = 2000
	pressMost  = 20 * time.Second
	concurrent = 32
)

// rest measures the API with tokens from its cache, on MariaDB.
func (b *bench) rest(ctx context.Context, r *backbone) error {
	token, err := r.keystone.Login(ctx, keystonetest.DemoName, keystonetest.Password, keystonetest.Project(keystonetest.DemoProject))
	if err != nil {
		return err
	}
	project, err := r.keystone.ProjectID(ctx, keystonetest.DemoProject)
	if err != nil {
		return err
	}
	guests, err := r.seed(ctx, project, 20, seal.Authenticated)
	if err != nil {
		return err
	}
	p, err := b.startRole(ctx, r, "api")
	if err != nil {
		return err
	}
	list := requestText("GET", p.url, "/v1.0/"+project+"/instances", token, "")
	always := func(text []byte) func(int) []byte { return func(int) []byte { return text } }
	if _, err := press(ctx, p.url, 8, 500, pressMost, always(list)); err != nil { // warms up
		return err
	}
	if err := b.cost(ctx, r, p, "api_list20", pressRuns, 4, 1, "list of 20; Python 306, 169-377 ms", always(list)); err != nil {
		return err
	}
	show := func(n int) []byte {
		return requestText("GET", p.url, "/v1.0/"+project+"/instances/"+guests[n%len(guests)].id, token, "")
	}
	if err := b.cost(ctx, r, p, "api_show", pressRuns, 4, 0.5, "an instance, the use of its volume from the last 10 s but for the first time; Python 24, 21-28 ms", show); err != nil {
		return err
	}
	for n := range projects - 1 {
		if _, err := r.seed(ctx, fmt.Sprintf("project%025d", n), manyRows/projects, seal.Authenticated); err != nil {
			return err
		}
	}
	if _, err := r.db.ExecContext(ctx, "ANALYZE TABLE instances, service_statuses, observed"); err != nil {
		return err
	}
	own := cpu(p.pid())
	l, err := press(ctx, p.url, concurrent, 20*pressRuns, pressMost, always(list))
	if err != nil {
		return err
	}
	each := (cpu(p.pid()) - own).Seconds() * 1000 / float64(l.requests)
	note := fmt.Sprintf("one project's page of 20 out of %d rows of %d projects, concurrency %d, %d requests, load generator (Go, part of bench) on the same cores; %.2g ms CPU each", manyRows, projects, concurrent, l.requests, each)
	if err := b.least("api_page_rate", l.rate(), "1/s", 1000, note+"; Python 3.8"); err != nil {
		return err
	}
	if err := b.most("api_page_p99", l.percentile(0.99), "ms", "<=", 50, note+fmt.Sprintf("; median %.3g; Python 2728 at concurrency 8", l.percentile(0.5))); err != nil {
		return err
	}
	if err := b.asked(ctx, r, p, project, token); err != nil {
		return err
	}
	if err := b.posts(ctx, r, p, project, token); err != nil {
		return err
	}
	value, err := rss(p.pid())
	if err != nil {
		return err
	}
	p.end(syscall.SIGTERM)
	return b.info("api_rss", value, "MiB", "resident memory of trove-api after all that; Python 514 in a worker after listing 10000")
}

// posts measures the acceptance of creates. Their messages go into the task
// managers' queue, and nobody takes them.
func (b *bench) posts(ctx context.Context, r *backbone, p *role, project, token string) error {
	conn, err := amqp.New(amqp.Config{URL: r.rabbit.URL(), Name: "bench"})
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if err := rpc.DeclareQueues(ctx, conn, "trove", taskmanager.Topic); err != nil {
		return err
	}
	post := func(n int) []byte {
		return requestText("POST", p.url, "/v1.0/"+project+"/instances", token, `{"instance": {"name": "i-`+strconv.Itoa(n)+
			`", "flavorRef": "1", "volume": {"size": 1}, "datastore": {"type": "mariadb"}, "databases": [{"name": "app"}],
			"users": [{"name": "app", "password": "secret123", "databases": [{"name": "app"}]}]}}`)
	}
	if _, err := press(ctx, p.url, 1, 20, pressMost, post); err != nil {
		return err
	}
	return b.cost(ctx, r, p, "api_post", pressRuns, 15, 3, "an instance created (accepted), with the relay that publishes its message; Python 155, 122 ms", post)
}

// cost measures statements and CPU time per request, of requests one after the
// other on two connections. ms 0 is no goal.
func (b *bench) cost(ctx context.Context, r *backbone, p *role, name string, requests int, statements, ms float64, what string, request func(int) []byte) error {
	_, maria, err := r.servers()
	if err != nil {
		return err
	}
	before, err := r.questions(ctx)
	if err != nil {
		return err
	}
	own, theirs := cpu(p.pid()), cpu(maria)
	l, err := press(ctx, p.url, 2, requests, pressMost, request)
	if err != nil {
		return err
	}
	own, theirs = cpu(p.pid())-own, cpu(maria)-theirs
	after, err := r.questions(ctx)
	if err != nil {
		return err
	}
	n := float64(l.requests)
	if err := b.most(name+"_statements", float64(after-before-1)/n, "SQL statements", "<=", statements,
		what+"; all that MariaDB counts, with those of transactions and of the process's own housekeeping"); err != nil {
		return err
	}
	note := fmt.Sprintf("%s; CPU of trove-api each, of %d; MariaDB %.2g ms; median %.3g ms, p99 %.3g ms", what, l.requests, theirs.Seconds()*1000/n, l.percentile(0.5), l.percentile(0.99))
	if ms == 0 {
		return b.info(name+"_cpu", own.Seconds()*1000/n, "ms", note)
	}
	return b.most(name+"_cpu", own.Seconds()*1000/n, "ms", "<=", ms, note)
}

// questions is how many statements MariaDB was asked for.
func (r *backbone) questions(ctx context.Context) (n int64, err error) {
	var name string
	err = r.db.QueryRowContext(ctx, "SHOW GLOBAL STATUS LIKE 'Questions'").Scan(&name, &n)
	return n, err
}
