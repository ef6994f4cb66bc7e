// Package schema checks the bodies of requests against JSON Schemas, which are
// the files of this directory, and words what is wrong as the original does:
//
//	Validation error: instance['volume']['size'] 0 is less than the minimum of 1
//
// It knows the shape of a body and nothing of what it is for. No message holds
// the value of a password.
package schema

import (
	"bytes"
	"cmp"
	"embed"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/gotrove/gotrove/internal/trove"
)

//go:embed *.json
var files embed.FS

const shared = "common.json"

// Set is the compiled schemas, by the name of their file without ".json". It
// may be used from any goroutine.
type Set struct{ schemas map[string]*jsonschema.Schema }

// Load compiles all schemas. It fails only if a file of this package is wrong.
func Load() (*Set, error) {
	entries, err := files.ReadDir(".")
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	for _, e := range entries {
		b, err := files.ReadFile(e.Name())
		if err != nil {
			return nil, err
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			return nil, fmt.Errorf("schema %s: %w", e.Name(), err)
		}
		if err := c.AddResource(base+e.Name(), doc); err != nil {
			return nil, fmt.Errorf("schema %s: %w", e.Name(), err)
		}
	}
	s := &Set{schemas: map[string]*jsonschema.Schema{}}
	for _, e := range entries {
		if e.Name() == shared {
			continue
		}
		compiled, err := c.Compile(base + e.Name())
		if err != nil {
			return nil, fmt.Errorf("schema %s: %w", e.Name(), err)
		}
		s.schemas[strings.TrimSuffix(e.Name(), ".json")] = compiled
	}
	return s, nil
}

// base makes the files' references to one another absolute; nothing is fetched.
const base = "schema:///"

