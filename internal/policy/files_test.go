package policy_test

import (
	"bytes"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/policy"
	"github.com/gotrove/gotrove/internal/trove"
)

var update = flag.Bool("update", false, "write the golden files")

// desk is a directory of policy files, an enforcer of them, and a clock that
// stands still unless it is told.
type desk struct {
	t   *testing.T
	dir string
	now time.Time
	log bytes.Buffer
	e   *policy.Enforcer
}

func newDesk(t *testing.T) *desk { return &desk{t: t, dir: t.TempDir(), now: time.Now()} }

func (d *desk) options() policy.Options {
	return policy.Options{Dirs: []string{"policy.d", filepath.Join(d.dir, "more")}, Search: []string{"/nonexistent", d.dir},
		Now: func() time.Time { return d.now }, Log: slog.New(slog.NewTextHandler(&d.log, nil))}
}

func (d *desk) open(o policy.Options) error {
	d.t.Helper()
	var err error
	d.e, err = policy.Open(d.t.Context(), o)
	return err
}

func (d *desk) mustOpen() {
	d.t.Helper()
	if err := d.open(d.options()); err != nil {
		d.t.Fatal(err)
	}
}

// write puts a file there, last changed at the desk's time.
func (d *desk) write(name, text string) {
	d.t.Helper()
	path := filepath.Join(d.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Chtimes(path, d.now, d.now); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) remove(name string) {
	d.t.Helper()
	if err := os.Remove(filepath.Join(d.dir, name)); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) pass(s float64) { d.now = d.now.Add(time.Duration(s * float64(time.Second))) }

// allows asks whether a member of the owning project may do it.
func (d *desk) allows(rule string) bool {
	return d.e.Enforce(rule, policy.Creds{ProjectID: "p", Roles: []string{"member"}}, policy.Owned("p")) == nil
}

func (d *desk) want(rule string, allowed bool) {
	d.t.Helper()
	if d.allows(rule) != allowed {
		d.t.Errorf("%s allowed: %v", rule, !allowed)
	}
}

func (d *desk) logged(text string) {
	d.t.Helper()
	if !strings.Contains(d.log.String(), text) {
		d.t.Errorf("%q is not in the log:\n%s", text, d.log.String())
	}
	d.log.Reset()
}

func TestFilesLieOverTheDefaults(t *testing.T) {
	d := newDesk(t)
	d.write("policy.yaml", "# comment\ninstance:show: role:boss\n\"instance:index\": \"!\"\n")
	d.write("policy.d/10-a.yaml", "instance:index: '@'\ninstance:create: '!'")
	d.write("policy.d/20-b.json", `{"instance:create": [["role:member", "project_id:%(tenant)s"]]}`)
	d.write("policy.d/.hidden.yaml", "instance:create: '!'")
	d.write("policy.d/below/c.yaml", "instance:create: '!'")
	d.write("more/empty.yaml", "# nothing\n")
	d.mustOpen()
	d.want("instance:show", false)
	d.want("instance:index", true)
	d.want("instance:create", true)
	d.want("instance:delete", true)
}

func TestNoFilesAreTheDefaults(t *testing.T) {
	d := newDesk(t)
	d.mustOpen()
	d.want("instance:show", true)
	d.want("instance:reset_status", false)
	o := d.options()
	o.File = "other.yaml"
	if err := d.open(o); err != nil {
		t.Fatal(err)
	}
	d.logged("the policy file is not there")
}

func TestJSONOfOld(t *testing.T) {
	d := newDesk(t)
	d.write("policy.json", "{\n\t\"admin_or_owner\": \"rule:admin or tenant:%(tenant)s\",\n\t\"instance:show\": \"!\"\n}")
	d.mustOpen()
	d.want("instance:show", false)
	d.want("instance:index", true) // by the attribute of old
	d.logged("tenant is deprecated")
	// The new name goes first.
	d.write("policy.yaml", "instance:index: '!'")
	d.mustOpen()
	d.want("instance:show", true)
	d.want("instance:index", false)
}

func TestDoubtsAreTold(t *testing.T) {
	d := newDesk(t)
	d.write("policy.yaml", "instance:shwo: role:x\nhelpers: role:y\ninstance:show: rule:helpers or rule:nowhere\n")
	d.mustOpen()
	log := d.log.String()
	for _, want := range []string{`rule \"instance:shwo\" has no effect`, `refers to rule \"nowhere\"`} {
		if !strings.Contains(log, want) {
			t.Errorf("not told: %s\n%s", want, log)
		}
	}
	if strings.Contains(log, `\"helpers\" has no effect`) {
		t.Error("a rule that another refers to is no mistake")
	}
}

func TestBrokenFilesStopTheStart(t *testing.T) {
	d := newDesk(t)
	for name, tt := range map[string]struct{ text, want string }{
		"a rule":   {"instance:show: role:a\ninstance:index: role:b or\n", `policy.yaml: line 2: rule "instance:index": the end stands where a check is wanted`},
		"YAML":     {"instance:show: 'role:a\n", "policy.yaml: yaml:"},
		"a circle": {"a: rule:b\nb: rule:a\n", "a → b → a"},
		"its size": {strings.Repeat("# long\n", 200_000), "larger than"},
	} {
		d.write("policy.yaml", tt.text)
		err := d.open(d.options())
		if !trove.IsKind(err, trove.KindBadRequest) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFilesAreReadAgain(t *testing.T) {
	d := newDesk(t)
	d.mustOpen()
	d.pass(100)
	d.write("policy.yaml", "instance:show: '!'")
	d.want("instance:show", true) // it may not be finished
	d.pass(0.5)
	d.want("instance:show", true)
	d.pass(0.6)
	d.want("instance:show", false)
	d.logged("the policy files have changed")

	// A file that was written a while ago and is put in place is whole.
	d.pass(10)
	d.write("new", "instance:index: '!'")
	d.pass(10)
	if err := os.Rename(filepath.Join(d.dir, "new"), filepath.Join(d.dir, "policy.yaml")); err != nil {
		t.Fatal(err)
	}
	d.want("instance:show", true)
	d.want("instance:index", false)

	// A change of a directory's files.
	d.write("policy.d/x.yaml", "instance:show: '!'")
	d.pass(2)
	d.want("instance:show", false)

	// One that is gone may be on its way back.
	d.pass(10)
	d.remove("policy.d/x.yaml")
	d.want("instance:show", false)
	d.pass(1)
	d.want("instance:show", true)
	d.remove("policy.yaml")
	d.pass(1)
	d.want("instance:index", false)
	d.pass(1)
	d.want("instance:index", true)
}

func TestBrokenChangeKeepsTheRules(t *testing.T) {
	d := newDesk(t)
	d.write("policy.yaml", "instance:show: '!'")
	d.mustOpen()
	d.pass(10)
	d.write("policy.yaml", "instance:show: role")
	d.pass(2)
	d.want("instance:show", false)
	d.logged("rules as they were stay in force")
	if err := d.e.Broken(); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("Broken = %v", err)
	}
	d.pass(2)
	d.want("instance:show", false)
	if strings.Contains(d.log.String(), "stay in force") {
		t.Error("told twice")
	}
	d.write("policy.yaml", "instance:index: '!'")
	d.pass(2)
	d.want("instance:show", true)
	if err := d.e.Broken(); err != nil {
		t.Errorf("Broken = %v", err)
	}
}

// A writer who has cut a file off may take his time with the rest.
func TestEmptyFileIsNoChange(t *testing.T) {
	d := newDesk(t)
	d.write("policy.yaml", "instance:show: '!'")
	d.write("policy.d/x.yaml", "")
	d.mustOpen()
	for _, name := range []string{"policy.yaml", "policy.d/new.yaml"} {
		d.pass(10)
		d.write(name, "")
		for range 3 {
			d.pass(60)
			d.want("instance:show", false)
		}
		d.logged(name + " is empty now")
		if d.e.Broken() == nil {
			t.Errorf("empty %s: not told", name)
		}
		// What was empty when it was read may be written anew, and be empty again.
		d.write("policy.yaml", "instance:show: '!'\ninstance:index: '!'")
		d.write("policy.d/new.yaml", "# nothing")
		d.write("policy.d/x.yaml", "")
		d.pass(2)
		d.want("instance:index", false)
		if err := d.e.Broken(); err != nil {
			t.Error(err)
		}
	}
	// Nothing but a comment is a policy.
	d.write("policy.yaml", "# the defaults")
	d.pass(2)
	d.want("instance:show", true)
}

func TestClockPutBack(t *testing.T) {
	d := newDesk(t)
	d.mustOpen()
	d.pass(-3600)
	d.write("policy.yaml", "instance:show: '!'")
	d.want("instance:show", true)
	d.pass(1)
	d.want("instance:show", false)
}

func TestReloadUnderLoad(t *testing.T) {
	d := newDesk(t)
	d.write("policy.yaml", "instance:show: '@'")
	o := d.options()
	o.Now = nil
	if err := d.open(o); err != nil {
		t.Fatal(err)
	}
	d.now = d.now.Add(-time.Hour)
	stop := make(chan struct{})
	var g sync.WaitGroup
	for range 4 {
		g.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					d.allows("instance:index")
				}
			}
		})
	}
	d.write("policy.yaml", "instance:show: '!'")
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for d.allows("instance:show") {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("the change was not seen")
		}
	}
	close(stop)
	g.Wait()
}

