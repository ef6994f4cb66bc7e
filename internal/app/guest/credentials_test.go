package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gotrove/gotrove/internal/rpc"
	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
)

// spoke waits for a report under a login.
func (p *plane) spoke(t *testing.T, login string) {
	t.Helper()
	p.until(t, "report of "+login, func() bool { _, ok := p.senders[login]; return ok })
}

// spokeFirst is spoke, and the first report was one of a rotation's request.
func (p *plane) spokeFirst(t *testing.T, login, request string) {
	t.Helper()
	p.spoke(t, login)
	p.mu.Lock()
	defer p.mu.Unlock()
	if got := p.senders[login]; got != request {
		t.Errorf("the first report of %s says request %q", login, got)
	}
}

// forgetSenders lets spoke wait for new reports.
func (p *plane) forgetSenders() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.senders)
}

func (p *plane) rotate(t *testing.T, ctx context.Context, id string, generation int) {
	t.Helper()
	login, password, err := p.bus.EnsureLogin(ctx, id, generation)
	if err != nil {
		t.Fatal(err)
	}
	ctx = rpc.WithContext(ctx, rpc.Context{RequestID: requestOf(generation)})
	p.tell(t, ctx, id, guestapi.Credentials{Generation: generation, Login: login, Password: password})
}

// requestOf is the request that a generation comes with.
func requestOf(generation int) string { return fmt.Sprintf("req-of-generation-%d", generation) }

func (p *plane) tell(t *testing.T, ctx context.Context, id string, c guestapi.Credentials) {
	t.Helper()
	if err := p.client.Cast(ctx, guestapi.RotateMessage(id, c)); err != nil {
		t.Fatal(err)
	}
}

// kept is the agent's file of credentials.
func (m *machine) kept(t *testing.T) (kept struct {
	Current  guestapi.Credentials
	Previous *guestapi.Credentials
}) {
	t.Helper()
	path := filepath.Join(m.state, "credentials.json")
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &kept)
	}
	st, serr := os.Stat(path)
	if err := errors.Join(err, serr); err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode is %o", st.Mode().Perm())
	}
	return kept
}

// TestRotation moves an agent from login to login, lets it die in between, and
// lets it go back from one that is refused.
func TestRotation(t *testing.T) {
	if found, err := kinds["mariadb"].installed(t.Context()); err != nil || len(found) == 0 {
		t.Skipf("mariadb is not installed (%v)", err)
	}
	dir, err := os.MkdirTemp("", "c")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := newPlane(t, dir)
	m := p.machine(t, dir, "mariadb", 3306)
	t.Cleanup(func() { m.killAll(t) })
	ctx, cancel := context.WithTimeout(t.Context(), 3*limit)
	defer cancel()
	login := func(g int) string { return guestapi.Login(m.id, g) }
	ping := func() {
		t.Helper()
		if err := p.guests.Ping(ctx, m.id); err != nil {
			t.Error(err)
		}
	}

	m.start(t)
	p.untilStatus(t, trove.ServiceNew)
	if err := m.agent.Process.Signal(syscall.SIGHUP); err != nil { // it is there for all that follows
		t.Fatal(err)
	}
	p.rotate(t, ctx, m.id, 1)
	p.spokeFirst(t, login(1), requestOf(1))
	if err := p.bus.RemoveLogins(ctx, m.id, 1); err != nil {
		t.Fatal(err)
	}
	ping()
	p.until(t, "forgetting of the first login", func() bool { return m.kept(t).Previous == nil })

	// Told again, it says again that it uses them; told of what it had, nothing
	// changes; told of another's, neither.
	p.forgetSenders()
	p.rotate(t, ctx, m.id, 1)
	p.spoke(t, login(1))
	p.tell(t, ctx, m.id, guestapi.Credentials{Generation: 9, Login: "guest-another+9", Password: "x"})
	ping()
	if got := m.kept(t).Current.Login; got != login(1) {
		t.Errorf("the agent keeps %s", got)
	}

	// Killed, it comes back under its new login.
	restart := func() {
		t.Helper()
		if err := errors.Join(m.agent.Process.Kill(), ended(m.agent)); err != nil {
			t.Fatal(err)
		}
		p.forgetSenders()
		m.start(t)
	}
	restart()
	p.spoke(t, login(1))
	ping()

	// A login that is not there is refused: the agent goes on under the one it
	// has, also after its death.
	p.tell(t, ctx, m.id, guestapi.Credentials{Generation: 2, Login: login(2), Password: "not made yet"})
	p.until(t, "agent that keeps both", func() bool { k := m.kept(t); return k.Current.Generation == 2 && k.Previous != nil })
	ping()
	restart()
	p.spoke(t, login(1))
	ping()

	// When it is let in, it moves over. What it was told first counts: the
	// password of a generation never changes, so here it is let in under
	// generation 3.
	p.rotate(t, ctx, m.id, 3)
	p.spokeFirst(t, login(3), requestOf(3))
	if err := p.bus.RemoveLogins(ctx, m.id, 3); err != nil {
		t.Fatal(err)
	}
	ping()
	p.until(t, "forgetting of what was before", func() bool { return m.kept(t).Previous == nil })
	b, err := os.ReadFile(m.log.Name())
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"not made yet", m.kept(t).Current.Password} {
		if strings.Contains(string(b), secret) {
			t.Error("the agent's log tells a password")
		}
	}
	p.until(t, "beat", func() bool { return len(p.beats) > 0 })
}

// A report that comes of nobody's request may be the first under new
// credentials: what it confirms was somebody's.
func TestFirstReportHasIDs(t *testing.T) {
	l := &link{asked: rpc.Context{RequestID: "req-rotation", GlobalRequestID: "req-global", ProjectID: "p"}}
	id := func(c rpc.Context) string {
		return rpc.ContextFrom(l.named(rpc.WithContext(t.Context(), c))).RequestID
	}
	if got := id(rpc.Context{}); got != "req-rotation" {
		t.Errorf("without ids: %q", got)
	}
	if got := id(rpc.Context{RequestID: "req-other"}); got != "req-other" {
		t.Errorf("with ids of its own: %q", got)
	}
	l.heard.Store(true)
	if got := id(rpc.Context{}); got != "" {
		t.Errorf("after the first: %q", got)
	}
}
