package template

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/trove"
)

// program is a server's program as it was when asked for its version.
type program struct {
	Path     string `json:"path"`
	Size     int64  `json:"size"`
	Modified int64  `json:"modified"` // unix nanoseconds
	Version  string `json:"version"`
}

// Version gives the version of a server's program, and what else ask tells with
// it. It asks once and remembers the answer in root, among the templates, until
// the program is another one: loading a server only to ask for its version is a
// good part of a create.
func Version(ctx context.Context, root, path string, ask func(context.Context) (string, error)) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", trove.Errorf(trove.KindGuest, "program %s: %w", path, err)
	}
	now := program{Path: path, Size: info.Size(), Modified: info.ModTime().UnixNano()}
	return remembered(ctx, root, now, ask)
}

// VersionOf is Version for programs that are not of this machine: content names
// exactly what they are of, such as an image.
func VersionOf(ctx context.Context, root, content string, ask func(context.Context) (string, error)) (string, error) {
	return remembered(ctx, root, program{Path: content}, ask)
}

func remembered(ctx context.Context, root string, now program, ask func(context.Context) (string, error)) (_ string, err error) {
	memory := filepath.Join(root, ".program"+strings.NewReplacer("/", "-", ":", "-").Replace(now.Path)+".json")
	var then program
	if b, err := os.ReadFile(memory); root != "" && err == nil && json.Unmarshal(b, &then) == nil {
		if now.Version = then.Version; now == then && then.Version != "" {
			return then.Version, nil
		}
	}
	if now.Version, err = ask(ctx); err != nil {
		return "", err
	}
	// Kept if it can be: without a directory of templates there is no place.
	if b, err := json.Marshal(now); err == nil && root != "" && os.MkdirAll(root, 0o755) == nil {
		_ = durable.WriteFile(memory, b, 0o600)
	}
	return now.Version, nil
}
