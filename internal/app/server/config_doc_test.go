package server

import (
	"flag"
	"strings"
	"testing"

	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/osloconf/osloconftest"
)

var update = flag.Bool("update", false, "write golden files")

// TestOptionsPage holds the operator's reference to the options that there are.
func TestOptionsPage(t *testing.T) {
	options, err := describedOptions()
	if err != nil {
		t.Fatal(err)
	}
	osloconftest.Page(t, "../../../docs/operator/options.md", "services", options, *update)
}

// Every description is of an option, and there is one only.
func TestHelp(t *testing.T) {
	t.Parallel()
	options, err := osloconf.Describe(newConfig(false))
	if err != nil {
		t.Fatal(err)
	}
	texts := help()
	for _, o := range options {
		full := o.Group + "." + o.Name
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
