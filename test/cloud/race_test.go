package cloud

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/proc/proctest"
	"github.com/gotrove/gotrove/test/region"
)

var restart = map[string]any{"restart": map[string]any{}}

// TestAtOnce asks two APIs for what only one may have.
func TestAtOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("needs RabbitMQ, a database server and Keystone")
	}
	r := region.New(t, region.Options{Bin: bin, Config: "[DEFAULT]\nmax_instances_per_tenant = 10"})
	apis := []*region.Service{r.Start(region.API), r.Start(region.API)}
	r.Start(region.TaskManager)
	r.Start(region.TaskManager)
	conductors := []*region.Service{r.Start(region.Conductor), r.Start(region.Conductor)}
	r.Run(t, "operations", func(t *testing.T) { oneOperation(t, r, apis) })
	r.Run(t, "silent guest", func(t *testing.T) { silentGuest(t, r, apis) })
	r.Run(t, "quota", func(t *testing.T) { exactQuota(t, r, apis) })
	r.Run(t, "burst", func(t *testing.T) { burst(t, r, conductors) })
	r.AssertNothingLeft()
}

// together makes requests at once, each at the next API, and counts the codes.
func together(t *testing.T, c *region.Client, apis []*region.Service, n int, request func(n int) (method, path string, body any)) (codes map[int]int, answers []region.Answer) {
	t.Helper()
	answers = make([]region.Answer, n)
	errs := make([]error, n)
	begin := make(chan struct{})
	var asking sync.WaitGroup
	for i := range n {
		asking.Go(func() {
			method, path, body := request(i)
			<-begin
			answers[i], errs[i] = c.Do(apis[i%len(apis)], method, path, body)
		})
	}
	close(begin)
	asking.Wait()
	codes = map[int]int{}
	for i, a := range answers {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		codes[a.Code]++
	}
	return codes, answers
}

// oneOperation asks for two restarts of an instance at once, again and again:
// one is accepted and the other refused with 422. A deletion always is accepted
// and ends what is under way.
func oneOperation(t *testing.T, r *region.Region, apis []*region.Service) {
	const rounds = 8
	demo := known(r, apis)
	id := demo.Create(apis[0], "at-once", "mariadb")
	demo.AwaitActive(apis[0], id)
	action := "instances/" + id + "/action"
	for round := range rounds {
		// So that none of them can have ended before the last is asked for.
		thaw := freeze(t, agentsOf(r, id))
		codes, answers := together(t, demo, apis, 4, func(int) (string, string, any) { return http.MethodPost, action, restart })
		if codes[http.StatusAccepted] != 1 || codes[http.StatusUnprocessableEntity] != 3 {
			t.Fatalf("round %d: %v: %s", round, codes, answers)
		}
		thaw()
		demo.AwaitActive(apis[round%2], id)
	}
	var restarts int
	if err := r.SQL.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM work WHERE subject = '"+id+"' AND kind = 'restart'").Scan(&restarts); err != nil || restarts != rounds {
		t.Errorf("%d restarts were carried out, %v", restarts, err)
	}
	codes, answers := together(t, demo, apis, 6, func(n int) (string, string, any) {
		if n < 4 {
			return http.MethodPost, action, restart
		}
		return http.MethodDelete, "instances/" + id, nil
	})
	for n, a := range answers {
		switch {
		case n < 4 && a.Code != http.StatusAccepted && a.Code != http.StatusUnprocessableEntity && a.Code != http.StatusNotFound,
			n >= 4 && a.Code != http.StatusAccepted && a.Code != http.StatusNotFound:
			t.Errorf("request %d: %d: %s", n, a.Code, a.Body)
		}
	}
	if codes[http.StatusAccepted] > 3 { // two deletions and at most one restart before them
		t.Errorf("%v: more than one restart", codes)
	}
	demo.AwaitGone(apis[0], id)
}

// silentGuest shows instances whose agents do nothing: that takes no longer than
// a second, and the state is what it was. No API has seen the token or asked that
// agent before, so that nothing is remembered.
//
// A machine under load is slow, not wrong: a show may take longer by what a list,
// which asks no agent, took beyond a tenth of a second just before. That the wait
// itself ends in time is held by a test of package api, whatever the load.
func silentGuest(t *testing.T, r *region.Region, apis []*region.Service) {
	demo := r.Demo()
	var ids []string
	for n := range 2 {
		ids = append(ids, demo.Create(apis[0], fmt.Sprintf("silent-%d", n), "mariadb"))
	}
	var agents []int
	for _, id := range ids {
		// In the database, as a show would remember what the agent said.
		region.Must(t, func() error { return serves(t, r, id) })
		agents = append(agents, agentsOf(r, id)...)
	}
	thaw := freeze(t, agents)
	defer thaw()
	timed := func(api *region.Service, path string, v any) time.Duration {
		t.Helper()
		demo.NewToken()
		began := time.Now()
		demo.Want(api, http.StatusOK, http.MethodGet, path, nil, v)
		return time.Since(began)
	}
	for _, id := range ids {
		for _, api := range apis {
			var shown struct {
				Instance struct {
					Status    string
					Operating string `json:"operating_status"`
					Volume    struct{ Used *float64 }
				}
			}
			load := timed(api, "instances", nil)
			took := timed(api, "instances/"+id, &shown)
			t.Logf("%s: a list took %s, a show %s", api.Name, load.Round(time.Millisecond), took.Round(time.Millisecond))
			if most := time.Second + max(0, load-100*time.Millisecond); took > most {
				t.Errorf("%s took %s, of at most %s", api.Name, took, most)
			}
			if i := shown.Instance; i.Status != "ACTIVE" || i.Operating != "HEALTHY" || i.Volume.Used != nil {
				t.Errorf("%s shows %+v", api.Name, i)
			}
		}
	}
	thaw()
	for _, id := range ids {
		demo.Want(apis[0], http.StatusAccepted, http.MethodDelete, "instances/"+id, nil, nil)
	}
	for _, id := range ids {
		demo.AwaitGone(apis[0], id)
	}
}

