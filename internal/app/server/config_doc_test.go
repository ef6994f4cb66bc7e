package server

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDocumented holds the operator's page to the options that there are.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../../../docs/operator/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## troved\n")
	if !found {
		t.Fatal("the page has no section for this program")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var told []string
	for _, m := range regexp.MustCompile("(?m)^\\| `\\[(\\w+)\\] (\\w+)` \\|([^|]*)\\|").FindAllStringSubmatch(section, -1) {
		told = append(told, m[1]+"."+m[2]+" "+strings.TrimSpace(m[3]))
	}
	s := reflect.TypeFor[Config]()
	for i := range s.NumField() {
		option, _, _ := strings.Cut(s.Field(i).Tag.Get("conf"), ",")
		if option == "" {
			continue // a group with a page of its own
		}
		at := slices.IndexFunc(told, func(l string) bool { return strings.HasPrefix(l, option+" ") })
		if at < 0 {
			t.Errorf("option %s is not on the page", option)
			continue
		}
		if d := s.Field(i).Tag.Get("default"); d != "" && strings.TrimPrefix(told[at], option+" ") != d {
			t.Errorf("the page says %q, the default is %q", told[at], d)
		}
		told = slices.Delete(told, at, at+1)
	}
	if len(told) > 0 {
		t.Errorf("the page has options that there are not: %q", told)
	}
}
