package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gotrove/gotrove/internal/cloud/openstack"
	"github.com/gotrove/gotrove/internal/keyring"
	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/policy"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/secret"
)

// checkFiles looks at who may read and write the configuration.
func (d *doctor) checkFiles(_ context.Context, r *report) {
	files := slices.Clone(d.src.Files)
	for _, dir := range d.src.Dirs {
		inside, err := filepath.Glob(filepath.Join(dir, "*.conf"))
		if err != nil {
			r.broken(err, "")
		}
		files = append(files, inside...)
	}
	if len(files) == 0 {
		r.warn("write /etc/trove/trove.conf (trove-manage config sample), or name the file with --config-file", "no configuration file was found")
	}
	for _, f := range files {
		st, err := os.Stat(f)
		switch {
		case err != nil:
			r.broken(err, "let the user that services run as read it")
		case st.Mode().Perm()&0o002 != 0:
			r.fail("chmod o-w "+f, "everybody may write %s", f)
		case st.Mode().Perm()&0o004 != 0:
			r.warn("chown root:trove "+f+"; chmod 0640 "+f, "everybody may read %s, in which passwords are", f)
		default:
			r.ok("%s can be read, by those who should", f)
		}
	}
}

// checkOptions tells what was wrong with the options.
func (d *doctor) checkOptions(_ context.Context, r *report) {
	for _, text := range osloconf.Told(d.warnings, checkConfig) {
		r.warn("", "%s", text)
	}
	if len(d.warnings) == 0 {
		r.ok("all options are known and used")
	}
}

// checkKeys looks at the keys that messages and the database are sealed with.
func (d *doctor) checkKeys(ctx context.Context, r *report) {
	s := &d.c.Secure
	if !s.Enable {
		r.warn("set [DEFAULT] enable_secure_rpc_messaging = true", "messages on the bus are not sealed")
	}
	newOne := "trove-manage key prints a random one; write the same on every host"
	known := map[string]string{}
	for _, k := range []struct {
		option, public string
		key            secret.String
	}{
		{"[DEFAULT] taskmanager_rpc_encr_key", keyring.PublicTaskManagerKey, s.TaskManagerKey},
		{"[DEFAULT] inst_rpc_key_encr_key", keyring.PublicMasterKey, s.MasterKey},
		{"[gotrove] guest_login_key", "", d.c.Guests.Key},
	} {
		text := k.key.Reveal()
		switch {
		case k.public == "" && text == "":
			continue // not used
		case !s.Enable && k.public != "":
			continue
		case text == "" || text == k.public:
			if s.AllowDefaultKeys {
				r.warn(newOne, "%s is the default, which everybody knows ([gotrove] allow_default_keys)", k.option)
			} else {
				r.fail(newOne, "%s is not set, or is the default, which everybody knows", k.option)
			}
		case known[text] != "":
			r.fail(newOne, "%s and %s are the same", known[text], k.option)
		case len(text) < 32:
			r.warn(newOne, "%s has %d characters; 32 or more are safe", k.option, len(text))
		default:
			r.ok("%s is set", k.option)
		}
		if text != "" {
			known[text] = k.option
		}
	}
}

// guestFile is what matters here of the file that every guest gets.
type guestFile struct {
	TransportURL    secret.String `conf:"DEFAULT.transport_url"`
	ControlExchange string        `conf:"DEFAULT.control_exchange" default:"openstack"`
	Key             secret.String `conf:"DEFAULT.instance_rpc_encr_key"`
	TaskManagerKey  secret.String `conf:"DEFAULT.taskmanager_rpc_encr_key"`
	MasterKey       secret.String `conf:"DEFAULT.inst_rpc_key_encr_key"`
	Connection      secret.String `conf:"database.connection"`
	Rabbit          amqp.Options
}

