// Package archtest keeps the direction of imports: the table below is the
// architecture, and a package that is not in it fails the test until somebody
// can name its room.
package archtest

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/gotrove/gotrove/"

// layers, from the bottom up. A package imports packages of lower layers, and
// of its own room; what else it may import is in peers.
var layers = [][]string{
	{"internal/trove"},
	{"internal/proc", "internal/durable", "internal/secret", "internal/telemetry"},
	{"internal/rpc", "internal/store", "internal/broker", "internal/osloconf", "internal/lifecycle"},
	{"internal/rpcapi", "internal/outbox", "internal/work", "internal/cloud", "internal/identity", "internal/lease", "internal/policy", "internal/guestlogin", "internal/keyring"},
	{"internal/api", "internal/taskmanager", "internal/conductor", "internal/guest", "internal/apiclient"},
	{"internal/cli"},
	{"internal/app"},
	{"cmd", "bench", "test", "internal/archtest"},
}

// peers are imports between rooms of one layer that are meant. Every entry must
// be in use.
var peers = map[string][]string{
	"internal/guestlogin": {"internal/rpcapi"},
	"internal/keyring":    {"internal/rpcapi"},
}

// testPeers are the same for tests: the bus is tested from both its ends.
var testPeers = map[string][]string{
	"internal/rpc":        {"internal/broker", "internal/osloconf"},
	"internal/broker":     {"internal/rpc"},
	"internal/telemetry":  {"internal/secret"},
	"internal/guestlogin": {"internal/rpcapi"},
	"internal/keyring":    {"internal/rpcapi"},
}

// counting is Prometheus' client: rooms tell observers of their own, and only a
// server process counts.
const counting = "github.com/prometheus"

// forbidden keeps rooms apart whatever their layers say, however many imports
// are in between: what runs on a database's machine must not link the control
// plane, and no service may know which bus and which cloud it has.
var forbidden = map[string][]string{
	"internal/guest":       {"internal/store", "internal/cloud", "internal/identity", "internal/broker", "internal/work", "modernc.org/sqlite", counting},
	"internal/app/guest":   {"internal/store", "internal/cloud", "internal/identity", "internal/broker", "internal/work", "internal/api", "modernc.org/sqlite", counting},
	"cmd/trove-guestagent": {"internal/store", "internal/cloud", "internal/identity", "internal/broker", "internal/work", "internal/api", "internal/app/server", "modernc.org/sqlite", counting},
	"cmd/trovectl":         {"internal/store", "internal/broker", "internal/work", "internal/guest", "internal/app", "modernc.org/sqlite", counting},
	"internal/app/server":  {"internal/guest"},
	"internal/api":         {"internal/broker", "internal/cloud/local", "internal/cloud/openstack", "internal/identity/embedded", counting},
	"internal/taskmanager": {"internal/broker", "internal/cloud/local", "internal/cloud/openstack", "internal/identity", counting},
	"internal/conductor":   {"internal/broker", "internal/cloud", "internal/identity", counting},
	"internal/rpc":         {counting},
	"internal/store":       {counting},
	"internal/work":        {counting},
	"internal/outbox":      {counting},
	"internal/cloud":       {counting},
	"internal/identity":    {counting},
}

type pkg struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string
}

