package osloconf

import (
	"bufio"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Described is an option as a struct declares it.
type Described struct {
	Group, Name string
	Type        string   // in words: string, boolean, integer, …
	Default     string   // as a file would have it
	Help        string   // the tag help
	Multi       bool     // may be given several times
	Secret      bool     // its value is kept out of logs
	Deprecated  []string // names it had, group.option
}

// Describe tells of every option of the structs that into points to, those of a
// group together in their order, DEFAULT first. The default of an option that
// has none in its tag is the field's value.
func Describe(into ...any) ([]Described, error) {
	l := loader{fields: map[name]field{}}
	for _, s := range into {
		if err := l.collect(reflect.ValueOf(s).Elem()); err != nil {
			return nil, err
		}
	}
	var out []Described
	for _, n := range l.declared {
		f := l.fields[n]
		d := Described{Group: n.group, Name: n.option, Type: typeName(f), Default: f.fallback, Help: f.help, Multi: f.multi,
			Secret: strings.HasSuffix(f.v.Type().String(), "secret.String")}
		if !f.has {
			d.Default = valueText(f.v)
		}
		for _, old := range f.old {
			d.Deprecated = append(d.Deprecated, old.group+"."+old.option)
		}
		out = append(out, d)
	}
	slices.SortStableFunc(out, func(a, b Described) int { return compareGroups(a.Group, b.Group) })
	return out, nil
}

func compareGroups(a, b string) int {
	if a == b || a != defaultGroup && b != defaultGroup {
		return strings.Compare(a, b)
	}
	if a == defaultGroup {
		return -1
	}
	return 1
}

// valueText is a field's value as a file would have it; nothing for a secret.
func valueText(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case []string:
		return strings.Join(x, ",")
	case time.Duration:
		return fmt.Sprint(x.Seconds())
	}
	if v.Kind() != reflect.Bool && v.IsZero() || v.Kind() == reflect.Map || v.Kind() == reflect.Struct {
		return ""
	}
	return fmt.Sprint(v.Interface())
}

func typeName(f field) string {
	if f.multi {
		return "may be given several times"
	}
	switch f.v.Interface().(type) {
	case time.Duration:
		return "seconds"
	case []string:
		return "list, separated by commas"
	case map[string]string:
		return "pairs key:value, separated by commas"
	}
	switch f.v.Kind() {
	case reflect.Bool:
		return "boolean"
	case reflect.Float32, reflect.Float64:
		return "number"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "integer"
	}
	return "string"
}

// Sample writes a file in which every option is a comment with its default.
func Sample(w io.Writer, options []Described) error {
	b := bufio.NewWriter(w)
	group := ""
	for _, o := range options {
		if o.Group != group {
			if group != "" {
				fmt.Fprintln(b)
			}
			group = o.Group
			fmt.Fprintf(b, "[%s]\n", group)
		}
		fmt.Fprintln(b)
		for _, line := range wrap(o.Help+" ("+o.Type+")", 90) {
			fmt.Fprintln(b, "#", line)
		}
		for _, old := range o.Deprecated {
			fmt.Fprintln(b, "# It was called", fullName(old).String()+".")
		}
		fmt.Fprintln(b, strings.TrimRight("#"+o.Name+" = "+escape(o.Default), " "))
	}
	return b.Flush()
}

// wrap breaks a text into lines of at most so many bytes, at spaces.
func wrap(text string, width int) (out []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			out, line = append(out, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(out, line)
}

// Table writes options as tables of Markdown, one for each group.
func Table(w io.Writer, options []Described) error {
	b := bufio.NewWriter(w)
	group := ""
	cell := strings.NewReplacer("|", `\|`, "\n", " ")
	for _, o := range options {
		if o.Group != group {
			group = o.Group
			fmt.Fprintf(b, "\n### [%s]\n\n| option | default | |\n|---|---|---|\n", group)
		}
		def := cell.Replace(o.Default)
		if def != "" {
			def = "`" + def + "`"
		}
		text := o.Help
		for _, old := range o.Deprecated {
			text += " It was called " + fullName(old).String() + "."
		}
		fmt.Fprintf(b, "| `%s` | %s | %s (%s) |\n", o.Name, def, cell.Replace(text), o.Type)
	}
	fmt.Fprintln(b)
	return b.Flush()
}
