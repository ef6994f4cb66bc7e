package e2e

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/proc/proctest"
)

const password = `s3cret'; DROP TABLE t; -- "`

// random is a source whose seed is told, so that a failure can be played again:
// GOTROVE_E2E_SEED.
func random(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("GOTROVE_E2E_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("GOTROVE_E2E_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// after returns after a time that is part of what is tested.
func after(d time.Duration) { <-time.After(d) }

// both makes an instance of each engine with a table t of n rows.
func (s *standalone) both(n int) []instance {
	s.t.Helper()
	var ids []string
	for _, datastore := range datastores {
		id, err := s.build(datastore, datastore, password)
		if err != nil {
			s.t.Fatal(err)
		}
		ids = append(ids, id)
	}
	var all []instance
	for _, id := range ids {
		i := s.serving(id)
		s.fill(i, password, n)
		all = append(all, i)
	}
	return all
}

// unharmed checks that an instance serves and has its n rows.
func (s *standalone) unharmed(i instance, n int) {
	s.t.Helper()
	s.serving(i.ID)
	s.eventually("rows of "+i.Name, func() error {
		got, err := s.rows(i, password)
		if err == nil && got != n {
			s.t.Fatalf("%s has %d rows instead of %d", i.Name, got, n)
		}
		return err
	})
}

// TestKillTrovedDuringCreates: all of them become what was asked for, none
// twice.
func TestKillTrovedDuringCreates(t *testing.T) {
	t.Parallel()
	r := random(t)
	s := newStandalone(t)
	if err := s.login(); err != nil {
		t.Fatal(err)
	}
	const count = 10
	ids := make([]string, count) // empty: the API did not answer
	var creates sync.WaitGroup
	for n := range count {
		creates.Go(func() { ids[n], _ = s.build(fmt.Sprint("many-", n), datastores[n%2], password) })
	}
	for range 2 {
		pause := time.Duration(r.Int64N(int64(4 * time.Second)))
		t.Logf("killed after %s", pause)
		after(pause)
		s.kill9()
		creates.Wait()
		s.start()
	}
	// Whoever got no answer looks whether there is one, and asks again if not.
	var list struct{ Instances []instance }
	if _, err := s.rest("GET", "instances?limit=100", nil, &list); err != nil {
		t.Fatal(err)
	}
	there := map[string]string{}
	for _, i := range list.Instances {
		if there[i.Name] != "" {
			t.Errorf("there are two of %s", i.Name)
		}
		there[i.Name] = i.ID
	}
	var all []instance
	for n, id := range ids {
		name := fmt.Sprint("many-", n)
		if id != "" && there[name] != id {
			t.Fatalf("%s was accepted as %s and is %q", name, id, there[name])
		}
		if id = there[name]; id == "" {
			var err error
			if id, err = s.build(name, datastores[n%2], password); err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, instance{ID: id})
	}
	addresses := map[string]string{}
	for n, i := range all {
		i = s.serving(i.ID)
		if other := addresses[i.Address]; other != "" {
			t.Errorf("%s and %s are both at %s", other, i.Name, i.Address)
		}
		addresses[i.Address] = i.Name
		db := s.open(i, password)
		if got, err := ask(db, "SELECT 1"); err != nil || got != "1" {
			t.Errorf("%s: %q, %v", i.Name, got, err)
		}
		db.Close()
		all[n] = i
	}
	s.exactly(all...)
	s.quota(count)
}

// TestKillAgent: the agent comes back to the engine that runs, and no client
// notices.
func TestKillAgent(t *testing.T) {
	t.Parallel()
	s := newStandalone(t)
	for _, i := range s.both(10) {
		agent, engine := s.mustPIDs(i.ID)
		db := s.open(i, password)
		defer db.Close()
		client, err := db.Conn(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		s.signal(agent, syscall.SIGKILL)
		asked := 0
		s.eventually("the agent of "+i.Name+" is back", func() error {
			asked++
			if got, err := ask(client, "SELECT count(*) FROM t"); err != nil || got != "10" {
				t.Fatalf("%s: question %d of a client that was there before: %q, %v", i.Name, asked, got, err)
			}
			now, same, err := s.pids(i.ID)
			switch {
			case err != nil:
				return err
			case same != engine:
				t.Fatalf("%s: the engine was pid %d and is pid %d", i.Name, engine, same)
			case now == agent:
				return fmt.Errorf("still pid %d", now)
			}
			return nil
		})
		s.serving(i.ID)
		// The one that came back works, and looks after the same engine.
		s.trovectl("database", "create", i.ID, "later")
		s.eventually("the database is made", func() error { return is(s.trovectl("database", "list", i.ID, "-f", "value"), "d\nlater") })
		if err := tell(client, "INSERT INTO t VALUES (2)"); err != nil {
			t.Errorf("%s: the client of before: %v", i.Name, err)
		}
		if _, now := s.mustPIDs(i.ID); now != engine {
			t.Errorf("%s: the engine was pid %d and is pid %d", i.Name, engine, now)
		}
		client.Close()
	}
}

// TestKillEngine: it is started again with what was committed, and while it
// cannot be, the operating status says so.
func TestKillEngine(t *testing.T) {
	t.Parallel()
	s := newStandalone(t)
	for _, i := range s.both(1000) {
		_, engine := s.mustPIDs(i.ID)
		s.signal(engine, syscall.SIGKILL)
		var agent, again int
		s.eventually("a new engine of "+i.Name, func() (err error) {
			agent, again, err = s.pids(i.ID)
			if err == nil && again == engine {
				err = fmt.Errorf("still pid %d", engine)
			}
			return err
		})
		s.unharmed(i, 1000)

		// Now something else takes its port before the agent can look.
		agent, again = s.mustPIDs(i.ID)
		if err := proctest.Freeze(agent); err != nil {
			s.t.Fatal(err)
		}
		s.signal(again, syscall.SIGKILL)
		port := map[string]string{"mariadb": "3306", "postgresql": "5432"}[i.Datastore.Type]
		var thief net.Listener
		s.eventually("the port of "+i.Name+" is free", func() (err error) {
			thief, err = net.Listen("tcp", net.JoinHostPort(i.Address, port))
			return err
		})
		s.signal(agent, syscall.SIGCONT)
		s.eventually("the operating status of "+i.Name+" tells the truth", func() error {
			now, err := s.show(i.ID)
			if err == nil && now.Operating == "HEALTHY" {
				err = fmt.Errorf("%s/%s", now.Status, now.Operating)
			}
			return err
		})
		thief.Close()
		s.unharmed(i, 1000)
	}
}

// TestPowerCut: everything ends at once, and one troved brings everything back.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	s := newStandalone(t)
	all := s.both(1000)
	var dead []int
	for _, i := range all {
		agent, engine := s.mustPIDs(i.ID)
		dead = append(dead, agent, engine)
	}
	for _, pid := range append([]int{s.cmd.Process.Pid}, dead...) {
		s.signal(pid, syscall.SIGKILL)
	}
	s.wait()
	s.killEverything() // children of engines
	// After a power cut pids begin anew: those on disk are somebody else's.
	s.reusePIDs()
	s.start()
	for _, i := range all {
		s.unharmed(i, 1000)
	}
	s.exactly(all...)
	s.quota(len(all))
}

// reusePIDs has a process of the engines' user, which has nothing to do with
// us, own the pids that lock files, pid files and handles name.
func (s *standalone) reusePIDs() {
	s.t.Helper()
	sleeper := exec.Command("sleep", "600")
	sleeper.Dir = "/"
	if os.Geteuid() == 0 {
		sleeper.SysProcAttr = &syscall.SysProcAttr{Credential: nobody(s.t)}
	}
	if err := sleeper.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := syscall.Kill(sleeper.Process.Pid, 0); err != nil {
			s.t.Errorf("the process that had a dead one's pid was harmed: %v", err)
		}
		_ = sleeper.Process.Kill()
		_ = sleeper.Wait()
	})
	pid := []byte(strconv.Itoa(sleeper.Process.Pid))
	changed := 0
	replace := func(file string, old *regexp.Regexp) {
		b, err := os.ReadFile(file)
		if err != nil {
			s.t.Fatal(err)
		}
		now := old.ReplaceAll(b, append([]byte("${1}"), pid...))
		if string(now) != string(b) {
			changed++
		}
		if err := os.WriteFile(file, now, 0o600); err != nil { // in place: owner and mode stay
			s.t.Fatal(err)
		}
	}
	first, handle := regexp.MustCompile(`^()\d+`), regexp.MustCompile(`("pid":\s*)\d+`)
	for _, dir := range []string{s.home + "/instances", s.run} {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			switch name := e.Name(); {
			case name == "postmaster.pid", strings.HasSuffix(name, ".lock"), name != "handle.json" && strings.HasSuffix(name, ".pid"):
				replace(path, first)
			case name == "handle.json" || name == "state.json":
				replace(path, handle)
			}
			return nil
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	if changed < 4 {
		s.t.Errorf("only %d files name a pid", changed)
	}
}

// TestKillTroved: agents and engines run on and are found again.
func TestKillTroved(t *testing.T) {
	t.Parallel()
	s := newStandalone(t)
	all := s.both(10)
	before := map[string][2]int{}
	for _, i := range all {
		agent, engine := s.mustPIDs(i.ID)
		before[i.ID] = [2]int{agent, engine}
	}
	for range 2 {
		s.kill9()
		s.start()
		for _, i := range all {
			s.unharmed(i, 10)
			// A call and an answer over the new bus.
			if got := s.trovectl("database", "list", i.ID, "-f", "value"); got != "d" {
				t.Errorf("%s has the databases %q", i.Name, got)
			}
			agent, engine := s.mustPIDs(i.ID)
			if now := [2]int{agent, engine}; now != before[i.ID] {
				t.Errorf("%s: agent and engine were %v and are %v", i.Name, before[i.ID], now)
			}
		}
	}
	s.exactly(all...)
}

// TestStop: SIGTERM stops engines as they like to be stopped.
func TestStop(t *testing.T) {
	t.Parallel()
	s := newStandalone(t)
	all := s.both(1000)
	s.stop()
	if left := s.processes(); len(left) > 0 {
		t.Errorf("left running: %+v", left)
	}
	clean := map[string]string{"mariadb": "Shutdown complete", "postgresql": "database system is shut down"}
	logs := func(i instance) string {
		var b strings.Builder
		for _, f := range glob(s.home + "/instances/" + i.ID + "/log/*") {
			b.WriteString(readFile(f))
		}
		return b.String()
	}
	for _, i := range all {
		if text := logs(i); !strings.Contains(text, clean[i.Datastore.Type]) {
			t.Errorf("%s did not stop cleanly:\n%s", i.Name, tail(text, 2000))
		}
	}
	s.start()
	for _, i := range all {
		s.unharmed(i, 1000)
		for _, sign := range []string{"Starting crash recovery", "not properly shut down", "was interrupted"} {
			if text := logs(i); strings.Contains(text, sign) {
				t.Errorf("%s had to recover:\n%s", i.Name, tail(text, 2000))
			}
		}
	}
	s.exactly(all...)
}
