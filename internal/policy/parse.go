package policy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// maxNesting bounds how deep parentheses and "not" go: a rule is parsed and
// asked recursively.
const maxNesting = 100

// Parse reads a rule of the policy language: checks such as role:admin,
// rule:admin_or_owner, project_id:%(tenant)s, 'Member':%(role.name)s, @ and !,
// with and, or, not and parentheses. The empty rule lets everyone do it.
//
// What oslo.policy would refuse at the time of the request, or read as "no one"
// with a line in the log, is an error here: nobody means to write it.
func Parse(text string) (Check, error) {
	if text == "" {
		return Always(), nil
	}
	p := parser{tokens: tokenize(text)}
	c, err := p.any(0)
	if err != nil {
		return nil, err
	}
	if !p.at(tokenEnd) {
		return nil, fmt.Errorf("%s is not expected after a complete condition", p.tokens[0])
	}
	return c, nil
}

// parseList reads the older form of a rule: a list of lists of checks, the outer
// one joined by "or", the inner ones by "and".
func parseList(list [][]string) (Check, error) {
	if len(list) == 0 {
		return Always(), nil
	}
	var alternatives anyOf
	for _, inner := range list {
		var needed all
		for _, text := range inner {
			c, err := parseCheck(text)
			if err != nil {
				return nil, err
			}
			needed = append(needed, c)
		}
		switch len(needed) {
		case 0: // skipped, as oslo.policy does
		case 1:
			alternatives = append(alternatives, needed[0])
		default:
			alternatives = append(alternatives, needed)
		}
	}
	switch len(alternatives) {
	case 0:
		return Never(), nil
	case 1:
		return alternatives[0], nil
	}
	return alternatives, nil
}

type tokenKind uint8

const (
	tokenEnd tokenKind = iota
	tokenOpen
	tokenClose
	tokenAnd
	tokenOr
	tokenNot
	tokenCheck
)

type token struct {
	kind tokenKind
	text string
}

func (t token) String() string {
	if t.kind == tokenEnd {
		return "the end"
	}
	return fmt.Sprintf("%q", t.text)
}

// tokenize cuts a rule at white space, and parentheses off the beginnings and
// ends of its words: inside a word they belong to a %(name)s.
func tokenize(text string) []token {
	var out []token
	for _, word := range strings.Fields(text) {
		bare := strings.TrimLeft(word, "(")
		for range len(word) - len(bare) {
			out = append(out, token{tokenOpen, "("})
		}
		word = strings.TrimRight(bare, ")")
		switch strings.ToLower(word) {
		case "":
		case "and":
			out = append(out, token{tokenAnd, word})
		case "or":
			out = append(out, token{tokenOr, word})
		case "not":
			out = append(out, token{tokenNot, word})
		default:
			out = append(out, token{tokenCheck, word})
		}
		for range len(bare) - len(word) {
			out = append(out, token{tokenClose, ")"})
		}
	}
	return append(out, token{kind: tokenEnd})
}

// parser takes tokens away as it understands them; the last, tokenEnd, stays.
type parser struct{ tokens []token }

func (p *parser) at(k tokenKind) bool { return p.tokens[0].kind == k }

func (p *parser) take(k tokenKind) bool {
	if !p.at(k) {
		return false
	}
	p.tokens = p.tokens[1:]
	return true
}

func (p *parser) any(depth int) (Check, error) {
	return p.chain(tokenOr, depth, p.all, func(c []Check) Check { return anyOf(c) })
}

func (p *parser) all(depth int) (Check, error) {
	return p.chain(tokenAnd, depth, p.one, func(c []Check) Check { return all(c) })
}

// chain reads what operand reads, once or more with separator in between.
func (p *parser) chain(separator tokenKind, depth int, operand func(int) (Check, error), made func([]Check) Check) (Check, error) {
	var checks []Check
	for {
		c, err := operand(depth)
		if err != nil {
			return nil, err
		}
		checks = append(checks, c)
		if !p.take(separator) {
			break
		}
	}
	if len(checks) == 1 {
		return checks[0], nil
	}
	return made(checks), nil
}

