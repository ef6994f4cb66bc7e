// Package chaos breaks a whole control plane while it works, and holds that
// nothing accepted is lost, nothing is done twice, and nothing is left behind.
package chaos

import (
	"fmt"
	"os"
	"testing"

	"github.com/gotrove/gotrove/test/region"
)

var bin string // the directory of the built programs

// full is whether all of it is asked for (make chaos): otherwise a short form.
var full = os.Getenv("GOTROVE_CHAOS") == "full"

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "gotrove-chaos")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		if err := os.Chmod(dir, 0o755); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if err := region.Build(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		bin = dir
		return m.Run()
	}())
}
