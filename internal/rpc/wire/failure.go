package wire

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Failure is an exception that travels. Python rebuilds it as
// Class(*Args, **Kwargs) where it trusts Module.
type Failure struct {
	Class     string                     `json:"class"`
	Module    string                     `json:"module"`
	Message   string                     `json:"message"`
	Traceback []string                   `json:"tb"`
	Args      []json.RawMessage          `json:"args"`
	Kwargs    map[string]json.RawMessage `json:"kwargs"`
}

// remoteSuffix is what Python adds to the names of an exception that it
// rebuilt and that travels on.
const remoteSuffix = "_Remote"

func (f Failure) encode() (string, error) {
	if f.Traceback == nil {
		f.Traceback = []string{}
	}
	if f.Args == nil {
		f.Args = []json.RawMessage{}
	}
	if f.Kwargs == nil {
		f.Kwargs = map[string]json.RawMessage{}
	}
	b, err := encode(f)
	return string(b), err
}

func decodeFailure(s string) (*Failure, error) {
	o, err := Members([]byte(s))
	if err != nil {
		return nil, fmt.Errorf("failure: %w", err)
	}
	f := new(Failure)
	for key, into := range map[string]any{"class": &f.Class, "module": &f.Module, "message": &f.Message} {
		if err := member(o, key, into); err != nil {
			return nil, fmt.Errorf("failure: %w", err)
		}
	}
	// What follows only decorates the error: of the wrong form, it is left out.
	_ = member(o, "tb", &f.Traceback)
	_ = member(o, "args", &f.Args)
	_ = member(o, "kwargs", &f.Kwargs)
	f.Class = strings.TrimSuffix(f.Class, remoteSuffix)
	f.Module = strings.TrimSuffix(f.Module, remoteSuffix)
	if f.Module == "exceptions" {
		f.Module = "builtins" // Python 2
	}
	return f, nil
}
