package guest

import (
	"flag"
	"slices"
	"testing"

	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/osloconf/osloconftest"
)

var update = flag.Bool("update", false, "write golden files")

// TestOptionsPage holds the operator's reference to the options that there are.
func TestOptionsPage(t *testing.T) {
	options, err := osloconf.Describe(&config{})
	if err != nil {
		t.Fatal(err)
	}
	options = slices.DeleteFunc(options, func(o osloconf.Described) bool { return o.Group == "oslo_messaging_rabbit" }) // as the services'
	osloconftest.Page(t, "../../../docs/operator/options.md", "agents", options, *update)
}
