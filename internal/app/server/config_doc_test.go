package server

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/gotrove/gotrove/internal/osloconf"
)

var update = flag.Bool("update", false, "write golden files")

const (
	optionsPage  = "../../../docs/operator/options.md"
	optionsBegin = "<!-- services: written by go test ./internal/app/server -update -->\n"
	optionsEnd   = "<!-- end of services -->\n"
)

// TestOptionsPage holds the operator's reference to the options that there are.
func TestOptionsPage(t *testing.T) {
	options, err := describedOptions()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := osloconf.Table(&b, options); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(optionsPage)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(page), optionsBegin)
	have, after, ok2 := strings.Cut(rest, optionsEnd)
	if !ok1 || !ok2 {
		t.Fatal("the page has lost the marks between which this is written")
	}
	if have == b.String() {
		return
	}
	if !*update {
		t.Fatalf("%s is not what the structs say: go test ./internal/app/server -run TestOptionsPage -update", optionsPage)
	}
	if err := os.WriteFile(optionsPage, []byte(before+optionsBegin+b.String()+optionsEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Every option has a description, and every description an option.
func TestHelp(t *testing.T) {
	t.Parallel()
	options, err := osloconf.Describe(newConfig(false))
	if err != nil {
		t.Fatal(err)
	}
	texts, idle := help(), noEffect()
	for _, o := range options {
		full := o.Group + "." + o.Name
		if idle[full] == "" && o.Help == "" && texts[full] == "" {
			t.Errorf("option %s has no description: give its field a tag help", full)
		}
		if o.Help != "" && texts[full] != "" {
			t.Errorf("option %s is described twice", full)
		}
		delete(texts, full)
	}
	for full := range texts {
		t.Errorf("there is no option %s to describe", full)
	}
}

// What is said to have no effect is not an option that has one.
func TestAccepted(t *testing.T) {
	t.Parallel()
	options, err := osloconf.Describe(newConfig(false))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, o := range options {
		known[o.Group+"."+o.Name] = true
	}
	seen := map[string]bool{}
	for _, a := range accepted {
		for option := range strings.FieldsSeq(a.names) {
			full := a.group + "." + option
			if known[full] {
				t.Errorf("%s is used, and said to have no effect", full)
			}
			if seen[full] {
				t.Errorf("%s is there twice", full)
			}
			seen[full] = true
		}
	}
}