// Names lists the schemas.
func (s *Set) Names() []string {
	names := make([]string, 0, len(s.schemas))
	for name := range s.schemas {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Check validates body, as jsonschema.UnmarshalJSON decodes it, against the
// schema name. The error is of KindBadRequest and names each field that is
// wrong, what is wrong with it and what is allowed.
func (s *Set) Check(name string, body any) error {
	compiled, ok := s.schemas[name]
	if !ok {
		return fmt.Errorf("there is no schema %q", name)
	}
	err := compiled.Validate(body)
	if err == nil {
		return nil
	}
	failure, ok := err.(*jsonschema.ValidationError)
	if !ok {
		return fmt.Errorf("validate %s: %w", name, err)
	}
	return trove.Errorf(trove.KindBadRequest, "Validation error: %s", describe(failure, body))
}

// Decode reads one JSON document. Numbers stay json.Number.
func Decode(b []byte) (any, error) { return jsonschema.UnmarshalJSON(bytes.NewReader(b)) }

// finding is one thing that is wrong.
type finding struct {
	path []string
	text []string
}

func describe(failure *jsonschema.ValidationError, body any) string {
	var all []finding
	collect(failure, body, &all)
	slices.SortStableFunc(all, func(a, b finding) int { return slices.CompareFunc(a.path, b.path, comparePart) })
	parts := make([]string, 0, len(all))
	for _, f := range all {
		text := strings.Join(f.text, "; ")
		if p := formatPath(f.path); p != "" {
			text = p + " " + text
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}

// comparePart orders list indexes as numbers.
func comparePart(a, b string) int {
	x, errA := strconv.Atoi(a)
	y, errB := strconv.Atoi(b)
	if errA == nil && errB == nil {
		return cmp.Compare(x, y)
	}
	return cmp.Compare(a, b)
}

// collect walks to what failed: groups and references are only on the way.
func collect(e *jsonschema.ValidationError, body any, all *[]finding) {
	switch e.ErrorKind.(type) {
	case *kind.OneOf, *kind.AnyOf:
		f := finding{path: e.InstanceLocation, text: []string{
			shown(e.InstanceLocation, at(body, e.InstanceLocation)) + " is not valid under any of the given schemas"}}
		var causes []finding
		for _, c := range e.Causes {
			collect(c, body, &causes)
		}
		for _, c := range causes {
			f.text = append(f.text, c.text...)
		}
		*all = append(*all, f)
		return
	}
	if len(e.Causes) > 0 {
		for _, c := range e.Causes {
			collect(c, body, all)
		}
		return
	}
	*all = append(*all, finding{path: e.InstanceLocation, text: texts(e, body)})
}

func texts(e *jsonschema.ValidationError, body any) []string {
	value := shown(e.InstanceLocation, at(body, e.InstanceLocation))
	one := func(format string, args ...any) []string { return []string{value + " " + fmt.Sprintf(format, args...)} }
	switch k := e.ErrorKind.(type) {
	case *kind.Required:
		var out []string
		for _, m := range k.Missing {
			out = append(out, quote(m)+" is a required property")
		}
		return out
	case *kind.Type:
		return one("is not of type %s", quoteAll(k.Want))
	case *kind.Pattern:
		return one("does not match %s", quote(k.Want))
	case *kind.MinLength:
		return one("is too short (at least %s)", count(k.Want, "character"))
	case *kind.MaxLength:
		return one("is too long (%d characters, at most %d are allowed)", k.Got, k.Want)
	case *kind.Minimum:
		return one("is less than the minimum of %s", k.Want.RatString())
	case *kind.Maximum:
		return one("is greater than the maximum of %s", k.Want.RatString())
	case *kind.MinItems:
		return one("is too short (at least %s)", count(k.Want, "item"))
	case *kind.MaxItems:
		return one("is too long (%d items, at most %d allowed)", k.Got, k.Want)
	case *kind.MinProperties:
		return one("does not have enough properties (at least %d)", k.Want)
	case *kind.MaxProperties:
		return one("has too many properties (at most %d)", k.Want)
	case *kind.UniqueItems:
		return one("has non-unique elements")
	case *kind.Enum:
		want := make([]string, 0, len(k.Want))
		for _, w := range k.Want {
			want = append(want, scalar(w))
		}
		return one("is not one of [%s]", strings.Join(want, ", "))
	case *kind.AdditionalProperties:
		verb := "was"
		if len(k.Properties) > 1 {
			verb = "were"
		}
		return []string{fmt.Sprintf("Additional properties are not allowed (%s %s unexpected)", quoteAll(k.Properties), verb)}
	}
	return one("is not valid (%s)", strings.Join(e.ErrorKind.KeywordPath(), " "))
}

// at finds the value at a path that the validator gave.
func at(v any, path []string) any {
	for _, p := range path {
		switch c := v.(type) {
		case map[string]any:
			v = c[p]
		case []any:
			i, err := strconv.Atoi(p)
			if err != nil || i < 0 || i >= len(c) {
				return nil
			}
			v = c[i]
		default:
			return nil
		}
	}
	return v
}

// formatPath writes instance['nics'][0]['network_id'].
func formatPath(path []string) string {
	var b strings.Builder
	for i, p := range path {
		_, err := strconv.Atoi(p)
		switch {
		case i == 0:
			b.WriteString(p)
		case err == nil:
			b.WriteString("[" + p + "]")
		default:
			b.WriteString("['" + p + "']")
		}
	}
	return b.String()
}

// longest value that a message shows, in bytes.
const longest = 64

// shown is a value as a message tells it: a password never, a list or object
// by its kind, a long text by its beginning.
func shown(path []string, v any) string {
	if len(path) > 0 && strings.Contains(strings.ToLower(path[len(path)-1]), "password") {
		return "the value"
	}
	switch v.(type) {
	case map[string]any:
		return "the object"
	case []any:
		return "the list"
	}
	// A member of a list of users may be its password on its own.
	if len(path) > 1 && path[len(path)-2] == "users" {
		return "the value"
	}
	return scalar(v)
}

func scalar(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		if v {
			return "True"
		}
		return "False"
	case json.Number:
		return clip(v.String())
	case string:
		return quote(clip(v))
	}
	return clip(fmt.Sprint(v))
}

func clip(s string) string {
	if len(s) <= longest {
		return s
	}
	return strings.ToValidUTF8(s[:longest], "") + "…"
}

func quote(s string) string { return "'" + s + "'" }

func quoteAll(list []string) string {
	quoted := make([]string, 0, len(list))
	for _, s := range list {
		quoted = append(quoted, quote(s))
	}
	slices.Sort(quoted)
	return strings.Join(quoted, ", ")
}

func count(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return strconv.Itoa(n) + " " + word + "s"
}
