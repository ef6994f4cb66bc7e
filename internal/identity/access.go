package identity

import (
	"slices"
	"strings"
)

// AccessRule is a call that a restricted application credential may make.
// Path is as Keystone takes it: {name} and * stand for one segment or a part of
// it, ** for any number of segments.
type AccessRule struct {
	Service string // type, as in the catalog
	Method  string
	Path    string
}

// Permits reports whether the token may be used for a call of a service, by the
// rules of its application credential if it has some. path is what the caller
// asked for, with the version and the project in it.
func (i Identity) Permits(service, method, path string) bool {
	if !i.Restricted {
		return true
	}
	return slices.Contains(i.Services, service) && slices.ContainsFunc(i.AccessRules, func(r AccessRule) bool {
		return r.Service == service && r.Method == method && matches(path, pattern(r.Path))
	})
}

// piece of a path's pattern: a text, a wild card inside a segment, or one for
// anything.
type piece struct {
	text string
	wild wild
}

type wild uint8

const (
	wildNone    wild = iota
	wildSegment      // one character or more, no slash
	wildAll          // any characters
)

func pattern(path string) []piece {
	var out []piece
	add := func(p piece) {
		if n := len(out); p.wild == wildNone && n > 0 && out[n-1].wild == wildNone {
			out[n-1].text += p.text
			return
		}
		out = append(out, p)
	}
	for path != "" {
		switch end := strings.IndexByte(path, '}'); {
		case strings.HasPrefix(path, "**"):
			add(piece{wild: wildAll})
			path = path[2:]
		case path[0] == '*':
			add(piece{wild: wildSegment})
			path = path[1:]
		case path[0] == '{' && end > 0:
			add(piece{wild: wildSegment})
			path = path[end+1:]
		default:
			add(piece{text: path[:1]})
			path = path[1:]
		}
	}
	return out
}

// matches goes through path and pattern with one mark for each position that
// the pattern so far may end at: no pattern makes it slow.
func matches(path string, pattern []piece) bool {
	at := make([]bool, len(path)+1)
	at[0] = true
	for _, p := range pattern {
		next := make([]bool, len(path)+1)
		for i, here := range at {
			if !here {
				continue
			}
			switch p.wild {
			case wildNone:
				if strings.HasPrefix(path[i:], p.text) {
					next[i+len(p.text)] = true
				}
			case wildSegment:
				for j := i; j < len(path) && path[j] != '/'; j++ {
					next[j+1] = true
				}
			case wildAll:
				for j := i; j <= len(path) && !next[j]; j++ {
					next[j] = true
				}
			}
		}
		at = next
	}
	return at[len(path)]
}
