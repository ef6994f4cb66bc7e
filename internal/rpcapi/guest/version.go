package guest

import (
	"maps"
	"strings"

	"github.com/gotrove/gotrove/internal/rpc"
)

// IsTopic tells whether topic is that of an agent.
func IsTopic(topic string) bool { return strings.HasPrefix(topic, Topic("")) }

// Oldest gives m in the form of version 1.0 of the API, for an agent that knows
// no other; false if there is none.
func Oldest(m rpc.Message) (rpc.Message, bool) {
	args := maps.Clone(m.Args)
	switch m.Method {
	case "prepare", "start_db_with_conf_changes":
		delete(args, "ds_version")
	case "resize_fs":
		delete(args, "online")
	case "stop_db":
		if args == nil {
			args = map[string]any{}
		}
		args["do_not_start_on_reboot"] = false
	case "rotate_credentials": // ours: our agents take it at any version
	default:
		return m, false
	}
	m.Args, m.Version = args, v10
	return m, true
}
