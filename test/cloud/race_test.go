package cloud

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

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

// silentGuest looks at an instance whose agent does nothing: that takes no
// longer than with any other.
func silentGuest(t *testing.T, r *region.Region, apis []*region.Service) {
	demo := known(r, apis)
	id := demo.Create(apis[0], "silent", "mariadb")
	demo.AwaitActive(apis[0], id)
	thaw := freeze(t, agentsOf(r, id))
	for _, api := range apis {
		// The quickest of a few: a machine under load is slow, not wrong.
		quickest := time.Hour
		for range 4 {
			began := time.Now()
			demo.Want(api, http.StatusOK, http.MethodGet, "instances/"+id, nil, nil)
			quickest = min(quickest, time.Since(began))
		}
		if quickest > time.Second {
			t.Errorf("%s took %s", api.Name, quickest)
		}
	}
	thaw()
	demo.Want(apis[0], http.StatusAccepted, http.MethodDelete, "instances/"+id, nil, nil)
	demo.AwaitGone(apis[0], id)
}

// freeze stops an instance's agent from doing anything until it is thawed.
func freeze(t *testing.T, agents []int) (thaw func()) {
	t.Helper()
	if len(agents) == 0 {
		t.Fatal("there is no agent")
	}
	signal := func(s syscall.Signal) {
		for _, pid := range agents {
			if err := syscall.Kill(pid, s); err != nil {
				t.Error(err)
			}
		}
	}
	signal(syscall.SIGSTOP)
	return sync.OnceFunc(func() { signal(syscall.SIGCONT) })
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