func list(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports,Deps", module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var p pkg
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

func within(path, room string) bool { return path == room || strings.HasPrefix(path, room+"/") }

func room(path string) (name string, layer int) {
	for l, rooms := range layers {
		for _, r := range rooms {
			if within(path, r) {
				return r, l
			}
		}
	}
	return "", -1
}

// ours are the imports that are rooms of this house.
func ours(imports []string) []string {
	var out []string
	for _, i := range imports {
		if p, ok := strings.CutPrefix(i, module); ok {
			out = append(out, p)
		}
	}
	return out
}

// upward tells of imports that do not run down the layers, and notes which of
// the exceptions were needed.
func upward(p pkg, needed map[string]bool) (wrong []string) {
	path := strings.TrimPrefix(p.ImportPath, module)
	from, layer := room(path)
	if layer < 0 {
		return []string{path + " is in no room of the table: name its room, or move it"}
	}
	check := func(imports []string, exceptions map[string][]string, what string) {
		for _, i := range ours(imports) {
			to, below := room(i)
			switch {
			case to == from || below < layer && below >= 0:
			case slices.Contains(exceptions[from], to):
				needed[what+from+" "+to] = true
			default:
				wrong = append(wrong, path+what+i+": imports run down the layers only")
			}
		}
	}
	check(p.Imports, peers, " imports ")
	check(slices.Concat(p.TestImports, p.XTestImports), testPeers, " imports in a test ")
	return wrong
}

// linked tells of what is linked and must not be.
func linked(p pkg) (wrong []string) {
	path := strings.TrimPrefix(p.ImportPath, module)
	for from, banned := range forbidden {
		if !within(path, from) {
			continue
		}
		for _, d := range p.Deps {
			d = strings.TrimPrefix(d, module)
			for _, b := range banned {
				if within(d, b) {
					wrong = append(wrong, path+" links "+d+": "+from+" must not")
				}
			}
		}
	}
	return wrong
}

func TestImportsRunOneWay(t *testing.T) {
	needed := map[string]bool{}
	for _, p := range list(t) {
		for _, w := range upward(p, needed) {
			t.Error(w)
		}
	}
	for what, exceptions := range map[string]map[string][]string{" imports ": peers, " imports in a test ": testPeers} {
		for from, all := range exceptions {
			for _, to := range all {
				if !needed[what+from+" "+to] {
					t.Errorf("nothing in %s%s%s any more: the exception can go", from, what, to)
				}
			}
		}
	}
}

func TestWhatMustNotBeLinked(t *testing.T) {
	for _, p := range list(t) {
		for _, w := range linked(p) {
			t.Error(w)
		}
	}
}

// The rules find what breaks them.
func TestRulesForbid(t *testing.T) {
	for name, p := range map[string]pkg{
		"a room without a name":     {ImportPath: "internal/util"},
		"up":                        {ImportPath: "internal/store", Imports: []string{module + "internal/api"}},
		"across":                    {ImportPath: "internal/api/view", Imports: []string{module + "internal/conductor"}},
		"to nowhere":                {ImportPath: "internal/api", Imports: []string{module + "internal/util"}},
		"up in a test":              {ImportPath: "internal/store/storetest", XTestImports: []string{module + "internal/work"}},
		"a test's exception abused": {ImportPath: "internal/rpc", Imports: []string{module + "internal/broker"}},
	} {
		p.ImportPath = module + p.ImportPath
		if len(upward(p, map[string]bool{})) == 0 {
			t.Errorf("%s was let through", name)
		}
	}
	for _, p := range []pkg{
		{ImportPath: "internal/guest/engine", Deps: []string{module + "internal/store"}},
		{ImportPath: "cmd/trove-guestagent", Deps: []string{"fmt", "modernc.org/sqlite/lib"}},
	} {
		p.ImportPath = module + p.ImportPath
		if len(linked(p)) == 0 {
			t.Errorf("%s may link %v", p.ImportPath, p.Deps)
		}
	}
	near := pkg{ImportPath: module + "internal/app/server", Deps: []string{module + "internal/guestlogin", module + "internal/rpcapi/guest"}}
	if wrong := linked(near); len(wrong) > 0 {
		t.Error("a name that only begins alike:", wrong)
	}
}

func TestDomainIsStandardLibraryOnly(t *testing.T) {
	for _, p := range list(t) {
		if p.ImportPath != module+"internal/trove" {
			continue
		}
		for _, i := range p.Imports {
			if strings.Contains(strings.SplitN(i, "/", 2)[0], ".") || i == "encoding/json" || i == "database/sql" {
				t.Errorf("internal/trove imports %s: the domain knows the standard library only, and no wire and no SQL", i)
			}
		}
	}
}
