package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"

	"github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver of PostgreSQL

	"github.com/gotrove/gotrove/internal/apiclient"
)

// createWait bounds one create, deleteWait one delete.
const (
	createWait = 2 * time.Minute
	deleteWait = time.Minute
	atOnce     = 10
)

// goals are the seconds a create may take.
var goals = []struct {
	datastore string
	seconds   float64
}{{"mariadb", 1.0}, {"postgresql", 0.8}}

// creates measures creates: one after the other, then ten at once.
func (b *bench) creates(ctx context.Context, s *standalone) error {
	for _, g := range goals {
		var times, work []float64
		for n := range b.rounds {
			own := cpu(s.cmd.Process.Pid)
			id, took, err := s.create(ctx, g.datastore)
			if err != nil {
				return err
			}
			_, all, err := family(id)
			if err != nil {
				return err
			}
			used := cpu(s.cmd.Process.Pid) - own
			for _, pid := range all {
				used += cpu(pid)
			}
			if err := s.delete(ctx, id); err != nil {
				return err
			}
			if n == 0 {
				if err := b.info("create_"+g.datastore+"_first", took.Seconds(), "s", "the first one: it may wait for the template"); err != nil {
					return err
				}
			}
			times, work = append(times, took.Seconds()), append(work, used.Seconds())
		}
		one := median(times)
		if err := b.most("create_"+g.datastore, one, "s", "<=", g.seconds,
			fmt.Sprintf("POST to SELECT 1 by the created user at the address told, median of %d, best %.3g, worst %.3g", b.rounds, times[0], times[len(times)-1])); err != nil {
			return err
		}
		if err := b.info("create_"+g.datastore+"_cpu", median(work), "s", "CPU time of troved, agent and engine for it, median"); err != nil {
			return err
		}
		if b.wants("burst") {
			if err := b.burst(ctx, s, g.datastore, one); err != nil {
				return err
			}
		}
	}
	return nil
}

// burst creates ten at once and compares with one.
func (b *bench) burst(ctx context.Context, s *standalone, datastore string, one float64) error {
	type result struct {
		id  string
		err error
	}
	results := make(chan result, atOnce)
	began := time.Now()
	for range atOnce {
		go func() {
			id, _, err := s.create(ctx, datastore)
			results <- result{id, err}
		}()
	}
	var ids []string
	var errs error
	for range atOnce {
		r := <-results
		errs = errors.Join(errs, r.err)
		if r.id != "" {
			ids = append(ids, r.id)
		}
	}
	took := time.Since(began).Seconds()
	for _, id := range ids {
		errs = errors.Join(errs, s.delete(ctx, id))
	}
	if errs != nil {
		return errs
	}
	return b.most("create_"+datastore+"_ten_at_once", took/one, "x one", "<", 4,
		fmt.Sprintf("%.3g s until the last of %d answers, over the median of one in this run", took, atOnce))
}

// create makes an instance and gives the time until its user got an answer.
func (s *standalone) create(ctx context.Context, datastore string) (id string, took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, createWait)
	defer cancel()
	password := rand.Text()
	databases := []apiclient.Database{{Name: "d"}}
	began := time.Now()
	i, err := s.api.CreateInstance(ctx, apiclient.NewInstance{Name: "bench-" + datastore, FlavorRef: "1", Volume: &apiclient.Volume{Size: 1},
		Datastore: map[string]string{"type": datastore}, Databases: databases,
		Users: []apiclient.User{{Name: "u", Password: password, Databases: databases}}})
	if err != nil {
		return "", 0, err
	}
	id = i.ID
	if _, err = s.api.Watch(ctx, id, 0, func(e apiclient.Event) bool {
		return e.Step != "" || e.State != "done" && e.State != "failed"
	}); err != nil {
		return id, 0, err
	}
	if i, err = s.api.Instance(ctx, id); err != nil {
		return id, 0, err
	}
	if !i.Ready() || i.Address() == "" {
		why := ""
		if i.Fault != nil {
			why = i.Fault.Message
		}
		return id, 0, fmt.Errorf("instance %s is %s/%s at %q: %s", id, i.Status, i.OperatingStatus, i.Address(), why)
	}
	if err := selectOne(ctx, datastore, i.Address(), password); err != nil {
		return id, 0, fmt.Errorf("SELECT 1 at instance %s: %w", id, err)
	}
	return id, time.Since(began), nil
}

func selectOne(ctx context.Context, datastore, address, password string) error {
	driver, dsn := "pgx", fmt.Sprintf("host=%s port=5432 user=u password=%s dbname=d sslmode=disable", address, password)
	if datastore == "mariadb" {
		c := mysql.NewConfig()
		c.Net, c.Addr, c.User, c.Passwd, c.DBName = "tcp", net.JoinHostPort(address, strconv.Itoa(3306)), "u", password, "d"
		driver, dsn = "mysql", c.FormatDSN()
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	var one int
	return db.QueryRowContext(ctx, "SELECT 1").Scan(&one)
}

// delete deletes an instance and waits until it is gone.
func (s *standalone) delete(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, deleteWait)
	defer cancel()
	if err := s.api.DeleteInstance(ctx, id); err != nil {
		return err
	}
	gone := false
	_, err := s.api.Watch(ctx, id, 0, func(e apiclient.Event) bool {
		gone = e.Kind == "delete_instance" && e.Step == "" && e.State == "done"
		return !gone
	})
	if err == nil && !gone {
		_, err = s.api.Instance(ctx, id)
		if err == nil {
			err = fmt.Errorf("instance %s is still there", id)
		} else {
			err = nil
		}
	}
	return err
}

const (
	// settled is how long no process may change by more than settleBy MiB for
	// its memory to count as idle, settleWait how long that is waited for.
	settled    = 20 * time.Second
	settleWait = 3 * time.Minute
	settleBy   = 0.25
)

// idle measures memory with one instance of each engine.
func (b *bench) idle(ctx context.Context, s *standalone) error {
	binary, err := size(filepath.Join(b.bin, "trove-guestagent"))
	if err != nil {
		return err
	}
	if err := b.most("guestagent_binary", binary, "MiB", "<=", 16, "size of bin/trove-guestagent"); err != nil {
		return err
	}
	names, pids := []string{"troved"}, []int{s.cmd.Process.Pid}
	for _, g := range goals {
		id, _, err := s.create(ctx, g.datastore)
		if err != nil {
			return err
		}
		agent, _, err := family(id)
		if err != nil {
			return err
		}
		names, pids = append(names, "guestagent_"+g.datastore), append(pids, agent)
	}
	began := time.Now()
	last, changed := make([]float64, len(pids)), began
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for time.Since(changed) < settled && time.Since(began) < settleWait {
		for n, pid := range pids {
			now, err := rss(pid)
			if err != nil {
				return err
			}
			if d := now - last[n]; d > settleBy || d < -settleBy {
				last[n], changed = now, time.Now()
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	note := fmt.Sprintf("resident, 2 instances, %.0f s after the second served (waited until nothing changed by %g MiB for %s, at most %s)",
		time.Since(began).Seconds(), settleBy, settled, settleWait)
	for n, name := range names {
		goal := 20.0
		if n == 0 {
			goal = 60
		}
		value, err := rss(pids[n])
		if err != nil {
			return err
		}
		if err := b.most(name+"_idle_rss", value, "MiB", "<=", goal, note); err != nil {
			return err
		}
	}
	return nil
}
