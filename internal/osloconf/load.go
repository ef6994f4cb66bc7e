package osloconf

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
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
	// NoEffect has options, "group.option", that no struct need have or that are
	// read and change nothing: one that is set is warned of with the reason here,
	// or, if that is empty because another program reads it, not at all.
	// "group.*" is every option of a group that is neither here nor in a struct.
	NoEffect map[string]string
}

const maxFile = 4 << 20

// Warning is something to look at in a configuration that can be used.
type Warning struct {
	Text string
	// Idle is the option, "[group] name", if all there is to it is that it has no
	// effect, as Sources says. A file of the original's may have many of these.
	Idle string
}

// String gives the text.
func (w Warning) String() string { return w.Text }

// Told gives the texts of warnings with those of idle options as a single one at
// the end, which names them, and says with which command to see why.
func Told(warnings []Warning, command string) (texts []string) {
	var idle []string
	for _, w := range warnings {
		if w.Idle == "" {
			texts = append(texts, w.Text)
		} else {
			idle = append(idle, w.Idle)
		}
	}
	if len(idle) > 0 {
		texts = append(texts, fmt.Sprintf("options that are set and have no effect (%d): %s; %s tells why", len(idle), strings.Join(idle, ", "), command))
	}
	return texts
}

type loader struct {
	env    map[string]string
	values map[name][]value // in the order they were read
	order  []name
	fields map[name]field
	files  int // how many were read
	// declared are the names of fields, in their order.
	declared []name
}

type field struct {
	v        reflect.Value
	multi    bool
	fallback string // the default
	has      bool   // there is a default
	old      []name // names it had
	help     string
}

// Load fills the structs that into points to and returns a warning for each
// option in the files that none of them has, that has no effect, or that is
// there under a name it had once. What is neither configured nor has a default
// keeps its value.
//
// Field types: string, bool (true, 1, on, yes and their opposites), integers,
// floats, time.Duration (a number of seconds), []string (separated by commas),
// map[string]string (k:v,k:v), and what implements encoding.TextUnmarshaler
// (secret.String). `conf:"name,multi"` on a []string takes each assignment as an
// element. `deprecated:"group.option"` are names it had, separated by commas.
// Structs inside structs are looked through.
//
// Errors are of KindBadRequest and name the file and line.
func Load(src Sources, into ...any) (warnings []Warning, err error) {
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
	return l.warnings(src.NoEffect), nil
}

