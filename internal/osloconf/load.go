package osloconf

import (
	"encoding"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// Sources say where configuration is read from.
type Sources struct {
	Files   []string // --config-file; each must be there
	Dirs    []string // --config-dir: their *.conf in order of name, after Files
	Environ []string // os.Environ()
}

const maxFile = 4 << 20

type loader struct {
	env    map[string]string
	values map[name][]value // in the order they were read
	order  []name
	fields map[name]field
}

type field struct {
	v        reflect.Value
	multi    bool
	fallback string // the default
	has      bool   // there is a default
}

// Load fills the structs that into points to and returns a warning for each
// option in the files that none of them has. What is neither configured nor has
// a default keeps its value.
//
// Field types: string, bool (true, 1, on, yes and their opposites), integers,
// floats, time.Duration (a number of seconds), []string (separated by commas),
// map[string]string (k:v,k:v), and what implements encoding.TextUnmarshaler
// (secret.String). `conf:"name,multi"` on a []string takes each assignment as an
// element. Structs inside structs are looked through.
//
// Errors are of KindBadRequest and name the file and line.
func Load(src Sources, into ...any) (warnings []string, err error) {
	l := loader{env: map[string]string{}, values: map[name][]value{}, fields: map[name]field{}}
	for _, kv := range src.Environ {
		if k, v, ok := strings.Cut(kv, "="); ok {
			l.env[k] = v
		}
	}
	files := slices.Clone(src.Files)
	for _, dir := range src.Dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, trove.Errorf(trove.KindBadRequest, "configuration directory: %w", err)
		}
		for _, e := range entries { // sorted by name
			if strings.HasSuffix(e.Name(), ".conf") && !strings.HasPrefix(e.Name(), ".") {
				files = append(files, filepath.Join(dir, e.Name()))
			}
		}
	}
	for _, f := range files {
		if err := l.read(f); err != nil {
			return nil, err
		}
	}
	for _, s := range into {
		if err := l.collect(reflect.ValueOf(s).Elem()); err != nil {
			return nil, err
		}
	}
	var errs []error
	for n, f := range l.fields {
		if err := l.fill(n, f); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
		return nil, errors.Join(errs...)
	}
	for _, n := range l.order {
		if _, ok := l.fields[n]; !ok {
			warnings = append(warnings, fmt.Sprintf("%s: option %s is not known and has no effect", l.values[n][0].from, n))
		}
	}
	return warnings, nil
}

func (l *loader) read(file string) error {
	st, err := os.Stat(file)
	if err == nil && st.Size() > maxFile {
		return trove.Errorf(trove.KindBadRequest, "%s is too large for a configuration file", file)
	}
	b, err2 := os.ReadFile(file)
	if err := errors.Join(err, err2); err != nil {
		return trove.Errorf(trove.KindBadRequest, "configuration file: %w", err)
	}
	return parse(file, string(b), func(n name, v value) {
		if _, ok := l.values[n]; !ok {
			l.order = append(l.order, n)
		}
		l.values[n] = append(l.values[n], v)
	})
}

// collect finds the tagged fields.
func (l *loader) collect(s reflect.Value) error {
	for i := range s.NumField() {
		f := s.Type().Field(i)
		tag, ok := f.Tag.Lookup("conf")
		if !ok {
			if f.IsExported() && f.Type.Kind() == reflect.Struct {
				if err := l.collect(s.Field(i)); err != nil {
					return err
				}
			}
			continue
		}
		full, opts, _ := strings.Cut(tag, ",")
		group, option, ok := strings.Cut(full, ".")
		if !ok {
			group, option = defaultGroup, full
		}
		n := newName(group, option)
		if _, ok := l.fields[n]; ok {
			return fmt.Errorf("option %s is declared twice", n)
		}
		fallback, has := f.Tag.Lookup("default")
		l.fields[n] = field{v: s.Field(i), multi: opts == "multi", fallback: fallback, has: has}
	}
	return nil
}

// find gives an option's values: one, or all of a multi option.
func (l *loader) find(n name, f field) []value {
	env := "OS_" + strings.ToUpper(n.group) + "__" + strings.ToUpper(n.option)
	if v, ok := l.env[env]; ok {
		return []value{{v, origin{file: "environment variable " + env}}}
	}
	vs := l.values[n]
	if len(vs) > 0 && !f.multi {
		return vs[len(vs)-1:]
	}
	if len(vs) == 0 && f.has {
		return []value{{f.fallback, origin{file: "default"}}}
	}
	return vs
}

