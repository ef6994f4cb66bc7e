package local

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gotrove/gotrove/internal/durable"
)

// Tagged gives the instances that have a directory or an address.
func (c *Cloud) Tagged(context.Context) ([]string, error) {
	var out []string
	entries, err := os.ReadDir(filepath.Join(c.o.DataDir, "instances"))
	if err != nil {
		return nil, durable.Explain(err)
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	claims := filepath.Join(c.o.DataDir, "addresses")
	if entries, err = os.ReadDir(claims); err != nil {
		return nil, durable.Explain(err)
	}
	for _, e := range entries {
		id, err := os.ReadFile(filepath.Join(claims, e.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, durable.Explain(err)
		}
		out = append(out, strings.TrimSpace(string(id)))
	}
	out = slices.DeleteFunc(out, func(id string) bool { return checkID(id) != nil })
	slices.Sort(out)
	return slices.Compact(out), nil
}
