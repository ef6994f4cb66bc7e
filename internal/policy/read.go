package policy

import (
	"errors"
	"fmt"
	"io"
	"os"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds a policy file; one that names every rule has some 10 kB.
const maxFile = 1 << 20

// readFile reads the rules of a policy file: YAML, or JSON, which is YAML too. One
// that has another length than when it was looked at is being written.
func readFile(at file) (map[string]Check, error) {
	path := at.path
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	if int64(len(b)) != at.size {
		return nil, fmt.Errorf("%s is being written", path)
	}
	rules, err := read(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return rules, nil
}

func read(text []byte) (map[string]Check, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, err
	}
	rules := map[string]Check{}
	if document.IsZero() {
		return rules, nil // nothing but comments
	}
	top := document.Content[0]
	if top.Tag == "!!null" {
		return rules, nil
	}
	if top.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("line %d: want rules, as name: condition", top.Line)
	}
	lines := map[string]int{}
	var errs []error
	for i := 0; i+1 < len(top.Content); i += 2 {
		name, value := top.Content[i], top.Content[i+1]
		if name.Kind != yaml.ScalarNode || name.Tag != "!!str" {
			errs = append(errs, fmt.Errorf("line %d: %q is not the name of a rule", name.Line, name.Value))
			continue
		}
		if first, ok := lines[name.Value]; ok {
			errs = append(errs, fmt.Errorf("line %d: rule %q is there twice, first on line %d", name.Line, name.Value, first))
			continue
		}
		lines[name.Value] = name.Line
		c, err := readRule(value)
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: rule %q: %w", value.Line, name.Value, err))
			continue
		}
		rules[name.Value] = c
	}
	return rules, errors.Join(errs...)
}

var (
	errForm  = errors.New(`want a text, such as "role:admin", or a list of lists of texts`)
	errEmpty = errors.New(`there is no condition; write "" for everyone, "!" for no one, with the quotation marks`)
)

func readRule(n *yaml.Node) (Check, error) {
	switch {
	case isText(n):
		return Parse(n.Value)
	case n.Tag == "!!null":
		// oslo.policy would let everyone in. YAML gives the same for an unquoted
		// "!", whose writer meant the contrary.
		return nil, errEmpty
	case n.Kind != yaml.SequenceNode:
		return nil, errForm
	}
	var list [][]string
	for _, inner := range n.Content {
		switch {
		case isText(inner):
			list = append(list, []string{inner.Value})
		case inner.Kind == yaml.SequenceNode:
			texts := []string{}
			for _, t := range inner.Content {
				if !isText(t) {
					return nil, errForm
				}
				texts = append(texts, t.Value)
			}
			list = append(list, texts)
		default:
			return nil, errForm
		}
	}
	return parseList(list)
}

func isText(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!str" }
