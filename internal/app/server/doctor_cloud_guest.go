package server

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/cloud/openstack"
	"github.com/gotrove/gotrove/internal/guestlogin"
	"github.com/gotrove/gotrove/internal/osloconf"
	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/taskmanager/flow"
	"github.com/gotrove/gotrove/internal/trove"
)

const (
	// guestPrefix begins the ids of throw-away guests, which no instance has.
	guestPrefix = "doctor-"
	// guestWait is how long a throw-away guest may take to try the way to the
	// broker; a server under software emulation takes minutes to start.
	guestWait  = 15 * time.Minute
	guestLook  = 5 * time.Second
	removeWait = 5 * time.Minute
	loginEvery = time.Minute
	// guestLife is after which time another host's doctor cannot be at work with
	// its guest any more.
	guestLife = guestWait + removeWait + time.Minute
)

// throwaway is a guest that is made to try the way to the broker from where
// agents are. All of it carries one id, the same whenever this host makes one,
// so that what a killed doctor left is found by the next.
type throwaway struct {
	g     *region
	c     *openstack.Cloud
	owner cloud.Owner
	look  time.Duration

	// broken is the hop that was last seen broken, since when.
	broken guestapi.BootStage
	since  time.Time
	// kept is when its login was last made.
	kept time.Time
}

// guestOwner is whose things a host's throw-away guest at a cloud are.
func guestOwner(host, authURL string) cloud.Owner {
	sum := sha256.Sum256([]byte(host + " " + authURL))
	id := guestPrefix + hex.EncodeToString(sum[:6])
	return cloud.Owner{InstanceID: id, ProjectID: "doctor", UserID: "doctor", Name: "trove-" + id, Manager: "doctor"}
}

// checkGuest makes a throw-away guest, waits for what it tells, and takes it
// away again, whatever happens.
func (g *region) checkGuest(ctx context.Context, r *report) {
	if g.without(r, "nova", "neutron", "glance") {
		return
	}
	if len(g.versions) == 0 {
		r.skip("without the image of a datastore version no guest can be made")
		return
	}
	owner := guestOwner(g.d.c.Host, g.o.AuthURL)
	// An abstract address: it is free as soon as its process is gone.
	lock, err := (&net.ListenConfig{}).Listen(ctx, "unix", "@gotrove-"+owner.InstanceID)
	if err != nil {
		r.fail("wait for it", "another doctor of this host is at work with a guest")
		return
	}
	defer lock.Close()
	c, err := openstack.New(g.o)
	if err != nil {
		r.broken(err, "")
		return
	}
	t := &throwaway{g: g, c: c, owner: owner, look: cmp.Or(g.d.lookEvery, guestLook)}
	t.clean(ctx, r)
	defer func() {
		// Also when somebody lost his patience.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeWait)
		defer cancel()
		if err := t.remove(ctx, t.owner); err != nil {
			r.broken(err, fmt.Sprintf("run the doctor again; or openstack server delete %s; openstack port delete trove-%s; openstack security group delete %s-%s", owner.Name, owner.InstanceID, t.prefix(), owner.InstanceID))
		}
	}()
	if err := t.run(ctx, r); err != nil {
		r.broken(err, "openstack server show "+owner.Name+", and Nova's log")
	}
}

func (t *throwaway) prefix() string {
	if t.g.o.GroupPrefix == "" {
		return "trove_sg"
	}
	return t.g.o.GroupPrefix
}

// clean takes away what doctors before left: ours, and others' that is too old
// to be in use.
func (t *throwaway) clean(ctx context.Context, r *report) {
	ctx, cancel := context.WithTimeout(ctx, removeWait)
	defer cancel()
	found, err := t.g.v.Throwaways(ctx, guestPrefix)
	if err != nil {
		r.broken(err, "")
		return
	}
	for id, made := range found {
		own := id == t.owner.InstanceID
		if !own && (made.IsZero() || t.g.d.clock().Sub(made) < guestLife) {
			continue
		}
		o := t.owner
		o.InstanceID, o.Name = id, "trove-"+id
		if err := t.remove(ctx, o); err != nil {
			r.broken(err, "openstack server delete "+o.Name)
			continue
		}
		r.ok("the guest %s that an earlier doctor left was removed", o.Name)
	}
}

// remove takes a throw-away guest away, with its login.
func (t *throwaway) remove(ctx context.Context, o cloud.Owner) error {
	for {
		err := t.removeOnce(ctx, o)
		if err == nil || !trove.IsKind(err, trove.KindUnavailable) && !trove.IsKind(err, trove.KindConflict) {
			return err
		}
		if !pause(ctx, t.look) {
			return err
		}
	}
}

