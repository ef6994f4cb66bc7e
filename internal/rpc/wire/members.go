package wire

import (
	"bytes"
	"encoding/json"
)

// maxDepth bounds how deep values may be nested: encoding/json's bound.
const maxDepth = 10000

// Members gives the members of a JSON object as raw values. They share b, which
// must not change any more. Of valid UTF-8 it takes what encoding/json takes and
// gives the same, with one look at each byte: most of what a conductor does with
// a message is to take apart what is sealed in it, once from outside inwards.
func Members(b []byte) (map[string]json.RawMessage, error) {
	i := skip(b, 0)
	if i == len(b) || b[i] != '{' {
		return nil, errObject
	}
	o := map[string]json.RawMessage{}
	if i = object(b, i+1, 1, o); i < 0 || skip(b, i) != len(b) {
		return nil, errObject
	}
	return o, nil
}

// Valid tells whether b is one JSON value.
func Valid(b []byte) bool {
	i := item(b, skip(b, 0), 0)
	return i >= 0 && skip(b, i) == len(b)
}

// Text gives the text of a JSON string. v is valid JSON; ok is false if it is
// something else.
func Text(v json.RawMessage) (text string, ok bool) {
	if !isText(v) {
		return "", false
	}
	if inner := v[1 : len(v)-1]; bytes.IndexByte(inner, '\\') < 0 {
		return string(inner), true
	}
	return string(unescape(v)), true
}

func isText(v json.RawMessage) bool { return len(v) >= 2 && v[0] == '"' }

// unescape gives the text of v, a valid JSON string.
func unescape(v json.RawMessage) []byte {
	inner := v[1 : len(v)-1]
	out := make([]byte, 0, len(inner))
	for {
		i := bytes.IndexByte(inner, '\\')
		if i < 0 {
			return append(out, inner...)
		}
		out = append(out, inner[:i]...)
		c := inner[i+1]
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u': // not inside what is ASCII already: rare
			var s string
			_ = json.Unmarshal(v, &s) // it is valid
			return []byte(s)
		}
		out, inner = append(out, c), inner[i+2:]
	}
}

// The functions below scan from b[i] and give where what they scan ends, or -1
// if it is not there.

func skip(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

func item(b []byte, i, depth int) int {
	if i >= len(b) {
		return -1
	}
	switch c := b[i]; {
	case c == '"':
		return str(b, i+1)
	case c == '{' && depth < maxDepth:
		return object(b, i+1, depth+1, nil)
	case c == '[' && depth < maxDepth:
		return array(b, i+1, depth+1)
	case c == '-' || '0' <= c && c <= '9':
		return number(b, i)
	}
	for _, word := range [...]string{"null", "true", "false"} {
		if len(b)-i >= len(word) && string(b[i:i+len(word)]) == word {
			return i + len(word)
		}
	}
	return -1
}

// object scans behind the opening brace, into o unless that is nil. Of two
// members of one name the last counts.
func object(b []byte, i, depth int, o map[string]json.RawMessage) int {
	if i = skip(b, i); i < len(b) && b[i] == '}' {
		return i + 1
	}
	for {
		i = skip(b, i)
		if i == len(b) || b[i] != '"' {
			return -1
		}
		name := i
		if i = str(b, i+1); i < 0 {
			return -1
		}
		nameEnd := i
		if i = skip(b, i); i == len(b) || b[i] != ':' {
			return -1
		}
		from := skip(b, i+1)
		if i = item(b, from, depth); i < 0 {
			return -1
		}
		if o != nil {
			key, _ := Text(b[name:nameEnd])
			o[key] = b[from:i:i]
		}
		if i = skip(b, i); i == len(b) {
			return -1
		}
		switch b[i] {
		case '}':
			return i + 1
		case ',':
			i++
		default:
			return -1
		}
	}
}

func array(b []byte, i, depth int) int {
	if i = skip(b, i); i < len(b) && b[i] == ']' {
		return i + 1
	}
	for {
		if i = item(b, skip(b, i), depth); i < 0 {
			return -1
		}
		if i = skip(b, i); i == len(b) {
			return -1
		}
		switch b[i] {
		case ']':
			return i + 1
		case ',':
			i++
		default:
			return -1
		}
	}
}

// str scans behind the opening quote.
func str(b []byte, i int) int {
	for i < len(b) {
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c == '\\':
			if i++; i == len(b) {
				return -1
			}
			switch b[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				for range 4 {
					if i++; i == len(b) || !hex(b[i]) {
						return -1
					}
				}
			default:
				return -1
			}
		case c < ' ':
			return -1
		}
		i++
	}
	return -1
}

func hex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func number(b []byte, i int) int {
	if b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if i = digits(b, i); i < 0 {
		return -1
	}
	if i < len(b) && b[i] == '.' {
		if i = digits(b, i+1); i < 0 {
			return -1
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		return digits(b, i)
	}
	return i
}

// digits scans at least one.
func digits(b []byte, i int) int {
	from := i
	for i < len(b) && '0' <= b[i] && b[i] <= '9' {
		i++
	}
	if i == from {
		return -1
	}
	return i
}
