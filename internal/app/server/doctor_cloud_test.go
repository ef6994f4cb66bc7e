package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/cloud/openstack/openstacktest"
	"github.com/gotrove/gotrove/internal/guestlogin"
	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/rpc/amqp/rabbittest"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

const managedSubnet = "bbbbbbbb-0000-4000-8000-000000000001"

// clinic is a cloud, and a configuration that is right for it until a test
// breaks something.
type clinic struct {
	f       *openstacktest.Cloud
	conf    values
	guests  string // the guests' file
	url     string // of the database
	group   string // of management ports
	version string // the datastore version's id
}

// emptyTables is a file with a database that is migrated; it is copied for each
// clinic, which is quicker.
var emptyTables = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "clinic")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "trove.db")
	s, err := store.Open(context.Background(), store.Config{URL: secret.New("sqlite:///" + path)})
	if err == nil {
		err = errors.Join(s.Migrate(context.Background()), s.Close())
	}
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

func newClinic(t *testing.T) *clinic {
	t.Helper()
	f := openstacktest.New(t)
	path := filepath.Join(t.TempDir(), "trove.db")
	tables, err := emptyTables()
	if err == nil {
		err = os.WriteFile(path, tables, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	w := &clinic{f: f, url: "sqlite:///" + path,
		guests: "[DEFAULT]\ntransport_url = rabbit://guest:p4ss@192.0.2.10:5672/\ncontrol_exchange = trove\n"}
	s := w.open(t)
	defer s.Close()
	w.version, err = s.EnsureVersion(t.Context(), trove.DatastoreVersion{DatastoreName: "mariadb", Name: "10.11", Manager: "mariadb", ImageID: openstacktest.Image, Active: true}, true)
	if err != nil {
		t.Fatal(err)
	}
	f.Set("subnets", managedSubnet, "gateway_ip", "10.9.0.1")
	f.Set("subnets", managedSubnet, "host_routes", []map[string]any{{"destination": "192.0.2.0/24", "nexthop": "10.9.0.1"}})
	f.Put("ports", map[string]any{"network_id": openstacktest.Management, "device_owner": "network:router_interface", "project_id": "admin",
		"fixed_ips": []map[string]any{{"subnet_id": managedSubnet, "ip_address": "10.9.0.1"}}, "mac_address": "fa:16:3e:00:00:01"})
	w.group = f.Put("security-groups", map[string]any{"name": "management"})
	w.rule(map[string]any{"ethertype": "IPv4"})
	w.conf = values{
		"DEFAULT.transport_url":    "rabbit://trove:p4ss@127.0.0.1:5672/",
		"DEFAULT.control_exchange": "trove", "DEFAULT.host": "host-1",
		"DEFAULT.management_networks": openstacktest.Management, "DEFAULT.management_security_groups": w.group,
		"database.connection": w.url, "gotrove.cloud": "openstack", "gotrove.guest_credentials": "shared",
		"service_credentials.auth_url": f.AuthURL(), "service_credentials.username": openstacktest.User,
		"service_credentials.password": openstacktest.Password, "service_credentials.project_name": "service",
		"service_credentials.region_name": openstacktest.Region,
		"network.public_network_id":       openstacktest.Public,
	}
	return w
}

func (w *clinic) open(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{URL: secret.New(w.url)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// rule lets something out.
func (w *clinic) rule(o map[string]any) {
	o["security_group_id"], o["direction"] = w.group, "egress"
	w.f.Put("security-group-rules", o)
}

// drop removes all rules.
func (w *clinic) drop() {
	for _, r := range w.f.All("security-group-rules") {
		w.f.Remove("security-group-rules", fmt.Sprint(r["id"]))
	}
}

// edit changes the datastore version, or binds it.
func (w *clinic) edit(t *testing.T, change func(v *trove.DatastoreVersion), bind ...string) {
	t.Helper()
	s := w.open(t)
	defer s.Close()
	v, err := s.Version(t.Context(), w.version)
	if err == nil && change != nil {
		change(&v)
		_, err = s.EnsureVersion(t.Context(), v, false)
	}
	for i := 0; err == nil && i < len(bind); i += 2 {
		err = s.BindVersion(t.Context(), w.version, bind[i], bind[i+1])
	}
	if err != nil {
		t.Fatal(err)
	}
}

// doctor makes one for the configuration as it is now.
func (w *clinic) doctor(t *testing.T) *doctor {
	t.Helper()
	w.conf["DEFAULT.guest_config"] = writeFile(t, "guest.conf", w.guests)
	if w.guests == "" {
		w.conf["DEFAULT.guest_config"] = filepath.Join(t.TempDir(), "none.conf")
	}
	src := osloconf.Sources{Files: []string{w.conf.write(t)}}
	c, warnings, err := LoadConfig(src, false)
	if err != nil {
		t.Fatal(err)
	}
	return &doctor{c: c, src: src, warnings: warnings, log: slog.New(slog.DiscardHandler), clock: time.Now, lookEvery: 3 * time.Millisecond}
}

func (w *clinic) examine(t *testing.T, instances int, guest bool) []finding {
	t.Helper()
	d := w.doctor(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return d.examineCloud(ctx, instances, guest)
}

// left are the things that doctors might leave.
func (w *clinic) left() (out []string) {
	for _, kind := range []string{"servers", "ports", "security-groups", "volumes", "floatingips"} {
		for _, o := range w.f.All(kind) {
			out = append(out, fmt.Sprint(kind, " ", o["id"], " ", o["name"]))
		}
	}
	slices.Sort(out)
	return out
}

// TestDoctorCloud breaks one thing after the other: each is told, with what mends
// it, and nothing is made or left.
func TestDoctorCloud(t *testing.T) {
	t.Parallel()
	set := func(option, value string) func(*testing.T, *clinic) {
		return func(_ *testing.T, w *clinic) { w.conf[option] = value }
	}
	thing := func(kind, id, field string, value any) func(*testing.T, *clinic) {
		return func(_ *testing.T, w *clinic) { w.f.Set(kind, id, field, value) }
	}
	quota := func(name string, most int) func(*testing.T, *clinic) {
		return func(_ *testing.T, w *clinic) { w.f.Quota = map[string]int{name: most} }
	}
	guests := func(text string) func(*testing.T, *clinic) {
		return func(_ *testing.T, w *clinic) { w.guests = "[DEFAULT]\ncontrol_exchange = trove\n" + text }
	}
	isolated := func(networks string) func(*testing.T, *clinic) {
		return func(_ *testing.T, w *clinic) {
			w.conf["network.network_isolation"], w.conf["DEFAULT.management_networks"] = "true", networks
		}
	}
	const bus = "transport_url = rabbit://guest:p4ss@"
	for name, tc := range map[string]struct {
		broken func(*testing.T, *clinic)
		status status // of the finding; OK: none is WARN or FAIL
		what   string
		mend   string
	}{
		"all is well":        {func(*testing.T, *clinic) {}, statusOK, "no limits that count", ""},
		"a local cloud":      {set("gotrove.cloud", "local"), statusFail, "no cloud to be looked at", "cloud = openstack"},
		"no user":            {set("service_credentials.username", ""), statusFail, "username is needed", "complete [service_credentials]"},
		"password":           {set("service_credentials.password", "wrong"), statusFail, "refuses the login", "openstack user set --password-prompt trove"},
		"Keystone is away":   {set("service_credentials.auth_url", "http://127.0.0.1:1/v3"), statusFail, "127.0.0.1:1", "--os-auth-url http://127.0.0.1:1/v3"},
		"no admin":           {func(_ *testing.T, w *clinic) { w.f.Roles = []string{"member"} }, statusWarn, "has not the role admin", "openstack role add --user u --project " + openstacktest.Project + " admin"},
		"may make nothing":   {func(_ *testing.T, w *clinic) { w.f.Roles = []string{"reader"} }, statusFail, "may not make servers", "openstack role add --user u --project " + openstacktest.Project + " member"},
		"no Nova":            {func(_ *testing.T, w *clinic) { w.f.Missing = []string{"compute"} }, statusFail, "no public endpoint of type compute", "openstack endpoint create --region RegionOne compute public"},
		"no Neutron":         {func(_ *testing.T, w *clinic) { w.f.Missing = []string{"network"} }, statusFail, "no public endpoint of type network", "set [DEFAULT] neutron_url"},
		"no Cinder":          {func(_ *testing.T, w *clinic) { w.f.Missing = []string{"volumev3"} }, statusFail, "no public endpoint of type volumev3", "openstack endpoint create --region RegionOne volumev3"},
		"no Glance":          {func(_ *testing.T, w *clinic) { w.f.Missing = []string{"image"} }, statusFail, "no public endpoint of type image", "set [DEFAULT] glance_url"},
		"another region":     {set("service_credentials.region_name", "Elsewhere"), statusFail, `in region "Elsewhere"`, "region_name to one of RegionOne"},
		"endpoint is away":   {set("DEFAULT.glance_url", "http://127.0.0.1:1"), statusFail, "glance at http://127.0.0.1:1/", "openstack endpoint list --service image"},
		"Nova is old":        {func(_ *testing.T, w *clinic) { w.f.NovaMax = "2.40" }, statusWarn, "no tags before 2.52", "upgrade Nova"},
		"Cinder is old":      {func(_ *testing.T, w *clinic) { w.f.CinderMax = "3.20" }, statusWarn, "since 3.42", "online_volume_resize = false"},
		"clocks":             {func(_ *testing.T, w *clinic) { w.f.Skew = time.Hour }, statusFail, "Keystone's clock is 59m", "NTP"},
		"no key pair":        {set("DEFAULT.nova_keypair", "mine"), statusFail, "key pair mine", "openstack keypair create --public-key"},
		"isolation":          {isolated(openstacktest.Management), statusOK, "the user's port is the database's container's alone", ""},
		"no isolation":       {set("network.network_isolation", "false"), statusOK, "network_isolation is off", ""},
		"isolated from none": {isolated(""), statusWarn, "network_isolation has no effect", "[network] network_isolation = false"},
		"no management":      {set("DEFAULT.management_networks", ""), statusWarn, "management_networks is not set", "openstack network create trove-mgmt"},
		"network is gone":    {set("DEFAULT.management_networks", openstacktest.Management[:35]+"f"), statusFail, "could not be found", "openstack network list"},
		"one of two is gone": {set("DEFAULT.management_networks", openstacktest.Management[:35]+"f,"+openstacktest.Management), statusWarn, "the last one is what counts", "take it out"},
		"network is off":     {thing("networks", openstacktest.Management, "admin_state_up", false), statusFail, "is switched off", "openstack network set --enable " + openstacktest.Management},
		"network is down":    {thing("networks", openstacktest.Management, "status", "DOWN"), statusFail, "is DOWN", "openstack network agent list"},
		"no subnet":          {func(_ *testing.T, w *clinic) { w.f.Remove("subnets", managedSubnet) }, statusFail, "has no subnet", "openstack subnet create --network " + openstacktest.Management},
		"no DHCP":            {thing("subnets", managedSubnet, "enable_dhcp", false), statusFail, "has no DHCP", "openstack subnet set --dhcp " + managedSubnet},
		"no address":         {thing("networks", openstacktest.Management, "used_ips", 65533-4), statusFail, "has 3 free addresses: 4 instances need one each", "openstack subnet create --network " + openstacktest.Management},
		"no security group":  {set("DEFAULT.management_security_groups", "nosuch"), statusFail, "nosuch", "openstack security group list"},
		"nothing goes out":   {func(_ *testing.T, w *clinic) { w.drop() }, statusFail, "do not let guests out to the broker 192.0.2.10", "openstack security group rule create --egress --protocol tcp --dst-port 5672 --remote-ip 192.0.2.10/32"},
		"another port": {func(_ *testing.T, w *clinic) {
			w.drop()
			w.rule(map[string]any{"protocol": "tcp", "port_range_min": 80, "port_range_max": 443})
		}, statusFail, "do not let guests out", "--dst-port 5672"},
		"the broker's port": {func(_ *testing.T, w *clinic) {
			w.drop()
			w.rule(map[string]any{"protocol": "tcp", "port_range_min": 5671, "port_range_max": 5672, "remote_ip_prefix": "192.0.2.0/24"})
		}, statusOK, "let guests out", ""},
		"not external": {set("network.public_network_id", openstacktest.Lonely), statusFail, "is not external", "openstack network set --external " + openstacktest.Lonely},
		"no external": {func(_ *testing.T, w *clinic) {
			w.conf["network.public_network_id"] = ""
			w.f.Set("networks", openstacktest.Public, "router:external", false)
		}, statusWarn, "no external network", "openstack network create --external"},
		"public is gone": {set("network.public_network_id", openstacktest.Public[:35]+"f"), statusFail, "could not be found", "openstack network list --external"},
		"no route": {func(_ *testing.T, w *clinic) {
			w.f.Set("subnets", managedSubnet, "gateway_ip", "")
			w.f.Set("subnets", managedSubnet, "host_routes", nil)
		}, statusFail, "has no route to the broker 192.0.2.10", "openstack router add subnet ROUTER " + managedSubnet},
		"a gateway only": {thing("subnets", managedSubnet, "host_routes", nil), statusWarn, "no host route to the broker 192.0.2.10",
			"openstack subnet set --host-route destination=192.0.2.10/32,gateway=10.9.0.1 " + managedSubnet},
		"a gateway without a router": {func(_ *testing.T, w *clinic) {
			w.f.Set("subnets", managedSubnet, "host_routes", nil)
			for _, p := range w.f.All("ports") {
				w.f.Remove("ports", fmt.Sprint(p["id"]))
			}
		}, statusWarn, "no host route to the broker", "openstack router add subnet ROUTER " + managedSubnet},
		"a host route":         {thing("subnets", managedSubnet, "gateway_ip", ""), statusOK, "a host route of subnet", ""},
		"on the network":       {guests(bus + "10.9.0.5/\n"), statusOK, "is on management network", ""},
		"loopback":             {guests(bus + "127.0.0.1/\n"), statusFail, "for a guest is itself", "write transport_url = rabbit://LOGIN:PASSWORD@HOST:5672/"},
		"localhost":            {guests(bus + "localhost/\n"), statusFail, "for a guest is itself", "transport_url"},
		"link local":           {guests(bus + "169.254.1.1/\n"), statusFail, "one link only", "transport_url"},
		"a socket":             {guests("transport_url = rabbit+unix://a:b@/?socket=/run/x\n"), statusFail, "a socket of this machine", "transport_url"},
		"no name":              {guests(bus + "no-such-host.invalid/\n"), statusWarn, "cannot be resolved here", "openstack subnet set --dns-nameserver"},
		"no URL":               {guests(""), statusWarn, "are told no transport_url", "write transport_url into"},
		"not a URL":            {guests("transport_url = rabbit:\n"), statusFail, "is no transport URL", "transport_url"},
		"guests' file":         {guests("[[\n"), statusFail, "guest.conf:3", "guest_config"},
		"own logins, loopback": {func(_ *testing.T, w *clinic) { w.conf["gotrove.guest_credentials"], w.guests = "per_guest", "" }, statusFail, "[DEFAULT] transport_url: 127.0.0.1 is 127.0.0.1", "set [gotrove] guest_transport_url"},
		"TLS for us only":      {set("oslo_messaging_rabbit.ssl", "true"), statusFail, "guests are not told to", "ssl = true"},
		"TLS without a CA":     {guests(bus + "10.9.0.5/\n[oslo_messaging_rabbit]\nssl = true\n"), statusWarn, "an authority of your own would be refused", "ssl_ca_file"},
		"TLS, CA of the image": {guests(bus + "10.9.0.5/\n[oslo_messaging_rabbit]\nssl = true\nssl_ca_file = /etc/trove/ca.pem\n"), statusWarn, "the image must have it", ".cloudinit"},
		"no version":           {func(t *testing.T, w *clinic) { w.edit(t, func(v *trove.DatastoreVersion) { v.Active = false }) }, statusFail, "no active datastore version", "trove-manage datastore_version_update mariadb"},
		"image is gone":        {func(_ *testing.T, w *clinic) { w.f.Remove("images", openstacktest.Image) }, statusFail, "sees no image " + openstacktest.Image, `trove-manage datastore_version_update mariadb 10.11 mariadb IMAGE_ID "" 1`},
		"image is queued":      {thing("images", openstacktest.Image, "status", "queued"), statusFail, "is queued, not active", "openstack image create"},
		"image is off":         {thing("images", openstacktest.Image, "status", "deactivated"), statusFail, "is deactivated", "openstack image set --activate " + openstacktest.Image},
		"image by tags": {func(t *testing.T, w *clinic) {
			w.edit(t, func(v *trove.DatastoreVersion) { v.ImageID, v.ImageTags = "", []string{"trove", "mariadb"} })
		}, statusOK, "is active", ""},
		"no image has the tags": {func(t *testing.T, w *clinic) {
			w.edit(t, func(v *trove.DatastoreVersion) { v.ImageID, v.ImageTags = "", []string{"trove", "redis"} })
		},
			statusFail, "has the tags trove, redis", "openstack image set --tag trove --tag redis"},
		"image is too large": {thing("images", openstacktest.Image, "min_disk", 9), statusFail, "needs a disk of 9 GiB", "openstack flavor create --ram 512 --disk 9"},
		"image wants memory": {thing("images", openstacktest.Image, "min_ram", 900), statusWarn, "does not fit the flavors db.tiny", "trove-manage datastore_version_flavor_add mariadb 10.11 2,3"},
		"no flavors": {func(_ *testing.T, w *clinic) {
			for _, id := range []string{"1", "2", "3"} {
				w.f.Remove("flavors", id)
			}
		}, statusFail, "sees no flavor", "openstack flavor create"},
		"bound flavor is gone": {func(t *testing.T, w *clinic) { w.edit(t, nil, store.BindFlavor, "77") }, statusFail, "may have the flavor 77", "trove-manage datastore_version_flavor_delete mariadb 10.11 77"},
		"bound type is gone":   {func(t *testing.T, w *clinic) { w.edit(t, nil, store.BindVolumeType, "gold") }, statusFail, "may have the volume type gold", "trove-manage datastore_version_volume_type_delete mariadb 10.11 gold"},
		"bound flavor": {func(t *testing.T, w *clinic) {
			w.edit(t, nil, store.BindFlavor, "2", store.BindVolumeType, "fast")
			w.f.Quota = map[string]int{"instances": 9}
		}, statusOK, "of flavor db.small", ""},
		"volume type":         {set("DEFAULT.cinder_volume_type", "fast"), statusOK, "volume type fast is there", ""},
		"no such volume type": {set("DEFAULT.cinder_volume_type", "gold"), statusFail, "sees no volume type gold", "openstack volume type create --public gold"},
		"private volume type": {func(_ *testing.T, w *clinic) {
			w.conf["DEFAULT.cinder_volume_type"] = "ours"
			w.f.Put(openstacktest.VolumeTypes, map[string]any{"name": "ours", "is_public": false})
		}, statusWarn, "is private", "openstack volume type set --project " + openstacktest.Project + " ours"},
		"quota of instances":       {quota("instances", 3), statusFail, "quota instances: 0 of 3 are used, and 4 instances take 4", "openstack quota set --instances 4 " + openstacktest.Project},
		"quota of cores":           {quota("cores", 3), statusFail, "quota cores", "openstack quota set --cores 4 " + openstacktest.Project},
		"quota of memory":          {quota("ram", 2000), statusFail, "4 instances take 2048 of flavor db.tiny", "openstack quota set --ram 2048 " + openstacktest.Project},
		"quota of ports":           {quota("port", 7), statusFail, "quota ports", "openstack quota set --ports 8 " + openstacktest.Project},
		"quota of security groups": {quota("security_group", 4), statusFail, "quota secgroups: 1 of 4", "openstack quota set --secgroups 5 " + openstacktest.Project},
		"quota of rules":           {quota("security_group_rule", 4), statusFail, "quota secgroup-rules", "openstack quota set --secgroup-rules 13 " + openstacktest.Project},
		"quota of volumes":         {quota("volumes", 1), statusFail, "quota volumes", "openstack quota set --volumes 4 " + openstacktest.Project},
		"quota of gigabytes":       {quota("gigabytes", 3), statusFail, "quota gigabytes", "openstack quota set --gigabytes 4 " + openstacktest.Project},
		"enough quota":             {func(_ *testing.T, w *clinic) { w.f.Quota = map[string]int{"instances": 9, "ram": 512 * 6} }, statusOK, "room for 6 more instances of flavor db.tiny", ""},
		"database":                 {set("database.connection", ""), statusFail, "[database] connection is not set", "trove-manage doctor"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newClinic(t)
			tc.broken(t, w)
			before := w.left()
			found := w.examine(t, 4, false)
			if !slices.ContainsFunc(found, func(f finding) bool {
				return f.Status == tc.status && strings.Contains(f.Message, tc.what) && strings.Contains(f.Action, tc.mend)
			}) {
				t.Errorf("no %s with %q and %q in\n%s", tc.status, tc.what, tc.mend, show(found))
			}
			for _, f := range found {
				if tc.status == statusOK && f.Status != statusOK {
					t.Errorf("%+v", f)
				}
				if (f.Status == statusFail || f.Status == statusWarn) && f.Action == "" {
					t.Errorf("nothing to do about %+v", f)
				}
				if text := f.Message + f.Action; strings.Contains(text, "p4ss") || strings.Contains(text, openstacktest.Password) {
					t.Errorf("a password is told: %s", text)
				}
			}
			if after := w.left(); !slices.Equal(before, after) {
				t.Errorf("left are %q, and there were %q", after, before)
			}
			for call, n := range w.f.Calls() {
				if !strings.HasPrefix(call, "GET ") && call != "POST identity/auth/tokens" && (call != "POST compute/servers" || n != 1) {
					t.Errorf("%d of %s", n, call)
				}
			}
		})
	}
}

// All calls of a cloud that is away are told, and end.
func TestDoctorCloudAway(t *testing.T) {
	t.Parallel()
	w := newClinic(t)
	w.f.Fail = func(r *http.Request) openstacktest.Fault {
		if strings.Contains(r.URL.Path, "/identity") {
			return openstacktest.None
		}
		return openstacktest.Internal
	}
	found := w.examine(t, 1, true)
	for _, service := range []string{"nova", "neutron", "cinder", "glance"} {
		has(t, found, statusFail, service+" at ")
	}
	has(t, found, statusSkip, "without neutron")
}

// console is what a guest's agent writes.
func console(lines ...string) string {
	var b strings.Builder
	b.WriteString("[    0.000000] Linux version 6.1.0\n")
	for i, l := range lines {
		fmt.Fprintf(&b, "\ntrove-guestagent: [%d.00] %s\n", 40+i, l)
	}
	return b.String()
}

// TestDoctorGuest has a throw-away guest tell how far it came.
func TestDoctorGuest(t *testing.T) {
	t.Parallel()
	begun := []string{"files written", "agent started: 1.0", "address given: 10.9.1.1/16", "route found: to 192.0.2.10 from 10.9.1.1"}
	for name, tc := range map[string]struct {
		console string
		more    func(*clinic)
		status  status
		what    string
		mend    string
	}{
		"it comes through": {console(append(begun, "broker reached: 192.0.2.10:5672", "login accepted: guest at 192.0.2.10:5672")...), nil, statusOK, "was let in (guest at 192.0.2.10:5672)", ""},
		"after a while":    {console("agent started", "FAILED address given: no interface has an address", "address given: 10.9.1.1/16", "login accepted: guest"), nil, statusOK, "was let in", ""},
		"no address":       {console("agent started", "FAILED address given: no interface has an address"), nil, statusFail, "address given failed: no interface has an address", "openstack subnet set --dhcp " + managedSubnet},
		"no name":          {console("address given: a", "FAILED broker resolved: no such host"), nil, statusFail, "no such host", "--dns-nameserver"},
		"no route":         {console("address given: a", "FAILED route found: to 192.0.2.10: network is unreachable"), nil, statusFail, "network is unreachable", "openstack router add subnet ROUTER " + managedSubnet},
		"refused":          {console(append(begun, "FAILED broker reached: 192.0.2.10:5672: connection refused")...), nil, statusFail, "connection refused", "ss -ltn"},
		"TLS":              {console(append(begun, "broker reached: x", "FAILED TLS agreed: unknown authority")...), nil, statusFail, "unknown authority", "ssl_ca_file"},
		"login":            {console(append(begun, "broker reached: x", "FAILED login accepted: guest is refused")...), nil, statusFail, "guest is refused", "rabbitmqctl list_users"},
		"no metadata":      {console("FAILED files written: no config drive"), nil, statusFail, "no config drive", "use_nova_server_config_drive"},
		"no host":          {"", func(w *clinic) { w.f.Break = func(kind string) bool { return kind == "server" } }, statusFail, "No valid host was found", "openstack server show trove-doctor-"},
		"no quota":         {"", func(w *clinic) { w.f.Quota = map[string]int{"instances": 0} }, statusFail, "Quota exceeded", "quota"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newClinic(t)
			w.f.Console = tc.console
			w.conf["DEFAULT.management_security_groups"] = "" // it gets one of its own
			if tc.more != nil {
				tc.more(w)
			}
			before := w.left()
			found := w.examine(t, 1, true)
			if !slices.ContainsFunc(found, func(f finding) bool {
				return f.Check == "guest" && f.Status == tc.status && strings.Contains(f.Message, tc.what) && strings.Contains(f.Action, tc.mend)
			}) {
				t.Errorf("no %s with %q and %q in\n%s", tc.status, tc.what, tc.mend, show(found))
			}
			if after := w.left(); !slices.Equal(before, after) {
				t.Errorf("left are %q, and there were %q", after, before)
			}
			if calls := w.f.Calls(); tc.console != "" && (calls["DELETE compute/servers/{id}"] != 1 || calls["POST network/ports"] != 1) {
				t.Errorf("%v", calls)
			}
		})
	}
}

// What a guest is given makes its agent a probe, with what the guests' file says.
func TestDoctorGuestFiles(t *testing.T) {
	t.Parallel()
	w := newClinic(t)
	w.guests += "[oslo_messaging_rabbit]\nheartbeat_timeout_threshold = 33\n[gotrove]\nvolume = attached\n"
	d := w.doctor(t)
	g := &region{d: d, versions: []versionView{{DatastoreVersion: trove.DatastoreVersion{Manager: "mariadb"}}}}
	files, err := (&throwaway{g: g, owner: guestOwner("host-1", w.f.AuthURL())}).files(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var src osloconf.Sources
	for i, path := range slices.Sorted(maps.Keys(files)) {
		name := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(name, files[path], 0o600); err != nil {
			t.Fatal(err)
		}
		src.Files = append(src.Files, name)
	}
	var got struct {
		Probe  bool          `conf:"gotrove.probe"`
		Volume string        `conf:"gotrove.volume"`
		ID     string        `conf:"DEFAULT.guest_id"`
		URL    secret.String `conf:"DEFAULT.transport_url"`
		Beat   int           `conf:"oslo_messaging_rabbit.heartbeat_timeout_threshold"`
	}
	if _, err := osloconf.Load(src, &got); err != nil {
		t.Fatal(err)
	}
	if !got.Probe || got.Volume != "directory" || !strings.HasPrefix(got.ID, guestPrefix) || got.URL.Reveal() != "rabbit://guest:p4ss@192.0.2.10:5672/" || got.Beat != 33 {
		t.Errorf("%+v", got)
	}
}

// A doctor that was killed leaves its guest to the next; another host's is left
// alone until it cannot be in use.
func TestDoctorGuestLeftOver(t *testing.T) {
	t.Parallel()
	w := newClinic(t)
	w.f.Console = console("login accepted: guest")
	w.conf["DEFAULT.management_security_groups"] = ""
	before := w.left()
	make := func(host string) {
		id := guestOwner(host, w.f.AuthURL()).InstanceID
		w.f.Put("security-groups", map[string]any{"name": "trove_sg-" + id})
		port := w.f.Put("ports", map[string]any{"name": "trove-" + id, "network_id": openstacktest.Management, "device_id": "", "status": "DOWN", "mac_address": host,
			"fixed_ips": []map[string]any{{"subnet_id": managedSubnet, "ip_address": "10.9.9." + host[len(host)-1:]}}})
		server := w.f.Put("servers", map[string]any{"name": "trove-" + id, "status": "ACTIVE", "created": time.Now().UTC().Format(time.RFC3339), "tags": []string{"trove_instance_id_" + id},
			"metadata": map[string]any{"trove_instance_id": id}, "flavor": map[string]any{"id": "1"}, "addresses": map[string]any{}})
		w.f.Set("ports", port, "device_id", server)
	}
	make("host-1")
	make("host-2")
	other := w.left()
	found := w.examine(t, 1, true)
	has(t, found, statusOK, "that an earlier doctor left was removed")
	has(t, found, statusOK, "was let in")
	theirs := guestOwner("host-2", w.f.AuthURL()).InstanceID
	if len(w.f.Left(guestOwner("host-1", w.f.AuthURL()).InstanceID)) != 0 || len(w.f.Left(theirs)) != 3 {
		t.Errorf("left are %q of %q", w.left(), other)
	}
	d := w.doctor(t)
	d.clock = func() time.Time { return time.Now().Add(guestLife + time.Minute) }
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	found = d.examineCloud(ctx, 1, true)
	has(t, found, statusOK, "trove-"+theirs)
	if after := w.left(); !slices.Equal(before, after) {
		t.Errorf("left are %q, and there were %q", after, before)
	}
}

// Two doctors of one host do not take each other's guest away.
func TestDoctorGuestTwice(t *testing.T) {
	t.Parallel()
	w := newClinic(t)
	w.f.Console = console("agent started")
	ctx, cancel := context.WithCancel(t.Context())
	d := w.doctor(t)
	first := make(chan []finding, 1)
	go func() { first <- d.examineCloud(ctx, 1, true) }()
	deadline := time.After(time.Minute)
	for len(w.f.All("servers")) == 0 {
		select {
		case <-deadline:
			t.Fatal("no guest")
		case <-time.After(time.Millisecond):
		}
	}
	has(t, w.examine(t, 1, true), statusFail, "another doctor of this host")
	cancel() // somebody presses Ctrl-C
	select {
	case <-first:
	case <-deadline:
		t.Fatal("it does not end")
	}
	if left := w.f.Left(guestPrefix); len(left) != 0 {
		t.Errorf("left are %q", left)
	}
}

// testDoctorGuestLogin has a throw-away guest use a login of its own in a real
// RabbitMQ, which is there as long as the guest is.
func testDoctorGuestLogin(t *testing.T, hospital *ward) {
	w := newClinic(t)
	w.conf["DEFAULT.management_security_groups"], w.conf["gotrove.guest_credentials"] = "", "per_guest"
	for option, value := range hospital.values(t) {
		if strings.Contains(option, "rabbit_management") || option == "gotrove.guest_login_key" {
			w.conf[option] = value
		}
	}
	w.conf["DEFAULT.transport_url"], w.conf["gotrove.guest_transport_url"] = hospital.rabbit("trove", "x", ""), "rabbit://192.0.2.10:5672/"
	w.guests = "[DEFAULT]\ncontrol_exchange = trove\n"
	w.f.Console = console("login accepted")
	login := guestlogin.Name(guestOwner("host-1", w.f.AuthURL()).InstanceID)
	known := func() bool {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, hospital.broker.ManagementURL()+"/api/users/"+login, nil)
		if err != nil {
			t.Error(err)
			return false
		}
		q.SetBasicAuth(rabbittest.AdminName, rabbittest.AdminPassword)
		answer, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Error(err)
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	}
	var during atomic.Bool
	w.f.Fail = func(r *http.Request) openstacktest.Fault {
		if strings.HasSuffix(r.URL.Path, "/action") && known() {
			during.Store(true)
		}
		return openstacktest.None
	}
	found := w.examine(t, 1, true)
	has(t, found, statusOK, "the management API lets us make logins")
	has(t, found, statusOK, "was let in")
	if !during.Load() || known() {
		t.Errorf("the login was there with the guest: %t; it is there after it: %t", during.Load(), known())
	}
}

func TestDoctorCloudUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--cloud", "--role", "api"}, {"--instances", "2"}, {"--cloud", "--instances", "0"}} {
		if code, _, _ := invoke(append([]string{"trove-manage", "doctor"}, args...)...); code != 2 {
			t.Errorf("%q: %d", args, code)
		}
	}
	w := newClinic(t)
	d := w.doctor(t)
	code, out, errs := invoke("trove-manage", "--config-file", d.src.Files[0], "doctor", "--cloud")
	if code != 0 || !strings.Contains(out, "the quotas of project service") {
		t.Errorf("%d\n%s%s", code, out, errs)
	}
}