func (t *throwaway) removeOnce(ctx context.Context, o cloud.Owner) error {
	gone, err := t.c.DeleteServer(ctx, o)
	if err != nil {
		return err
	}
	if !gone {
		return trove.Errorf(trove.KindUnavailable, "server %s is not gone yet", o.Name)
	}
	if err := t.c.DeletePorts(ctx, o); err != nil {
		return err
	}
	if err := t.c.DeleteSecurityGroup(ctx, o); err != nil {
		return err
	}
	p := &process{c: t.g.d.c, log: t.g.d.log}
	if own, err := t.g.d.c.Guests.perGuest(); err != nil || !own {
		return err
	}
	logins, err := p.rabbitLogins()
	if err != nil {
		return err
	}
	return logins.Remove(ctx, o.InstanceID, 0)
}

// pause waits for d; false means that ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// files are what makes an agent a probe: as an instance's, with a login of its
// own where instances have one.
func (t *throwaway) files(ctx context.Context) (map[string][]byte, error) {
	d := t.g.d
	_, url, own, _, err := d.guestBus()
	if err != nil {
		return nil, err
	}
	if own {
		made, err := t.login(ctx)
		if err != nil {
			return nil, err
		}
		url = made.TransportURL.Reveal()
	}
	text, err := d.c.Guests.configText()
	if err != nil {
		return nil, err
	}
	groups := []osloconf.Group{{Name: "gotrove", Options: []osloconf.Option{{Name: "probe", Value: "true"}, {Name: "volume", Value: "directory"}}}}
	if url != "" {
		groups = append(groups, osloconf.Group{Name: "DEFAULT", Options: []osloconf.Option{{Name: "transport_url", Value: url}, {Name: "control_exchange", Value: d.c.ControlExchange}}})
	}
	after, err := osloconf.Render(groups...)
	if err != nil {
		return nil, err
	}
	who, err := osloconf.Render(osloconf.Group{Name: "DEFAULT", Options: []osloconf.Option{
		{Name: "guest_id", Value: t.owner.InstanceID}, {Name: "datastore_manager", Value: t.g.versions[0].Manager}, {Name: "tenant_id", Value: "doctor"}}})
	if err != nil {
		return nil, err
	}
	return map[string][]byte{flow.GuestInfoPath: who, flow.GuestConfigPath: append(append(bytes.Clone(text), '\n'), after...)}, nil
}

// login makes the guest's login, if it is not there.
func (t *throwaway) login(ctx context.Context) (guestlogin.Credentials, error) {
	logins, err := (&process{c: t.g.d.c, log: t.g.d.log}).rabbitLogins()
	if err != nil {
		return guestlogin.Credentials{}, err
	}
	return logins.Ensure(ctx, t.owner.InstanceID, 0)
}

// keepLogin makes the guest's login again now and then: a task manager removes
// those of which it knows no instance.
func (t *throwaway) keepLogin(ctx context.Context) error {
	own, err := t.g.d.c.Guests.perGuest()
	if err != nil || !own || t.g.d.clock().Sub(t.kept) < loginEvery {
		return err
	}
	if _, err := t.login(ctx); err != nil {
		return err
	}
	t.kept = t.g.d.clock()
	return nil
}

// run makes the guest and tells how far its agent came.
func (t *throwaway) run(ctx context.Context, r *report) error {
	ctx, cancel := context.WithTimeout(ctx, guestWait)
	defer cancel()
	v := t.g.versions[0]
	spec := cloud.ServerSpec{Owner: t.owner, Flavor: v.fits[0], ImageID: v.image.ID}
	began := t.g.d.clock()
	var err error
	if spec.Files, err = t.files(ctx); err != nil {
		return err
	}
	if err := t.patient(ctx, func() error { return t.c.EnsureSecurityGroup(ctx, t.owner, nil) }); err != nil {
		return err
	}
	if err := t.patient(ctx, func() (err error) {
		spec.Ports, err = t.c.EnsurePorts(ctx, t.owner, nil, trove.Access{})
		return err
	}); err != nil {
		return err
	}
	started := false
	var last cloud.Server
	for {
		if !started {
			err := t.patient(ctx, func() (err error) { last, err = t.c.EnsureServer(ctx, spec); return err })
			switch {
			case err != nil:
				return err
			case last.Status == trove.ServerError:
				r.fail("openstack server show "+t.owner.Name+" while --guest runs, and the log of Nova's scheduler and compute services", "Nova could not make a guest of image %s and flavor %s: %s", label(v.image.Name, v.image.ID), v.fits[0].Name, last.Fault)
				return nil
			case last.Status == trove.ServerActive:
				started = true
			}
		}
		if err := t.keepLogin(ctx); err != nil {
			return err
		}
		text := ""
		if started {
			if text, err = t.c.Evidence(ctx, t.owner); err != nil && !trove.IsKind(err, trove.KindUnavailable) {
				return err
			}
			if t.verdict(r, text, false, t.g.d.clock().Sub(began)) {
				return nil
			}
		}
		if !pause(ctx, t.look) {
			if !started {
				r.fail("openstack server show "+t.owner.Name+" while --guest runs", "the guest was %s, not ACTIVE, after %s", last.Status, t.g.d.clock().Sub(began).Round(time.Second))
				return nil
			}
			t.verdict(r, text, true, guestWait)
			return nil
		}
	}
}

