package policy

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// peer is Debian's oslo.policy in a process of its own.
type peer struct {
	in  io.Writer
	out *bufio.Reader
}

type question struct {
	Rule   string         `json:"rule"`
	Creds  map[string]any `json:"creds"`
	Target Target         `json:"target"`

	creds Creds
}

type request struct {
	File        string            `json:"file"`
	Defaults    map[string]string `json:"defaults"`
	DefaultRule string            `json:"default_rule"`
	Questions   []question        `json:"questions"`
}

type reply struct {
	Raised     *string `json:"raised"`
	Complaints int     `json:"complaints"`
	Answers    []any   `json:"answers"`
}

func startPeer(t *testing.T) *peer {
	t.Helper()
	if testing.Short() {
		t.Skip("needs oslo.policy")
	}
	const python = "/usr/bin/python3"
	if err := exec.Command(python, "-c", "import oslo_policy").Run(); err != nil {
		t.Fatalf("%s cannot import oslo_policy (%v): install Debian's package python3-oslo.policy", python, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	c := exec.CommandContext(ctx, python, "testdata/decide.py")
	c.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = c.Wait()
		cancel()
	})
	return &peer{in, bufio.NewReader(out)}
}

func (p *peer) ask(t interface{ Fatal(...any) }, r request) reply {
	r.Defaults = map[string]string{}
	for _, d := range Defaults() {
		r.Defaults[d.Name] = d.Check
	}
	for i, q := range r.Questions {
		r.Questions[i].Creds = pythonCreds(&q.creds)
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.in.Write(append(b, '\n')); err != nil {
		t.Fatal(err)
	}
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var answer reply
	if err := json.Unmarshal(line, &answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// pythonCreds are the attributes as the original passes them to oslo.policy.
func pythonCreds(c *Creds) map[string]any {
	m := map[string]any{}
	for _, name := range []string{"user_id", "user", "project_id", "project", "tenant", "user_domain_id", "user_domain",
		"project_domain_id", "project_domain", "service_user_id", "service_project_id", "roles", "service_roles",
		"is_admin", "is_admin_project", "domain_id", "domain", "system_scope"} {
		m[name], _ = c.attribute(name)
	}
	for k, v := range c.More {
		m[k] = v
	}
	return m
}

// ours gives our decision, and whether it could be made.
func ours(t interface{ Fatal(...any) }, s *ruleSet, q question) (allowed, decided bool) {
	e := evaluation{rules: s, creds: &q.creds, target: q.Target}
	_, c := s.find(q.Rule)
	allowed = c != nil && c.holds(&e)
	return allowed && e.err == nil, e.err == nil
}

var (
	values    = rapid.SampledFrom([]string{"p1", "p2", "u1", "admin", "member", "None", "True", "7", ""})
	roleNames = rapid.SampledFrom([]string{"admin", "Member", "READER", "service", "7"})
	targets   = rapid.MapOfN(rapid.SampledFrom([]string{"tenant", "user_id", "role.name", "x"}), values, 0, 4)
	callers   = rapid.Custom(func(t *rapid.T) Creds {
		var nested any = map[string]any{}
		switch rapid.IntRange(0, 5).Draw(t, "shape") {
		case 0:
			nested = map[string]any{"b": values.Draw(t, "b"), "c": map[string]any{"d": values.Draw(t, "d")}}
		case 1:
			nested = []any{map[string]any{"b": values.Draw(t, "b")}, map[string]any{"b": "p1"}, map[string]any{}}
		case 2:
			nested = map[string]any{"b": []any{values.Draw(t, "b"), "p2", nil, true, 7}}
		case 3:
			nested = values.Draw(t, "flat")
		case 4:
			nested = nil
		}
		return Creds{
			UserID:    rapid.SampledFrom([]string{"u1", "u2", ""}).Draw(t, "user"),
			ProjectID: rapid.SampledFrom([]string{"p1", "p2"}).Draw(t, "project"),
			Roles:     rapid.SliceOfN(roleNames, 0, 3).Draw(t, "roles"),
			IsAdmin:   rapid.Bool().Draw(t, "admin"), NotAdminProject: rapid.Bool().Draw(t, "elsewhere"),
			ServiceRoles: rapid.SliceOfN(roleNames, 0, 2).Draw(t, "service roles"),
			More:         map[string]any{"a": nested, "x-odd": true, "n": 7},
		}
	})
	ruleNames = []string{"r0", "r1", "r2", "r3", "r4"}
	matches   = rapid.SampledFrom([]string{"%(tenant)s", "%(user_id)s", "%(role.name)s", "%(x)s", "%(missing)s", "p1", "u1",
		"None", "True", "False", "7", "p%(x)s", "%(x)s%(x)s", "%%", "a:b", "", "(x)y"})
	kinds = rapid.SampledFrom([]string{"user_id", "project_id", "tenant", "user", "is_admin", "is_admin_project", "system_scope",
		"a.b", "a.c.d", "a", "a.b.c", "nobody", "x-odd", "n", "service_roles", "roles", "domain",
		"'p1'", `"p1"`, "'Member'", "None", "True", "False", "7", "-1", "0", "''", "role.name", "Role", "RULE"})
	// checks gives one check that means something; before says which rules it may
	// refer to without going round in a circle.
	checks = func(before int) *rapid.Generator[string] {
		return rapid.Custom(func(t *rapid.T) string {
			switch rapid.IntRange(0, 9).Draw(t, "kind") {
			case 0:
				return "@"
			case 1:
				return "!"
			case 2, 3:
				return "role:" + rapid.SampledFrom([]string{"admin", "MEMBER", "%(x)s", "%(missing)s", "7"}).Draw(t, "role")
			case 4, 5:
				names := append([]string{"admin", "admin_or_owner", "nowhere", "context_is_admin"}, ruleNames[:before]...)
				return "rule:" + rapid.SampledFrom(names).Draw(t, "rule")
			}
			return kinds.Draw(t, "left") + ":" + matches.Draw(t, "right")
		})
	}
	spaces = rapid.SampledFrom([]string{" ", " ", "  ", "\t", "\n"})
)

// expression gives a rule in the language as people write it.
func expression(t *rapid.T, before, depth int) string {
	word := func(w string) string {
		if rapid.IntRange(0, 9).Draw(t, "loud") == 0 {
			w = strings.ToUpper(w)
		}
		return w
	}
	space := func() string { return spaces.Draw(t, "space") }
	if depth == 0 {
		return checks(before).Draw(t, "check")
	}
	sub := func() string { return expression(t, before, depth-1) }
	switch rapid.IntRange(0, 6).Draw(t, "form") {
	case 0, 1:
		return sub() + space() + word("and") + space() + sub()
	case 2, 3:
		return sub() + space() + word("or") + space() + sub()
	case 4:
		return word("not") + space() + sub()
	case 5:
		return "(" + sub() + ")"
	}
	return checks(before).Draw(t, "check")
}

// anyRule gives a rule in one of the forms a file may have it.
func anyRule(t *rapid.T, before int) any {
	switch rapid.IntRange(0, 9).Draw(t, "rule form") {
	case 0:
		return ""
	case 1:
		var list []any
		for range rapid.IntRange(0, 3).Draw(t, "outer") {
			if rapid.Bool().Draw(t, "bare") {
				list = append(list, checks(before).Draw(t, "check"))
				continue
			}
			list = append(list, rapid.SliceOfN(checks(before), 0, 3).Draw(t, "inner"))
		}
		if list == nil {
			return []any{}
		}
		return list
	}
	return expression(t, before, rapid.IntRange(0, 4).Draw(t, "depth"))
}

// Rules that mean something are decided as oslo.policy decides them.
func TestDecisionsOfPython(t *testing.T) {
	p := startPeer(t)
	decisions, undecided := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		rules := map[string]any{}
		for i, name := range ruleNames {
			rules[name] = anyRule(t, i)
		}
		if rapid.IntRange(0, 3).Draw(t, "own default") == 0 {
			rules["default"] = checks(0).Filter(func(s string) bool { return s != "rule:nowhere" }).Draw(t, "default")
		}
		if rapid.IntRange(0, 3).Draw(t, "own owner") == 0 {
			rules["admin_or_owner"] = "rule:admin or tenant:%(tenant)s"
		}
		text, err := json.MarshalIndent(rules, "", rapid.SampledFrom([]string{"", " ", "\t"}).Draw(t, "indent"))
		if err != nil {
			t.Fatal(err)
		}
		r := request{File: string(text), DefaultRule: rapid.SampledFrom([]string{"default", "r0", "none such"}).Draw(t, "default rule")}
		if r.DefaultRule == "r0" {
			rules["r0"] = "!" // it must not refer to what is not there
		}
		for range 30 {
			r.Questions = append(r.Questions, question{
				Rule:   rapid.SampledFrom(append([]string{"instance:show", "datastore:index", "nothing"}, ruleNames...)).Draw(t, "asked"),
				Target: targets.Draw(t, "target"), creds: callers.Draw(t, "caller"),
			})
		}
		over, err := read(text)
		if err != nil {
			t.Fatalf("refused: %v\n%s", err, text)
		}
		s, err := newRuleSet(over, r.DefaultRule)
		if err != nil {
			if strings.Contains(string(text), "rule:nowhere") && r.DefaultRule != "none such" {
				return // the default rule refers to itself
			}
			t.Fatalf("refused: %v\n%s", err, text)
		}
		theirs := p.ask(t, r)
		if theirs.Raised != nil || theirs.Complaints > 0 {
			t.Fatalf("oslo.policy does not understand it: %+v\n%s", theirs, text)
		}
		for i, q := range r.Questions {
			allowed, decided := ours(t, s, q)
			want, raised := theirs.Answers[i].(bool)
			decisions++
			if !decided {
				undecided++
			}
			if allowed != want || decided != raised {
				t.Fatalf("rule %s, caller %v, target %v: allowed %v, decided %v; oslo.policy: %v\n%s",
					q.Rule, pythonCreds(&q.creds), q.Target, allowed, decided, theirs.Answers[i], text)
			}
		}
	})
	t.Logf("%d decisions, %d of them refused for lack of an answer", decisions, undecided)
}

// What oslo.policy does not understand is refused, and nothing else is.
func TestSyntaxOfPython(t *testing.T) {
	p := startPeer(t)
	words := rapid.SampledFrom([]string{"and", "or", "not", "(", ")", "role:admin", "@", "!", "((", "))", "(role:admin", "user_id:u1)",
		"nonsense", `"quoted:text"`, "'a'", "NOT", "role:(x)", "%", "user_id:u1", "rule:r1", "()", "@)", "(!"})
	refused, taken := 0, 0
	one := func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(words, 1, 7).Draw(t, "words"), spaces.Draw(t, "space"))
		file, err := json.Marshal(map[string]string{"r": text})
		if err != nil {
			t.Fatal(err)
		}
		q := question{Rule: "r", Target: Target{}, creds: Creds{ProjectID: "p", Roles: []string{"admin"}}}
		theirs := p.ask(t, request{File: string(file), DefaultRule: "default", Questions: []question{q}})
		c, err := Parse(text)
		understood := theirs.Raised == nil && theirs.Complaints == 0
		if understood {
			_, understood = theirs.Answers[0].(bool)
		}
		if (err == nil) != understood {
			t.Fatalf("%q: %v; oslo.policy: %+v", text, err, theirs)
		}
		if err != nil {
			refused++
			return
		}
		taken++
		again, err := Parse(c.String())
		if err != nil || again.String() != c.String() {
			t.Fatalf("%q is written as %q, which is read as %v (%v)", text, c, again, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		for range 20 {
			one(t)
		}
	})
	t.Logf("%d taken, %d refused", taken, refused)
	if taken == 0 || refused == 0 {
		t.Error("the generated rules are all of one sort")
	}
}