// serves is whether an instance is made and its agent says that it is healthy.
func serves(t *testing.T, r *region.Region, id string) error {
	var n int
	err := r.SQL.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM instances i JOIN service_statuses s ON s.instance_id = i.id JOIN observed o ON o.instance_id = i.id"+
		" WHERE i.id = '"+id+"' AND i.task_id = 1 AND s.status_description = 'healthy' AND o.server_status = 'ACTIVE'").Scan(&n)
	if err == nil && n == 0 {
		err = fmt.Errorf("instance %s does not serve yet", id)
	}
	return err
}

// freeze stops an instance's agent from doing anything until it is thawed.
func freeze(t *testing.T, agents []int) (thaw func()) {
	t.Helper()
	if len(agents) == 0 {
		t.Fatal("there is no agent")
	}
	each := func(f func(pid int) error) {
		for _, pid := range agents {
			if err := f(pid); err != nil {
				t.Error(err)
			}
		}
	}
	each(proctest.Freeze)
	return sync.OnceFunc(func() { each(proctest.Thaw) })
}

// known is the ordinary user, whose token each API has checked.
func known(r *region.Region, apis []*region.Service) *region.Client {
	demo := r.Demo()
	for _, api := range apis {
		demo.Want(api, http.StatusOK, http.MethodGet, "instances", nil, nil)
	}
	return demo
}

// agentsOf are the processes of an instance's agent.
func agentsOf(r *region.Region, id string) (pids []int) {
	for _, pid := range r.InstanceProcesses() {
		exe, _ := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "exe"))
		cmdline, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if filepath.Base(exe) == "trove-guestagent" && bytes.Contains(cmdline, []byte(id)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// exactQuota asks for three times as many instances as a project may have.
func exactQuota(t *testing.T, r *region.Region, apis []*region.Service) {
	const limit = 10
	demo := known(r, apis)
	codes, answers := together(t, demo, apis, 3*limit, func(n int) (string, string, any) {
		return http.MethodPost, "instances", region.NewInstance(fmt.Sprintf("quota-%d", n), "mariadb")
	})
	if codes[http.StatusOK] != limit || codes[http.StatusRequestEntityTooLarge] != 2*limit {
		t.Errorf("%v", codes)
	}
	used(t, r, demo, limit)
	var gone []string
	for _, a := range answers {
		var made struct{ Instance region.Instance }
		if a.Code == http.StatusOK && a.Into(&made) == nil {
			gone = append(gone, made.Instance.ID)
		}
	}
	// One is refused by either API as long as they are there.
	for _, api := range apis {
		demo.Want(api, http.StatusRequestEntityTooLarge, http.MethodPost, "instances", region.NewInstance("too-many", "mariadb"), nil)
	}
	codes, _ = together(t, demo, apis, len(gone), func(n int) (string, string, any) {
		return http.MethodDelete, "instances/" + gone[n], nil
	})
	if codes[http.StatusAccepted] != len(gone) {
		t.Errorf("deletions: %v", codes)
	}
	for _, id := range gone {
		demo.AwaitGone(apis[0], id)
	}
	used(t, r, demo, 0)
}

// used holds that a project uses its quota for so many instances.
func used(t *testing.T, r *region.Region, c *region.Client, n int) {
	t.Helper()
	rows, err := r.SQL.QueryContext(t.Context(), "SELECT resource, in_use, reserved FROM quota_usages WHERE tenant_id = '"+c.Project+"'")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	seen := map[string]int{}
	for rows.Next() {
		var resource string
		var inUse, reserved int
		if err := rows.Scan(&resource, &inUse, &reserved); err != nil {
			t.Fatal(err)
		}
		if reserved != 0 {
			t.Errorf("%s: %d reserved", resource, reserved)
		}
		seen[resource] = inUse
	}
	if seen["instances"] != n || seen["volumes"] != n {
		t.Errorf("%v are used, not %d instances and volumes", seen, n)
	}
}