// patient tries again while a cloud is away or busy.
func (t *throwaway) patient(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil || !trove.IsKind(err, trove.KindUnavailable) || !pause(ctx, t.look) {
			return err
		}
	}
}

// settled is how many looks long a hop is left broken before it counts: an
// address takes a moment to come.
const settled = 9

// stays tells whether a hop has been broken for long enough.
func (t *throwaway) stays(s guestapi.BootStage) bool {
	if now := t.g.d.clock(); t.broken != s {
		t.broken, t.since = s, now
	}
	return t.g.d.clock().Sub(t.since) >= settled*t.look
}

// verdict tells how far a guest's agent came, by its console; false while more
// may come. With final, nothing more will.
func (t *throwaway) verdict(r *report, console string, final bool, after time.Duration) bool {
	lines := guestapi.ParseBoot(console)
	var last, broken guestapi.BootLine
	for _, l := range lines {
		if l.Stage == guestapi.BootLogin && !l.Failed {
			r.ok("a guest of image %s reached the broker and was let in (%s), %s after it was asked for: %s", label(t.g.versions[0].image.Name, t.g.versions[0].image.ID), l.Detail, after.Round(time.Second), told(lines))
			return true
		}
		if l.Failed {
			broken = l
		} else {
			last = l
			broken = guestapi.BootLine{}
		}
	}
	// TLS and the login are judged by the broker; what comes before them may still
	// be on its way.
	sure := final || broken.Stage == guestapi.BootTLS || broken.Stage == guestapi.BootLogin || broken.Stage == guestapi.BootConfig || broken.Stage == guestapi.BootFiles
	if broken.Stage != "" && !sure {
		sure = t.stays(broken.Stage)
	}
	switch {
	case broken.Stage != "" && sure:
		r.fail(t.mend(broken.Stage), "a guest does not reach the broker: %s", strings.TrimSuffix(string(broken.Stage)+" failed: "+broken.Detail, ": "))
	case !final:
		return false
	case len(lines) == 0 && strings.TrimSpace(console) == "":
		r.fail("openstack console log show "+t.owner.Name+" while --guest runs: have the image's kernel write on its serial console (console=ttyS0)", "the guest wrote nothing on its console within %s", guestWait)
	case len(lines) == 0:
		r.fail("put the agent into the image: packaging/guest-image/add-agent", "the guest started, and no agent of ours told anything within %s: the image lacks it, or its agent has no --console; its console ends with: %s", guestWait, end(console))
	default:
		r.fail("openstack console log show "+t.owner.Name+" while --guest runs", "the guest's agent came to %q and told nothing after it within %s", last.Stage, guestWait)
	}
	return true
}

// mend is what to do about a hop.
func (t *throwaway) mend(s guestapi.BootStage) string {
	network := "NETWORK"
	subnet := "SUBNET"
	if n := len(t.g.managed); n > 0 {
		network = t.g.managed[n-1].ID
		if subs := t.g.managed[n-1].Subnets; len(subs) > 0 {
			subnet = subs[0].ID
		}
	}
	switch s {
	case guestapi.BootFiles:
		return "set [DEFAULT] use_nova_server_config_drive = true; or mend the metadata service: openstack network agent list --agent-type metadata"
	case guestapi.BootConfig:
		return "correct " + t.g.d.c.Guests.ConfigFile + ", or the file that the image lacks"
	case guestapi.BootAddress:
		return "openstack network agent list --agent-type dhcp; openstack subnet set --dhcp " + subnet
	case guestapi.BootName:
		return "openstack subnet set --dns-nameserver SERVER " + subnet + "; or write the broker's address instead of its name"
	case guestapi.BootRoute:
		return "openstack subnet set --gateway auto " + subnet + "; openstack router add subnet ROUTER " + subnet
	case guestapi.BootBroker:
		return "see whether the broker listens there (ss -ltn on its host), then the way: openstack router list; openstack port list --network " + network + "; openstack security group rule list; a firewall before the broker"
	case guestapi.BootTLS:
		return "give guests the authority of the broker's certificate: [oslo_messaging_rabbit] ssl_ca_file in " + t.g.d.c.Guests.ConfigFile + "; openssl s_client -connect BROKER shows the certificate"
	case guestapi.BootLogin:
		return "rabbitmqctl list_users; rabbitmqctl list_permissions; the broker's log tells why it refuses"
	}
	return "openstack console log show " + t.owner.Name + " while --guest runs"
}

// told is the story of a guest, in short.
func told(lines []guestapi.BootLine) string {
	var out []string
	for _, l := range lines {
		if !l.Failed {
			out = append(out, fmt.Sprintf("%s %.0f s", l.Stage, l.Since.Seconds()))
		}
	}
	return strings.Join(out, ", ")
}

// end is the end of a console.
func end(console string) string {
	s := strings.Join(strings.Fields(console), " ")
	if len(s) > 300 {
		s = "…" + strings.ToValidUTF8(s[len(s)-300:], "")
	}
	return s
}
