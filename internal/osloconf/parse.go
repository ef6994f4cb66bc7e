// Package osloconf reads configuration as oslo.config does, so that the files
// and the environment that operators have mean what they meant: INI files and
// directories, groups, continuation lines, comments on lines of their own only
// (a password may hold " #"), $option substitution, OS_<GROUP>__<OPTION>.
//
// Options are fields of structs, tagged `conf:"group.option"` (a name alone is
// in DEFAULT) and `default:"…"`. The environment goes before files, a later
// file before an earlier one. The package knows no option of any service.
package osloconf

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/gotrove/gotrove/internal/trove"
)

// origin is where a value is from: file and line, or a variable.
type origin struct {
	file string
	line int
}

func (o origin) String() string {
	if o.line == 0 {
		return o.file
	}
	return fmt.Sprintf("%s:%d", o.file, o.line)
}

// value is one assignment.
type value struct {
	text string
	from origin
	file int // which of the files, from 1
}

// name is a group and an option, both in the form they are looked up by.
type name struct{ group, option string }

func (n name) String() string { return "[" + n.group + "] " + n.option }

const defaultGroup = "DEFAULT"

// newName normalises as oslo.config does: groups but DEFAULT in lower case,
// options as they are.
func newName(group, option string) name {
	if group != defaultGroup {
		group = strings.ToLower(group)
	}
	return name{group, option}
}

// fullName takes group.option; an option alone is in DEFAULT.
func fullName(full string) name {
	if group, option, ok := strings.Cut(full, "."); ok {
		return newName(group, option)
	}
	return newName(defaultGroup, full)
}

// variable is the environment variable that sets it.
func (n name) variable() string {
	return "OS_" + strings.ToUpper(n.group) + "__" + strings.ToUpper(n.option)
}

// isSpace is Python's str.isspace for one character.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

// lines cuts text as Python's text mode does: at \n, \r\n and \r.
func lines(text string) []string {
	text = strings.ReplaceAll(text, "\r\n", "\n")
	return strings.Split(strings.ReplaceAll(text, "\r", "\n"), "\n")
}

// parse reads one file's text; assign gets each assignment in order. Errors
// name file and line, never a line's contents: it may be a password.
func parse(file, text string, assign func(name, value)) error {
	var group string
	var key string
	var parts []string
	var began int
	flush := func() {
		if key != "" {
			assign(newName(group, key), value{text: strings.Join(parts, "\n"), from: origin{file, began}})
		}
		key, parts = "", nil
	}
	for i, line := range lines(strings.TrimPrefix(text, "\ufeff")) {
		fail := func(what string) error {
			return trove.Errorf(trove.KindBadRequest, "%s:%d: %s", file, i+1, what)
		}
		line = strings.TrimRightFunc(line, isSpace)
		switch {
		case line == "":
			flush()
			continue
		case line[0] == ' ' || line[0] == '\t':
			if key == "" {
				return fail("a line that starts with a space goes on with an option, and there is none before it")
			}
			parts = append(parts, strings.TrimLeftFunc(line, isSpace))
			continue
		}
		flush()
		switch line[0] {
		case '[':
			if line[len(line)-1] != ']' || len(line) == 2 {
				return fail("a group is written [name]")
			}
			group = line[1 : len(line)-1]
		case '#', ';':
		default:
			cut := strings.IndexAny(line, ":=") // whichever comes first
			if cut < 0 {
				return fail("neither a group, a comment nor option = value")
			}
			key = strings.TrimFunc(line[:cut], isSpace)
			switch {
			case key == "":
				return fail("the option's name is missing before the " + line[cut:cut+1])
			case group == "":
				return fail("an option before the first [group]")
			}
			parts, began = []string{unquote(strings.TrimFunc(line[cut+1:], isSpace))}, i+1
		}
	}
	flush()
	return nil
}

// unquote takes one pair of quotes off.
func unquote(s string) string {
	if s != "" && (s[0] == '"' || s[0] == '\'') && s[0] == s[len(s)-1] {
		if len(s) == 1 {
			return ""
		}
		return s[1 : len(s)-1]
	}
	return s
}