// Rules that oslo.policy takes and we do not: it would fail at the time of the
// request, let in everybody, or ask another server.
func TestStricterThanPython(t *testing.T) {
	for _, tt := range []struct{ file, want string }{
		{`r: !`, "no condition"},
		{`r:`, "no condition"},
		{`r: !!int role:admin`, "want a text"},
		{`r: false`, "want a text"},
		{`r: 1`, "want a text"},
		{`r: {a: b}`, "want a text"},
		{`r: [[1]]`, "want a text"},
		{`r: "http://127.0.0.1/x"`, "asks another server"},
		{`r: "https://127.0.0.1/x"`, "asks another server"},
		{`r: "user_id:%(x)d"`, "after % comes"},
		{`r: "user_id:50%"`, "after % comes"},
		{`r: "class:x"`, "cannot be the name"},
		{`r: ":x"`, "neither the name"},
		{`r: "1.5:x"`, "neither the name"},
		{`r: "'a\\'b':x"`, "neither the name"},
		{`r: "'a:b"`, "neither the name"},
		{`r: "! and 'a:b"`, "neither the name"}, // which it never comes to
		{"r: role:a\nr: role:b", "twice, first on line 1"},
		{"1: role:a", "not the name of a rule"},
		{"[a]", "want rules"},
		{"\"r\": \"role:a", "found unexpected end"},
		{"r: \"" + strings.Repeat("(", 200) + "@" + strings.Repeat(")", 200) + "\"", "nested deeper"},
		{"a: &x role:admin\nb: *x", "want a text"},
	} {
		_, err := read([]byte(tt.file))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.60s: %v, want %q", tt.file, err, tt.want)
		}
	}
	for _, circle := range []map[string]string{
		{"a": "rule:b", "b": "not (role:x or rule:c)", "c": "rule:a and @"},
		{"default": "rule:nowhere"},
		{"admin": "rule:admin"},
	} {
		over := map[string]Check{}
		for name, text := range circle {
			c, err := Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			over[name] = c
		}
		if _, err := newRuleSet(over, "default"); err == nil || !strings.Contains(err.Error(), "→") {
			t.Errorf("%v: %v", circle, err)
		}
	}
}