func (l *loader) warnings(noEffect map[string]string) (out []Warning) {
	renamed := map[name]name{}
	for n, f := range l.fields {
		for _, old := range f.old {
			renamed[old] = n
		}
	}
	for _, n := range l.order {
		from := l.values[n][0].from
		reason, idle := noEffect[n.group+"."+n.option]
		_, known := l.fields[n]
		if !idle && !known {
			reason, idle = noEffect[n.group+".*"]
		}
		now, old := renamed[n]
		switch {
		case idle && reason != "":
			out = append(out, Warning{fmt.Sprintf("%s: option %s has no effect: %s", from, n, reason), n.String()})
		case idle, known:
		case old:
			out = append(out, Warning{Text: fmt.Sprintf("%s: option %s is now called %s", from, n, now)})
		default:
			out = append(out, Warning{Text: fmt.Sprintf("%s: option %s is not known and has no effect", from, n)})
		}
	}
	for _, full := range slices.Sorted(maps.Keys(noEffect)) {
		group, option, _ := strings.Cut(full, ".")
		n := newName(group, option)
		if _, ok := l.env[n.variable()]; ok && noEffect[full] != "" {
			out = append(out, Warning{fmt.Sprintf("environment variable %s: option %s has no effect: %s", n.variable(), n, noEffect[full]), n.String()})
		}
	}
	return out
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
	l.files++
	return parse(file, string(b), func(n name, v value) {
		v.file = l.files
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
		n := fullName(full)
		if _, ok := l.fields[n]; ok {
			return fmt.Errorf("option %s is declared twice", n)
		}
		fallback, has := f.Tag.Lookup("default")
		into := field{v: s.Field(i), multi: opts == "multi", fallback: fallback, has: has, help: f.Tag.Get("help")}
		if into.multi && f.Type != reflect.TypeFor[[]string]() {
			return fmt.Errorf("option %s: a multi option is a []string", n)
		}
		for old := range strings.SplitSeq(f.Tag.Get("deprecated"), ",") {
			if old != "" {
				into.old = append(into.old, fullName(old))
			}
		}
		l.fields[n] = into
		l.declared = append(l.declared, n)
	}
	return nil
}

// find gives an option's values: one, or all of a multi option. Of several files
// the last counts; in a file, the name that the option has now before those it
// had.
func (l *loader) find(n name, f field) []value {
	if v, ok := l.env[n.variable()]; ok {
		return []value{{text: v, from: origin{file: "environment variable " + n.variable()}}}
	}
	vs := slices.Clone(l.values[n])
	for _, old := range f.old {
		vs = append(slices.Clone(l.values[old]), vs...)
	}
	slices.SortStableFunc(vs, func(a, b value) int { return a.file - b.file })
	if len(vs) > 0 && !f.multi {
		return vs[len(vs)-1:]
	}
	if len(vs) == 0 && f.has {
		return []value{{text: f.fallback, from: origin{file: "default"}}}
	}
	return vs
}

func (l *loader) fill(n name, f field) error {
	vs := l.find(n, f)
	var texts []string
	for _, v := range vs {
		text, err := l.substitute(n.group, v.text, 0)
		if err == nil && !f.multi {
			if isNumber(f.v.Type()) && strings.TrimSpace(text) == "" {
				// Nothing, to Python; to us what it is without the line.
				text = f.fallback
				if text == "" {
					continue
				}
			}
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
		// Options that are only in a file stand back behind those that there are.
		slices.SortStableFunc(names, func(a, b name) int {
			_, known := l.fields[a]
			_, other := l.fields[b]
			switch {
			case known == other:
				return 0
			case known:
				return -1
			}
			return 1
		})
		for _, n := range names {
			f, known := l.fields[n]
			f.multi = false
			if vs := l.find(n, f); len(vs) > 0 {
				s, err := l.substitute(n.group, vs[0].text, depth+1)
				if err == nil && known {
					s, err = asPython(f.v.Type(), s)
				}
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

// asPython is what Python's str gives for an option's value: what a reference to
// it stands for.
func asPython(t reflect.Type, s string) (string, error) {
	if isNumber(t) && strings.TrimSpace(s) == "" {
		return "", nil
	}
	v := reflect.New(t).Elem()
	if t == reflect.TypeFor[time.Duration]() {
		v = reflect.New(reflect.TypeFor[float64]()).Elem()
	}
	if err := set(v, s); err != nil {
		return "", errors.New("a $ refers to an option whose own value is wrong")
	}
	switch v.Kind() {
	case reflect.Bool:
		if v.Bool() {
			return "True", nil
		}
		return "False", nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprint(v.Interface()), nil
	}
	return s, nil
}

func isNumber(t reflect.Type) bool {
	return t.Kind() >= reflect.Int && t.Kind() <= reflect.Float64
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
		n, err := parseFloat(word, 64)
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
		n, err := strconv.ParseInt(digits(word), 10, v.Type().Bits())
		if err != nil {
			return bad("a whole number that fits")
		}
		v.SetInt(n)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(digits(word), 10, v.Type().Bits())
		if err != nil {
			return bad("a whole number, 0 or more, that fits")
		}
		v.SetUint(n)
	case reflect.Float32, reflect.Float64:
		n, err := parseFloat(word, v.Type().Bits())
		if err != nil {
			return bad("a number")
		}
		v.SetFloat(n)
	default:
		return fmt.Errorf("the program cannot read a %s from configuration", v.Type())
	}
	return nil
}

// grouped are digits with underscores between them, as Python takes them.
var grouped = regexp.MustCompile(`^[+-]?[0-9]+(_[0-9]+)+$`)

func digits(s string) string {
	if grouped.MatchString(s) {
		return strings.ReplaceAll(s, "_", "")
	}
	return s
}

// betweenDigits are the underscores that Python's float takes.
var betweenDigits = regexp.MustCompile(`([0-9])_([0-9])`)

func parseFloat(s string, bits int) (float64, error) {
	for betweenDigits.MatchString(s) {
		s = betweenDigits.ReplaceAllString(s, "$1$2")
	}
	if strings.ContainsAny(s, "_xX") { // of Go's, not of Python's
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseFloat(s, bits)
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
		if _, ok := m[k]; ok {
			return nil, errors.New("a key is there twice")
		}
		m[k] = strings.TrimFunc(v, isSpace)
	}
	return m, nil
}