func (p *parser) one(depth int) (Check, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("nested deeper than %d", maxNesting)
	}
	switch {
	case p.take(tokenNot):
		c, err := p.one(depth + 1)
		if err != nil {
			return nil, err
		}
		return not{c}, nil
	case p.take(tokenOpen):
		c, err := p.any(depth + 1)
		if err != nil {
			return nil, err
		}
		if !p.take(tokenClose) {
			return nil, fmt.Errorf("a parenthesis is not closed before %s", p.tokens[0])
		}
		return c, nil
	case p.at(tokenCheck):
		t := p.tokens[0]
		p.take(tokenCheck)
		if n := len(t.text); n >= 2 && (t.text[0] == '"' || t.text[0] == '\'') && t.text[0] == t.text[n-1] {
			return nil, fmt.Errorf("%s is a quoted text, not a check", t)
		}
		return parseCheck(t.text)
	}
	return nil, fmt.Errorf("%s stands where a check is wanted", p.tokens[0])
}

// parseCheck reads one check, such as role:admin.
func parseCheck(text string) (Check, error) {
	switch text {
	case "@":
		return Always(), nil
	case "!":
		return Never(), nil
	}
	kind, match, ok := strings.Cut(text, ":")
	if !ok {
		return nil, fmt.Errorf("%q is not a check, such as role:admin or rule:admin_or_owner", text)
	}
	switch kind {
	case "http", "https":
		return nil, fmt.Errorf("%q asks another server, which this service does not do; write the condition itself", text)
	case "rule":
		return rule(match), nil
	}
	t, err := parseTemplate(match)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", text, err)
	}
	if kind == "role" {
		return role{t}, nil
	}
	value, constant, err := parseKind(kind)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", text, err)
	}
	if constant {
		return literal{kind, value, t}, nil
	}
	return attribute{kind, strings.Split(kind, "."), t}, nil
}

var placeholder = regexp.MustCompile(`^%(?:(%)|\(([^()]*)\)s)`)

// parseTemplate reads what is right of the colon. Of Python's % formats there
// are %(name)s and %%.
func parseTemplate(text string) (template, error) {
	t := template{text: text}
	last := ""
	rest := text
	for {
		at := strings.IndexByte(rest, '%')
		if at < 0 {
			t.parts = append(t.parts, last+rest)
			return t, nil
		}
		last += rest[:at]
		m := placeholder.FindStringSubmatch(rest[at:])
		if m == nil {
			return t, errors.New("after % comes (name)s, or another %")
		}
		rest = rest[at+len(m[0]):]
		if m[1] != "" {
			last += "%"
			continue
		}
		t.parts = append(t.parts, last, m[2])
		last = ""
	}
}

var (
	// Quotation marks around a text with none and no backslash in it.
	quoted = regexp.MustCompile(`^(?:'[^'\\]*'|"[^"\\]*")$`)
	number = regexp.MustCompile(`^-?(?:0|[1-9][0-9]{0,17})$`)
	// What names an attribute of the caller; dots go inside.
	attributeName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(?:[.-][A-Za-z_][A-Za-z0-9_]*)*$`)
	nameSeparator = regexp.MustCompile(`[.-]`)
)

// reserved are Python's words: the original takes what is left of a colon for
// Python first, and fails on these.
var reserved = map[string]bool{
	"False": true, "None": true, "True": true, "and": true, "as": true, "assert": true, "async": true, "await": true,
	"break": true, "class": true, "continue": true, "def": true, "del": true, "elif": true, "else": true,
	"except": true, "finally": true, "for": true, "from": true, "global": true, "if": true, "import": true,
	"in": true, "is": true, "lambda": true, "nonlocal": true, "not": true, "or": true, "pass": true, "raise": true,
	"return": true, "try": true, "while": true, "with": true, "yield": true,
}

// parseKind reads what is left of the colon: a constant and its text, or the
// name of an attribute.
func parseKind(kind string) (value string, constant bool, err error) {
	switch {
	case kind == "True", kind == "False", kind == "None":
		return kind, true, nil
	case number.MatchString(kind):
		if kind == "-0" {
			kind = "0"
		}
		return kind, true, nil
	case quoted.MatchString(kind):
		return kind[1 : len(kind)-1], true, nil
	case !attributeName.MatchString(kind):
		return "", false, fmt.Errorf("%q is neither the name of an attribute nor a constant such as 'text', 7 or True", kind)
	}
	for _, part := range nameSeparator.Split(kind, -1) {
		if reserved[part] {
			return "", false, fmt.Errorf("%q cannot be the name of an attribute", part)
		}
	}
	return "", false, nil
}