func (l *loader) fill(n name, f field) error {
	vs := l.find(n, f)
	var texts []string
	for _, v := range vs {
		text, err := l.substitute(n.group, v.text, 0)
		if err == nil && !f.multi {
			err = set(f.v, text)
		}
		if err != nil {
			return trove.Errorf(trove.KindBadRequest, "%s: option %s: %w", v.from, n, err)
		}
		texts = append(texts, text)
	}
	if f.multi && len(vs) > 0 {
		f.v.Set(reflect.ValueOf(texts))
	}
	return nil
}

// reference is a $ and what it stands for, as Python's string.Template has it.
var reference = regexp.MustCompile(`\$(?:(\$)|([_a-zA-Z][._a-zA-Z0-9]*)|\{([_a-zA-Z][._a-zA-Z0-9]*)\})`)

const maxDepth = 10

// substitute replaces $option, ${group.option} and $$. What the option of that
// name is not is an error that does not repeat it: it may be half a password.
func (l *loader) substitute(group, text string, depth int) (string, error) {
	if !strings.Contains(text, "$") {
		return text, nil
	}
	if depth > maxDepth {
		return "", errors.New("$ references go round in a circle")
	}
	var failed error
	out := reference.ReplaceAllStringFunc(strings.ReplaceAll(text, `\$`, "$$"), func(m string) string {
		ref := strings.Trim(m[1:], "{}")
		if ref == "$" {
			return "$"
		}
		names := []name{newName(group, ref), newName(defaultGroup, ref)}
		if g, o, ok := strings.Cut(ref, "."); ok {
			names = []name{newName(g, o)}
		}
		for _, n := range names {
			f, known := l.fields[n]
			f.multi = false
			if vs := l.find(n, f); len(vs) > 0 {
				s, err := l.substitute(n.group, vs[0].text, depth+1)
				failed = errors.Join(failed, err)
				return s
			}
			if known {
				return ""
			}
		}
		failed = errors.Join(failed, errors.New("a $ refers to an option that is not there; write $$ for a dollar sign"))
		return ""
	})
	return out, failed
}

// set gives a field its value.
func set(v reflect.Value, s string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(s))
	}
	bad := func(want string) error { return fmt.Errorf("%q is not %s", s, want) }
	word := strings.TrimSpace(s)
	switch p := v.Addr().Interface().(type) {
	case *time.Duration:
		n, err := strconv.ParseFloat(word, 64)
		if err != nil || n != n || n > 1e9 || n < -1e9 {
			return bad("a number of seconds")
		}
		*p = time.Duration(n * float64(time.Second))
		return nil
	case *[]string:
		*p = splitList(s)
		return nil
	case *map[string]string:
		m, err := splitDict(s)
		if err != nil {
			return err
		}
		*p = m
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Bool:
		switch strings.ToLower(word) {
		case "true", "1", "on", "yes":
			v.SetBool(true)
		case "false", "0", "off", "no":
			v.SetBool(false)
		default:
			return bad("true or false")
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(word, 10, v.Type().Bits())
		if err != nil {
			return bad("a whole number that fits")
		}
		v.SetInt(n)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(word, 10, v.Type().Bits())
		if err != nil {
			return bad("a whole number, 0 or more, that fits")
		}
		v.SetUint(n)
	case reflect.Float32, reflect.Float64:
		n, err := strconv.ParseFloat(word, v.Type().Bits())
		if err != nil {
			return bad("a number")
		}
		v.SetFloat(n)
	default:
		return fmt.Errorf("the program cannot read a %s from configuration", v.Type())
	}
	return nil
}

func splitList(s string) []string {
	s = strings.TrimRight(strings.TrimFunc(s, isSpace), ",")
	if s == "" {
		return []string{}
	}
	parts := strings.Split(s, ",")
	for i := range parts {
		parts[i] = strings.TrimFunc(parts[i], isSpace)
	}
	return parts
}

func splitDict(s string) (map[string]string, error) {
	m := map[string]string{}
	if s = strings.TrimFunc(s, isSpace); s == "" {
		return m, nil
	}
	parts := strings.Split(s, ",")
	for len(parts) > 0 {
		pair := parts[0]
		parts = parts[1:]
		for !strings.Contains(pair, ":") { // a comma inside the key, as oslo.config takes it
			if len(parts) == 0 {
				return nil, errors.New("want key:value pairs separated by commas")
			}
			pair += "," + parts[0]
			parts = parts[1:]
		}
		k, v, _ := strings.Cut(pair, ":")
		if k = strings.TrimFunc(k, isSpace); k == "" {
			return nil, errors.New("a key is empty; want key:value pairs separated by commas")
		}
		m[k] = strings.TrimFunc(v, isSpace)
	}
	return m, nil
}