func TestUndecidedIsRefused(t *testing.T) {
	d := newDesk(t)
	d.write("policy.yaml", `instance:show: "not user_id.name:x"`)
	d.mustOpen()
	if d.e.Enforce("instance:show", policy.Creds{UserID: "u", ProjectID: "p"}, policy.Owned("p")) == nil {
		t.Error("a rule that cannot be decided let somebody in")
	}
	d.logged("cannot be decided")
}

func TestAdminRoles(t *testing.T) {
	d := newDesk(t)
	d.write("policy.yaml", "context_is_admin: '!'")
	o := d.options()
	o.AdminRoles = []string{"dba"}
	if err := d.open(o); err != nil {
		t.Fatal(err)
	}
	if !d.e.Admin(policy.Creds{Roles: []string{"DBA"}}) || d.e.Admin(policy.Creds{Roles: []string{"admin"}}) {
		t.Error("the roles of the configuration do not make the administrator")
	}
}

func TestSample(t *testing.T) {
	var b bytes.Buffer
	if err := policy.Sample(&b); err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/policy.yaml.sample"
	if *update {
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	// With the comments taken off, it is the defaults.
	var text strings.Builder
	for line := range strings.SplitSeq(b.String(), "\n") {
		if rule, ok := strings.CutPrefix(line, `#"`); ok {
			fmt.Fprintln(&text, `"`+rule)
		}
	}
	d := newDesk(t)
	d.write("policy.yaml", text.String())
	d.mustOpen()
	if strings.Contains(d.log.String(), "WARN") {
		t.Errorf("the sample is not understood:\n%s", d.log.String())
	}
	var changed, all bytes.Buffer
	if err := d.e.WriteRules(&changed, true); err != nil || changed.Len() > 0 {
		t.Errorf("the sample differs from the defaults: %s (%v)", changed.String(), err)
	}
	if err := d.e.WriteRules(&all, false); err != nil || strings.Count(all.String(), "\n") != len(policy.Defaults()) {
		t.Errorf("not every rule is written: %s (%v)", all.String(), err)
	}
	d.write("policy.yaml", all.String())
	d.mustOpen()
	changed.Reset()
	if err := d.e.WriteRules(&changed, true); err != nil || changed.Len() > 0 {
		t.Errorf("what was written is read otherwise: %s (%v)", changed.String(), err)
	}
}

func TestEveryDefaultIsUnderstood(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range policy.Defaults() {
		if _, err := policy.Parse(d.Check); err != nil {
			t.Errorf("%s: %v", d.Name, err)
		}
		if seen[d.Name] || d.Description == "" {
			t.Errorf("%s is there twice, or not described", d.Name)
		}
		seen[d.Name] = true
	}
}

func BenchmarkEnforce(b *testing.B) {
	e, err := policy.Open(b.Context(), policy.Options{Search: []string{b.TempDir()}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	c, target := policy.Creds{ProjectID: "p", Roles: []string{"reader", "member"}}, policy.Owned("p")
	b.ReportAllocs()
	for b.Loop() {
		if err := e.Enforce("instance:show", c, target); err != nil {
			b.Fatal(err)
		}
	}
}
