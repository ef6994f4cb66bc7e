// Package upgrade keeps messages at the version that the oldest receiver
// understands, as the operator says with [upgrade_levels] while services are
// exchanged one after the other: new arguments are left out where the receiver
// can do without, and what it cannot do is an error here and not a message that
// it would refuse.
//
// It stands between the typed clients and the bus. It must not know how messages
// are sent.
package upgrade

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpcapi/conductor"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/rpcapi/taskmanager"
	"github.com/gotrove/gotrove/internal/trove"
)

// Levels is the group [upgrade_levels], for package osloconf to fill: names of
// releases, versions, or latest.
type Levels struct {
	TaskManager string `conf:"upgrade_levels.taskmanager" default:"latest"`
	Conductor   string `conf:"upgrade_levels.conductor" default:"latest"`
	Guest       string `conf:"upgrade_levels.guestagent" default:"latest"`
}

// Caller gives a Caller that sends by next what the levels allow. An unknown
// level is an error of KindBadRequest that names the option.
func (l Levels) Caller(next rpc.Caller, taskmanagerTopic, conductorTopic string) (rpc.Caller, error) {
	c := capped{next: next, taskmanagerTopic: taskmanagerTopic, conductorTopic: conductorTopic}
	for _, o := range []struct {
		into        *version
		name, value string
		latest      string
		aliases     map[string]string
	}{
		{&c.taskmanager, "taskmanager", l.TaskManager, taskmanager.Version, releases()},
		{&c.conductor, "conductor", l.Conductor, conductor.Version, releases()},
		{&c.guest, "guestagent", l.Guest, guest.Version, guestReleases()},
	} {
		text := o.value
		switch alias, ok := o.aliases[text]; {
		case ok:
			text = alias
		case text == "latest" || text == "":
			text = o.latest
		}
		v, ok := parse(text)
		if !ok {
			return nil, trove.Errorf(trove.KindBadRequest, "[upgrade_levels] %s: %q is neither a version such as 1.0 nor one of latest, %s",
				o.name, o.value, strings.Join(slices.Sorted(maps.Keys(o.aliases)), ", "))
		}
		*o.into = v
	}
	return c, nil
}

// releases are the aliases of the original, all of its first version.
func releases() map[string]string {
	m := map[string]string{}
	for _, name := range []string{"icehouse", "juno", "kilo", "liberty", "mitaka", "newton"} {
		m[name] = "1.0"
	}
	return m
}

func guestReleases() map[string]string {
	m := releases()
	maps.Copy(m, map[string]string{"ussuri": "1.0", "victoria": "1.1", "epoxy": "1.2", "hibiscus": "1.3"})
	return m
}

type version struct{ major, minor int }

func parse(s string) (version, bool) {
	major, minor, _ := strings.Cut(s, ".")
	if minor == "" {
		minor = "0"
	}
	a, err1 := strconv.Atoi(major)
	b, err2 := strconv.Atoi(minor)
	return version{a, b}, err1 == nil && err2 == nil && a >= 0 && b >= 0
}

func (v version) String() string { return strconv.Itoa(v.major) + "." + strconv.Itoa(v.minor) }

// allows is oslo.messaging's rule: the same major version, a minor one not above.
func (v version) allows(asked version) bool { return v.major == asked.major && asked.minor <= v.minor }

type capped struct {
	next                             rpc.Caller
	taskmanagerTopic, conductorTopic string
	taskmanager, conductor, guest    version
}

// Call implements rpc.Caller.
func (c capped) Call(ctx context.Context, m rpc.Message, result any) error {
	m, err := c.limit(m)
	if err != nil {
		return err
	}
	return c.next.Call(ctx, m, result)
}

// Cast implements rpc.Caller.
func (c capped) Cast(ctx context.Context, m rpc.Message) error {
	m, err := c.limit(m)
	if err != nil {
		return err
	}
	return c.next.Cast(ctx, m)
}

func (c capped) limit(m rpc.Message) (rpc.Message, error) {
	level, kind, option := version{}, trove.KindInternal, ""
	switch {
	case m.Topic == c.taskmanagerTopic:
		level, option = c.taskmanager, "taskmanager"
	case m.Topic == c.conductorTopic:
		level, option = c.conductor, "conductor"
	case guest.IsTopic(m.Topic):
		level, option, kind = c.guest, "guestagent", trove.KindGuest
	default:
		return m, nil
	}
	asked, ok := parse(m.Version)
	if ok && level.allows(asked) {
		return m, nil
	}
	if option == "guestagent" && level.allows(version{1, 0}) {
		if old, ok := guest.Oldest(m); ok {
			return old, nil
		}
	}
	return m, trove.Errorf(kind, "%s needs version %s of the %s API and [upgrade_levels] %s allows %s", m.Method, m.Version, option, option, level).
		WithAction("upgrade the receivers, then raise [upgrade_levels] %s", option)
}
