package cloud

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/rpc/amqp/rabbittest"
	"github.com/gotrove/gotrove/internal/store/dbtest"
	"github.com/gotrove/gotrove/internal/trove"
	"github.com/gotrove/gotrove/test/region"
)

// TestRolling upgrades a control plane as an operator does, one service at a
// time, and takes all of it away from its instances.
func TestRolling(t *testing.T) {
	if testing.Short() {
		t.Skip("needs RabbitMQ, a database server and Keystone")
	}
	r := region.New(t, region.Options{Bin: bin, Database: dbtest.PostgreSQL})
	apis := []*region.Service{r.Start(region.API), r.Start(region.API)}
	managers := []*region.Service{r.Start(region.TaskManager), r.Start(region.TaskManager)}
	r.Start(region.Conductor)
	r.Start(region.Conductor)
	r.Run(t, "handover", func(t *testing.T) { handover(t, r, apis, managers) })
	r.Run(t, "one at a time", func(t *testing.T) { oneAtATime(t, r, apis) })
	r.Run(t, "newer neighbours", func(t *testing.T) { newerNeighbours(t, r, apis, managers) })
	r.Run(t, "guests outlive", func(t *testing.T) { guestsOutlive(t, r, apis) })
	r.AssertNothingLeft()
}

// handover stops a task manager that is in the middle of a step, here a restart
// that a frozen agent does not answer: another goes on with it at once, not when
// a lease has run out.
func handover(t *testing.T, r *region.Region, apis, managers []*region.Service) {
	demo := known(r, apis)
	id := demo.Create(apis[0], "handed-over", "mariadb")
	demo.AwaitActive(apis[0], id)
	managers[1].Stop()
	thaw := freeze(t, agentsOf(r, id))
	defer thaw()
	demo.Want(apis[0], http.StatusAccepted, http.MethodPost, "instances/"+id+"/action", restart, nil)
	owner := func() (owner string, err error) {
		err = r.SQL.QueryRowContext(t.Context(), "SELECT lease_owner FROM work WHERE subject = '"+id+"' AND kind = 'restart' AND outcome = 'running' AND lease_owner <> ''").Scan(&owner)
		return owner, err
	}
	var first string
	region.Must(t, func() (err error) {
		first, err = owner()
		return err
	})
	if err := managers[1].Start(); err != nil {
		t.Fatal(err)
	}
	managers[0].Stop()
	stopped := time.Now()
	region.Must(t, func() error {
		now, err := owner()
		if err == nil && now == first {
			err = fmt.Errorf("the work is %s's, as before", now)
		}
		return err
	})
	took := time.Since(stopped)
	t.Logf("the work had nobody for %s", took.Round(time.Millisecond))
	if took > 5*time.Second { // a lease takes 15 s
		t.Errorf("the work had nobody for %s", took)
	}
	thaw()
	demo.AwaitActive(apis[1], id)
	if err := managers[0].Start(); err != nil {
		t.Fatal(err)
	}
	demo.Want(apis[0], http.StatusAccepted, http.MethodDelete, "instances/"+id, nil, nil)
	demo.AwaitGone(apis[0], id)
}

