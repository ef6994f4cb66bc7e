package osloconf

import (
	"fmt"
	"strings"

	"github.com/gotrove/gotrove/internal/trove"
)

// Option is an option to be written. Its value is taken literally: readers get
// back what was given, dollar signs, quotes and blanks included.
type Option struct{ Name, Value string }

// Group is a group of options to be written.
type Group struct {
	Name    string
	Options []Option
}

// Render writes groups as a file that this package and oslo.config read the
// same. What the format cannot hold (a line break followed by a blank line,
// say) is an error that names the option and not its value.
func Render(groups ...Group) ([]byte, error) {
	var b strings.Builder
	for i, g := range groups {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "[%s]\n", g.Name)
		for _, o := range g.Options {
			line := o.Name + " = " + escape(o.Value) + "\n"
			if !readsBack(g.Name, o, line) {
				return nil, trove.Errorf(trove.KindBadRequest, "the value of %s cannot be written to a configuration file", newName(g.Name, o.Name))
			}
			b.WriteString(line)
		}
	}
	return []byte(b.String()), nil
}

// dollars escapes $. After a backslash that takes \$, since \$$ is read as $$$.
var dollars = strings.NewReplacer(`\$`, `\\$`, `$`, `$$`)

func escape(v string) string {
	v = dollars.Replace(v)
	first, rest, more := strings.Cut(v, "\n")
	if first != strings.TrimFunc(first, isSpace) || unquote(first) != first {
		first = `"` + first + `"`
	}
	if more {
		first += "\n  " + strings.ReplaceAll(rest, "\n", "\n  ")
	}
	return first
}

// readsBack reads what was written: no rule of the format is told twice.
func readsBack(group string, o Option, line string) bool {
	var got []value
	err := parse("", "["+group+"]\n"+line, func(n name, v value) {
		if n == newName(group, o.Name) {
			got = append(got, v)
		} else {
			got = append(got, value{}, value{})
		}
	})
	if err != nil || len(got) != 1 {
		return false
	}
	text, err := (&loader{}).substitute("", got[0].text, 0)
	return err == nil && text == o.Value
}