// checkGuestFile compares what guests are given with what we have ourselves.
func (d *doctor) checkGuestFile(ctx context.Context, r *report) {
	own, err := d.c.Guests.perGuest()
	if err != nil {
		r.broken(err, "")
		return
	}
	path := d.c.Guests.ConfigFile
	var g guestFile
	src := osloconf.Sources{Files: []string{path}}
	switch _, err := osloconf.Load(src, &g); {
	case errors.Is(err, fs.ErrNotExist) && own:
		r.skip("there is no %s; guests get logins of their own", path)
		return
	case errors.Is(err, fs.ErrNotExist):
		r.warn("write it, with transport_url, control_exchange and [oslo_messaging_rabbit] as in trove.conf", "[DEFAULT] guest_config: there is no %s; the agents' images must have their login", path)
		return
	case err != nil:
		r.broken(err, "correct the file that [DEFAULT] guest_config names")
		return
	}
	healthy := true
	fail := func(action, format string, args ...any) { healthy = false; r.fail(action, format, args...) }
	if all, err := readableByAll(path); err == nil && all && !g.TransportURL.IsZero() {
		r.warn("chown root:trove "+path+"; chmod 0640 "+path, "everybody may read %s, in which the guests' login is", path)
	}
	if g.ControlExchange != d.c.ControlExchange {
		fail("write control_exchange = "+d.c.ControlExchange+" into "+path, "guests would use the exchange %q, services %q: neither hears the other", g.ControlExchange, d.c.ControlExchange)
	}
	for option, differ := range differences(d.c.Rabbit, g.Rabbit) {
		fail("set [oslo_messaging_rabbit] "+option+" to the same in "+path+" and trove.conf", "[oslo_messaging_rabbit] %s is %s for services and %s for guests: the broker refuses what one of them declares (406)", option, differ[0], differ[1])
	}
	for option, key := range map[string]secret.String{"taskmanager_rpc_encr_key": g.TaskManagerKey, "inst_rpc_key_encr_key": g.MasterKey, "[database] connection": g.Connection} {
		if !key.IsZero() {
			fail("take it out of "+path, "%s holds %s: every guest could read it", path, option)
		}
	}
	if !g.Key.IsZero() {
		fail("take it out of "+path, "%s holds an instance_rpc_encr_key: each instance has its own", path)
	}
	switch {
	case own && !g.TransportURL.IsZero():
		r.warn("take transport_url out of "+path, "guests get logins of their own, and %s holds another", path)
	case !own && g.TransportURL.IsZero():
		fail("write transport_url into "+path, "%s has no transport_url, and guests have no logins of their own", path)
	case !own:
		d.checkHosts(ctx, r, "guests' ", g.TransportURL.Reveal(), &g.Rabbit)
	}
	if healthy {
		r.ok("%s agrees with the services' configuration", path)
	}
}

// declares are the options that decide on the form of what is on the bus.
func declares(o amqp.Options) map[string]string {
	return map[string]string{
		"amqp_durable_queues": fmt.Sprint(o.Durable), "amqp_auto_delete": fmt.Sprint(o.AutoDelete),
		"rabbit_ha_queues": fmt.Sprint(o.HA), "rabbit_quorum_queue": fmt.Sprint(o.Quorum),
		"rabbit_quorum_delivery_limit": fmt.Sprint(o.DeliveryLimit), "rabbit_quorum_max_memory_length": fmt.Sprint(o.MaxMemoryLength),
		"rabbit_quorum_max_memory_bytes": fmt.Sprint(o.MaxMemoryBytes), "rabbit_transient_quorum_queue": fmt.Sprint(o.TransientQuorum),
		"rabbit_transient_queues_ttl": fmt.Sprint(o.TransientTTL),
	}
}

// differences are the options in which two ends declare things otherwise.
func differences(ours, theirs amqp.Options) map[string][2]string {
	out := map[string][2]string{}
	other := declares(theirs)
	for name, v := range declares(ours) {
		if other[name] != v {
			out[name] = [2]string{v, other[name]}
		}
	}
	return out
}

// checkPolicy reads the policy files.
func (d *doctor) checkPolicy(ctx context.Context, r *report) {
	if _, err := policy.Open(ctx, d.c.Policy.config(d.c.places, d.log)); err != nil {
		r.broken(err, "correct the policy file; trove-manage policy show reads it")
		return
	}
	r.ok("the policy can be read")
}

// checkCloud looks at what instances on this machine need, or whether the login
// at a cloud is complete.
func (d *doctor) checkCloud(ctx context.Context, r *report) {
	if d.c.Cloud != cloudLocal {
		o, err := d.c.OpenStack.cloud()
		if err == nil {
			_, err = openstack.New(o)
		}
		if err != nil {
			r.broken(err, "complete [service_credentials]")
			return
		}
		r.ok("the options of the cloud are complete; trove-manage doctor --cloud looks at the cloud itself")
		return
	}
	u, err := engineUser(d.c.EngineUser)
	if err != nil {
		r.broken(err, "")
		return
	}
	if st, err := os.Stat(d.c.GuestAgent); err != nil || st.Mode()&0o111 == 0 {
		r.fail("install trove-guestagent, or name it in [gotrove] guest_agent", "there is no program %s", d.c.GuestAgent)
		return
	}
	engines, err := discover(ctx, d.c.GuestAgent, u, &d.c.Engines)
	switch {
	case err != nil:
		r.broken(err, "")
	case len(engines) == 0:
		r.fail("apt-get install mariadb-server-core postgresql", "no database engine is installed")
	default:
		var names []string
		for _, e := range engines {
			names = append(names, e.Manager+" "+e.Version)
		}
		r.ok("engines: %s", strings.Join(names, ", "))
	}
	p, err := netip.ParsePrefix(d.c.LoopbackRange)
	if err != nil {
		r.broken(err, "")
		return
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(p.Masked().Addr().Next().String(), "0"))
	if err != nil {
		r.fail("choose a range of 127.0.0.0/8, or put its addresses on the interface lo", "[gotrove] loopback_range: %s cannot be listened on: %v", p, err)
		return
	}
	_ = l.Close()
	r.ok("addresses of %s can be listened on", p)
}