// oneAtATime stops each service in an orderly way and starts it again, while
// people work: no request fails but by being refused where nobody listens.
func oneAtATime(t *testing.T, r *region.Region, apis []*region.Service) {
	demo := known(r, apis)
	id := demo.Create(apis[0], "rolling", "mariadb")
	demo.AwaitActive(apis[0], id)
	done := make(chan struct{})
	var load sync.WaitGroup
	var mu sync.Mutex
	counts := map[string]int{}
	for n, api := range slices.Concat(apis, apis, apis, apis) {
		load.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				method, path, code, body := http.MethodGet, "instances", http.StatusOK, any(nil)
				if n%2 == 1 {
					method, path, code = http.MethodPut, "instances/"+id, http.StatusAccepted
					body = map[string]any{"instance": map[string]any{"name": "rolling"}}
				}
				a, fresh, err := demo.Try(api, method, path, body)
				outcome := "answered"
				switch network, ok := errors.AsType[*net.OpError](err); {
				case ok && network.Op == "dial":
					outcome = "refused: nobody listens"
				case fresh && errors.Is(err, syscall.ECONNRESET):
					// A listener closes with the connection in its queue.
					outcome = "refused: nobody listens any more"
				case err != nil:
					t.Errorf("%s %s: %v", api.Name, method, err)
				case a.Code != code:
					t.Errorf("%s %s: %s", api.Name, method, a)
				}
				mu.Lock()
				counts[outcome]++
				mu.Unlock()
				select {
				case <-done:
				case <-time.After(10 * time.Millisecond):
				}
			}
		})
	}
	for n, s := range r.Services() {
		made := demo.Create(other(apis, s), fmt.Sprintf("rolling-%d", n), "mariadb")
		s.Stop()
		demo.AwaitActive(other(apis, s), made)
		if err := s.Start(); err != nil {
			t.Error(err)
		}
		demo.Want(other(apis, s), http.StatusAccepted, http.MethodDelete, "instances/"+made, nil, nil)
	}
	close(done)
	load.Wait()
	t.Log(counts)
	demo.Want(apis[0], http.StatusAccepted, http.MethodDelete, "instances/"+id, nil, nil)
	region.Must(t, func() error { return r.Left(nil) })
}

// other is an API that is not s.
func other(apis []*region.Service, s *region.Service) *region.Service {
	if apis[0] == s {
		return apis[1]
	}
	return apis[0]
}

