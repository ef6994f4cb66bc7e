package api

import (
	"encoding/json"
	"strconv"
)

// object is a JSON object that its schema has accepted. Reading it by key, not
// by decoding it into a struct, takes exactly what the schema checked:
// encoding/json would also take "NAME" for "name". A key that is missing reads
// as the zero value.
type object map[string]any

func (o object) has(key string) bool { _, ok := o[key]; return ok }

func (o object) text(key string) string { s, _ := o[key].(string); return s }

// textOrNil is nil when the key is missing or null.
func (o object) textOrNil(key string) *string {
	if s, ok := o[key].(string); ok {
		return &s
	}
	return nil
}

func (o object) truth(key string) bool { b, _ := o[key].(bool); return b }

func (o object) object(key string) object { m, _ := o[key].(map[string]any); return m }

// scalar is a string or a number as text.
func (o object) scalar(key string) string {
	switch v := o[key].(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	}
	return ""
}

// number is a whole number, given as one or as digits; false if it is none or
// larger than an int.
func (o object) number(key string) (int, bool) {
	n, err := strconv.Atoi(o.scalar(key))
	return n, err == nil
}

func (o object) objects(key string) []object {
	list, _ := o[key].([]any)
	out := make([]object, 0, len(list))
	for _, v := range list {
		m, _ := v.(map[string]any)
		out = append(out, m)
	}
	return out
}

func (o object) texts(key string) []string {
	list, _ := o[key].([]any)
	out := make([]string, 0, len(list))
	for _, v := range list {
		s, _ := v.(string)
		out = append(out, s)
	}
	return out
}
