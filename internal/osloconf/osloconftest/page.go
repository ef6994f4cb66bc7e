// Package osloconftest holds a page of documentation to the options that a
// program has. It is for tests only; it knows no option.
package osloconftest

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/gotrove/gotrove/internal/osloconf"
)

// Page compares the part of a Markdown page between `<!-- name: … -->` and
// `<!-- end of name -->` with tables of the options, and each option's
// description. With update it writes the part anew.
func Page(tb testing.TB, path, name string, options []osloconf.Described, update bool) {
	tb.Helper()
	for _, o := range options {
		if o.Help == "" {
			tb.Errorf("option [%s] %s has no description", o.Group, o.Name)
		}
	}
	var want strings.Builder
	if err := osloconf.Table(&want, options); err != nil {
		tb.Fatal(err)
	}
	page, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	begin, end := strings.Index(string(page), "<!-- "+name+":"), strings.Index(string(page), "<!-- end of "+name+" -->\n")
	if begin < 0 || end < begin {
		tb.Fatalf("%s has lost the marks between which the %s are", path, name)
	}
	begin += strings.IndexByte(string(page[begin:]), '\n') + 1
	switch {
	case string(page[begin:end]) == want.String():
	case !update:
		tb.Errorf("%s is not what the structs say: run this test with -update", path)
	default:
		if err := os.WriteFile(path, fmt.Append(nil, string(page[:begin]), want.String(), string(page[end:])), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
}