// newerNeighbours lets this release work beside one that does not exist yet: on
// its database, with its messages, and with its services, in the order in which
// they can be upgraded. The instances' agents are of this release.
func newerNeighbours(t *testing.T, r *region.Region, apis, managers []*region.Service) {
	for _, query := range []string{
		"INSERT INTO gotrove_db_version (version_id, is_applied) VALUES (99999, TRUE)",
		"ALTER TABLE instances ADD COLUMN of_tomorrow VARCHAR(20)",
		"ALTER TABLE work ADD COLUMN of_tomorrow VARCHAR(20) NOT NULL DEFAULT ''",
		"ALTER TABLE outbox ADD COLUMN of_tomorrow VARCHAR(20) NOT NULL DEFAULT ''",
		"ALTER TABLE service_statuses ADD COLUMN of_tomorrow VARCHAR(20)",
	} {
		if _, err := r.SQL.ExecContext(t.Context(), query); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	tomorrow := filepath.Join(r.Dir, "tomorrow")
	if err := os.Mkdir(tomorrow, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := region.BuildNewer(tomorrow); err != nil {
		t.Fatal(err)
	}
	newer := map[string]bool{}
	for _, s := range r.Services() {
		s.Stop()
		// The first API, the last of the others.
		if s == apis[0] || newer[s.Role] {
			s.Bin = tomorrow
			s.Env = append(s.Env, "OS_UPGRADE_LEVELS__TASKMANAGER=1.0", "OS_UPGRADE_LEVELS__CONDUCTOR=1.0", "OS_UPGRADE_LEVELS__GUESTAGENT=hibiscus")
		}
		newer[s.Role] = s.Role != region.API
		if err := s.Start(); err != nil {
			t.Fatal(err)
		}
	}
	demo := known(r, apis)
	for _, beside := range []struct {
		api, away *region.Service
	}{
		{apis[0], managers[1]}, // a newer API, a task manager of today
		{apis[1], managers[0]}, // the other way round
	} {
		beside.away.Stop()
		id := demo.Create(beside.api, "beside", "mariadb")
		demo.AwaitActive(beside.api, id)
		demo.Want(beside.api, http.StatusAccepted, http.MethodPost, "instances/"+id+"/action", restart, nil)
		demo.AwaitActive(beside.api, id)
		demo.Want(beside.api, http.StatusAccepted, http.MethodDelete, "instances/"+id, nil, nil)
		demo.AwaitGone(beside.api, id)
		if err := beside.away.Start(); err != nil {
			t.Fatal(err)
		}
	}

	guest := r.Guests(1, "tomorrow")[0]
	message, err := json.Marshal(map[string]any{
		"method": "heartbeat", "version": "1.0", "_unique_id": trove.NewID(), "_of_tomorrow": map[string]any{"deep": []int{1}},
		"args": map[string]any{"instance_id": guest.ID, "sent": float64(time.Now().Unix()), "of_tomorrow": true,
			"payload": map[string]any{"service_status": "healthy", "of_tomorrow": map[string]any{"deep": []int{1}}}},
		"_context_request_id": "req-of-tomorrow", "_context_of_tomorrow": map[string]any{"deep": []int{1}}, "_context_is_admin": true,
	})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, r, "trove-conductor", message)
	region.Must(t, func() error {
		var status string
		if err := r.SQL.QueryRowContext(t.Context(), "SELECT status_description FROM service_statuses WHERE instance_id = '"+guest.ID+"'").Scan(&status); err != nil {
			return err
		}
		if status != "healthy" {
			return fmt.Errorf("the status is %s", status)
		}
		return nil
	})
}

// publish sends a message of oslo.messaging in clear, as the control plane.
func publish(t *testing.T, r *region.Region, topic string, message []byte) {
	t.Helper()
	conn, err := amqp091.Dial(r.Broker.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{"oslo.version": "2.0", "oslo.message": string(message)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), region.Patience)
	defer cancel()
	if err := ch.PublishWithContext(ctx, "trove", topic, true, false,
		amqp091.Publishing{ContentType: "application/json", ContentEncoding: "utf-8", Body: body, UserId: rabbittest.AdminName}); err != nil {
		t.Fatal(err)
	}
}

// processesOf are an instance's agent and engine. Others of the region come and
// go: task managers ready data directories.
func processesOf(r *region.Region, id string) (pids []int) {
	for _, pid := range r.InstanceProcesses() {
		cmdline, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		cwd, _ := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "cwd"))
		if bytes.Contains(cmdline, []byte(id)) || strings.Contains(cwd, id) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// away is how long guests are without anybody.
func away() time.Duration {
	if os.Getenv("GOTROVE_CHAOS") == "full" {
		return time.Minute
	}
	return 5 * time.Second
}

// guestsOutlive kills every service and the broker: the engine goes on, and its
// agent is back by itself when they are.
func guestsOutlive(t *testing.T, r *region.Region, apis []*region.Service) {
	demo := r.Demo()
	body := region.NewInstance("outlives", "mariadb")
	inner := body["instance"].(map[string]any)
	inner["databases"] = []map[string]any{{"name": "shop"}}
	inner["users"] = []map[string]any{{"name": "ann", "password": "s3cret-of-ann", "databases": []map[string]any{{"name": "shop"}}}}
	var made struct{ Instance region.Instance }
	demo.Want(apis[0], http.StatusOK, http.MethodPost, "instances", body, &made)
	i := demo.AwaitActive(apis[0], made.Instance.ID)
	before := processesOf(r, i.ID)
	if len(before) < 2 {
		t.Fatalf("an agent and an engine should run, not %v", before)
	}
	for _, s := range r.Services() {
		s.Kill()
	}
	r.Broker.Stop()
	for end := time.Now().Add(away()); time.Now().Before(end); {
		query(t, i.IP[0], "ann", "s3cret-of-ann", "shop")
		<-time.After(500 * time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), region.StartPatience)
	defer cancel()
	if err := r.Broker.Start(ctx); err != nil {
		t.Fatal(err)
	}
	for _, s := range r.Services() {
		if err := s.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if after := processesOf(r, i.ID); !slices.Equal(before, after) {
		t.Errorf("processes %v, before %v", after, before)
	}
	query(t, i.IP[0], "ann", "s3cret-of-ann", "shop")
	// The agent hears again.
	demo.AwaitActive(apis[1], i.ID)
	demo.Want(apis[1], http.StatusAccepted, http.MethodPost, "instances/"+i.ID+"/action", restart, nil)
	demo.AwaitActive(apis[0], i.ID)
	query(t, i.IP[0], "ann", "s3cret-of-ann", "shop")
	demo.Want(apis[0], http.StatusAccepted, http.MethodDelete, "instances/"+i.ID, nil, nil)
	demo.AwaitGone(apis[0], i.ID)
}
