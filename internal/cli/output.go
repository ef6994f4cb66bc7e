package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/gotrove/gotrove/internal/trove"
)

// row is one thing to show: its values by column. A value is a string, a
// number, a bool, nil or a list of strings.
type row map[string]any

// list shows many things, a line each.
func (a *app) list(columns []string, rows []row) error {
	columns, err := a.pick(columns)
	if err != nil {
		return err
	}
	switch a.format {
	case "json":
		out := make([]row, 0, len(rows))
		for _, r := range rows {
			out = append(out, only(r, columns))
		}
		return a.json(out)
	case "value":
		for _, r := range rows {
			fields := make([]string, len(columns))
			for n, c := range columns {
				fields[n] = text(r[c])
			}
			fmt.Fprintln(a.answer, strings.Join(fields, " "))
		}
	default:
		t := a.table()
		t.AppendHeader(header(columns))
		for _, r := range rows {
			line := make(table.Row, len(columns))
			for n, c := range columns {
				line[n] = text(r[c])
			}
			t.AppendRow(line)
		}
		t.Render()
	}
	return nil
}

// show shows one thing, a line for each of its columns.
func (a *app) show(columns []string, r row) error {
	columns, err := a.pick(columns)
	if err != nil {
		return err
	}
	switch a.format {
	case "json":
		return a.json(only(r, columns))
	case "value":
		for _, c := range columns {
			fmt.Fprintln(a.answer, text(r[c]))
		}
	default:
		t := a.table()
		t.AppendHeader(table.Row{"Field", "Value"})
		for _, c := range columns {
			t.AppendRow(table.Row{c, text(r[c])})
		}
		t.Render()
	}
	return nil
}

func (a *app) table() table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(a.answer)
	style := table.StyleDefault
	style.Format.Header = 0 // as written
	t.SetStyle(style)
	return t
}

func header(columns []string) table.Row {
	h := make(table.Row, len(columns))
	for n, c := range columns {
		h[n] = c
	}
	return h
}

// pick checks --format and applies --column.
func (a *app) pick(columns []string) ([]string, error) {
	if !slices.Contains([]string{"table", "json", "value"}, a.format) {
		return nil, fmt.Errorf("--format %s is not known: it is table, json or value", a.format)
	}
	if len(a.columns) == 0 {
		return columns, nil
	}
	for _, c := range a.columns {
		if !slices.Contains(columns, c) {
			return nil, fmt.Errorf("--column %s is not here: there are %s", c, strings.Join(columns, ", "))
		}
	}
	return a.columns, nil
}

func (a *app) json(v any) error {
	e := json.NewEncoder(a.answer)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return &trove.Error{Kind: trove.KindInternal, Message: "The answer could not be written: " + err.Error(), Err: err}
	}
	return nil
}

func only(r row, columns []string) row {
	out := row{}
	for _, c := range columns {
		out[c] = r[c]
	}
	return out
}

// text is a value as a person reads it. Control characters from a server are
// shown, not obeyed.
func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case []string:
		return visible(strings.Join(v, ", "))
	case string:
		return visible(v)
	}
	return fmt.Sprint(v)
}

func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
			return '\uFFFD'
		}
		return r
	}, s)
}

// checked remembers that an answer could not be written: on a full disk, a
// command that says nothing must not seem to have said it.
type checked struct {
	to  io.Writer
	err error
}

func (c *checked) Write(b []byte) (int, error) {
	n, err := c.to.Write(b)
	if c.err == nil {
		c.err = err
	}
	return n, err
}
