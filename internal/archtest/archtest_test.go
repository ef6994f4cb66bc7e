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
	{"internal/rpcapi", "internal/outbox", "internal/work", "internal/cloud", "internal/identity", "internal/policy", "internal/guestlogin"},
	{"internal/api", "internal/taskmanager", "internal/conductor", "internal/guest", "internal/apiclient"},
	{"internal/cli"},
	{"internal/app"},
	{"cmd", "bench", "test", "internal/archtest"},
}

// peers are imports between rooms of one layer that are meant.
var peers = map[string][]string{
	"internal/outbox":     {"internal/rpcapi"},
	"internal/guestlogin": {"internal/rpcapi"},
}

// forbidden keeps rooms apart whatever their layers say: what runs on a
// database's machine must not link the control plane.
var forbidden = map[string][]string{
	"internal/guest":       {"internal/store", "internal/cloud", "internal/identity", "internal/broker", "internal/work"},
	"internal/app/guest":   {"internal/store", "internal/cloud", "internal/identity", "internal/broker", "internal/work", "internal/api"},
	"cmd/trove-guestagent": {"internal/store", "internal/cloud", "internal/identity", "internal/broker", "internal/work", "internal/api", "internal/app/server"},
	"cmd/trovectl":         {"internal/store", "internal/broker", "internal/work", "internal/guest", "internal/app"},
	"internal/app/server":  {"internal/guest"},
}

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func list(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", module+"...").Output()
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

func ours(imports []string) []string {
	var out []string
	for _, i := range imports {
		if p, ok := strings.CutPrefix(i, module); ok {
			out = append(out, p)
		}
	}
	return out
}

func TestImportsRunOneWay(t *testing.T) {
	for _, p := range list(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		from, layer := room(path)
		if layer < 0 {
			t.Errorf("%s is in no room of the table: name its room, or move it", path)
			continue
		}
		for _, i := range ours(p.Imports) {
			to, below := room(i)
			if below >= layer && to != from && !slices.Contains(peers[from], to) {
				t.Errorf("%s imports %s: imports run down the layers only", path, i)
			}
		}
	}
}

func TestWhatMustNotBeLinked(t *testing.T) {
	for _, p := range list(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		for from, banned := range forbidden {
			if !within(path, from) {
				continue
			}
			for _, d := range ours(p.Deps) {
				for _, b := range banned {
					if within(d, b) {
						t.Errorf("%s links %s: %s must not", path, d, from)
					}
				}
			}
		}
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
