package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/gotrove/gotrove/internal/conductor"
	"github.com/gotrove/gotrove/internal/guestlogin"
	"github.com/gotrove/gotrove/internal/lease"
	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/taskmanager/flow"
	"github.com/gotrove/gotrove/internal/trove"
)

// guestLoginOptions say which logins guest agents have on the operator's broker
// (docs/operator/guest-logins.md). A standalone's broker has a login for each.
type guestLoginOptions struct {
	Credentials string `conf:"gotrove.guest_credentials" default:""`
	// ManagementURL are addresses, separated by commas; they may hold a login.
	ManagementURL      secret.String `conf:"gotrove.rabbit_management_url"`
	ManagementUser     string        `conf:"gotrove.rabbit_management_user" default:""`
	ManagementPassword secret.String `conf:"gotrove.rabbit_management_password"`
	ManagementCAFile   string        `conf:"gotrove.rabbit_management_ca_file" default:""`
	Key                secret.String `conf:"gotrove.guest_login_key"`
	TransportURL       secret.String `conf:"gotrove.guest_transport_url"`
	ConfigFile         string        `conf:"DEFAULT.guest_config" default:"/etc/trove/trove-guestagent.conf"`
}

// Values of [gotrove] guest_credentials.
const (
	credentialsPerGuest = "per_guest"
	credentialsShared   = "shared"
)

// perGuest is whether guests have logins of their own.
func (o *guestLoginOptions) perGuest() (bool, error) {
	switch o.Credentials {
	case credentialsPerGuest:
		return true, nil
	case credentialsShared:
		return false, nil
	case "":
		return !o.ManagementURL.IsZero(), nil
	}
	return false, trove.Errorf(trove.KindBadRequest, "[gotrove] guest_credentials: %q is neither %s nor %s", o.Credentials, credentialsPerGuest, credentialsShared)
}

// replyExchange is by which exchange guests answer; empty if they may write
// to the callers' queues themselves.
func (p *process) replyExchange() (string, error) {
	own, err := p.c.Guests.perGuest()
	if err != nil || !own {
		return "", err
	}
	return guestlogin.ReplyExchange(p.c.ControlExchange), nil
}

// senders say whom the conductor believes what.
func (p *process) senders() (conductor.Senders, error) {
	own, err := p.c.Guests.perGuest()
	if err != nil || !own {
		return conductor.Senders{GuestOf: guestlogin.Anyone}, err
	}
	ours, err := amqp.Logins(p.c.TransportURL.Reveal())
	if err != nil {
		return conductor.Senders{}, err
	}
	return conductor.Senders{GuestOf: guestlogin.Senders(ours...), ControlPlane: func(login string) bool { return slices.Contains(ours, login) }}, nil
}

// guestBus makes the place of guests on the operator's broker: for flows, with
// what else each guest's configuration must hold.
func (p *process) guestBus(ctx context.Context) (flow.Bus, flow.Options, error) {
	o := &p.c.Guests
	own, err := o.perGuest()
	if err != nil {
		return nil, flow.Options{}, err
	}
	text, err := o.configText()
	if err != nil {
		return nil, flow.Options{}, err
	}
	queues := guestlogin.NewTopology(p.conn, p.c.ControlExchange, own)
	restorer := guestlogin.NewRestorer(queues, p.listeningGuests, p.conn.Connected(), p.log)
	declares := lease.New(p.store, "guest_queues", p.log)
	p.task("guest queues", func(ctx context.Context) error { return declares.Run(ctx, restorer.Run) }, 0)
	if !own {
		p.log.WarnContext(ctx, "ALL GUESTS SHARE ONE LOGIN ON THE MESSAGE BUS: whoever breaks into one database server can read and command all others",
			"option", "[gotrove] guest_credentials", "instead", "set [gotrove] rabbit_management_url and guest_login_key (docs/operator/guest-logins.md)")
		if text == nil {
			p.log.WarnContext(ctx, "there is no configuration for guests: their login must be in the image", "option", "[DEFAULT] guest_config", "path", o.ConfigFile)
		}
		return guestlogin.On(guestlogin.Shared{}, queues), flow.Options{GuestConfig: text}, nil
	}
	logins, err := p.rabbitLogins()
	if err != nil {
		return nil, flow.Options{}, err
	}
	reply, err := osloconf.Render(osloconf.Group{Name: "gotrove", Options: []osloconf.Option{
		{Name: "reply_exchange", Value: guestlogin.ReplyExchange(p.c.ControlExchange)}}})
	if err != nil {
		return nil, flow.Options{}, err
	}
	reconciler := guestlogin.NewReconciler(logins, queues, p.liveGuests, p.log)
	held := lease.New(p.store, "guest_logins", p.log)
	p.task("guest logins", func(ctx context.Context) error { return held.Run(ctx, reconciler.Run) }, 0)
	return guestlogin.On(logins, queues), flow.Options{GuestConfig: slices.Concat(text, []byte("\n"), reply)}, nil
}

// place is where guests may speak.
func (p *process) place() guestlogin.Place {
	return guestlogin.Place{Exchange: p.c.ControlExchange, Conductor: p.c.Conductors}
}

// rabbitLogins are the guests' logins in the operator's RabbitMQ.
func (p *process) rabbitLogins() (*guestlogin.RabbitMQ, error) {
	o := &p.c.Guests
	api, err := o.management(p.c.TransportURL)
	if err != nil {
		return nil, err
	}
	passwords, err := guestlogin.NewPasswords([]byte(o.Key.Reveal()))
	if err != nil {
		return nil, trove.Errorf(trove.KindBadRequest, "[gotrove] guest_login_key: %w", err).
			WithAction(`put a line from this command into trove.conf, the same on every host: echo "guest_login_key = $(openssl rand -hex 32)"`)
	}
	where := o.TransportURL
	if where.IsZero() {
		where = p.c.TransportURL
	}
	return guestlogin.NewRabbitMQ(api, passwords, p.place(), where.Reveal())
}

// management is the broker's management API.
func (o *guestLoginOptions) management(transportURL secret.String) (*guestlogin.Management, error) {
	c := guestlogin.ManagementConfig{User: o.ManagementUser, Password: o.ManagementPassword, VirtualHost: "/"}
	for u := range strings.SplitSeq(o.ManagementURL.Reveal(), ",") {
		if u = strings.TrimSpace(u); u != "" {
			c.URLs = append(c.URLs, u)
		}
	}
	_, rest, _ := strings.Cut(transportURL.Reveal(), "://")
	rest, _, _ = strings.Cut(rest, "?")
	if _, path, ok := strings.Cut(rest, "/"); ok && path != "" {
		vhost, err := url.PathUnescape(path)
		if err != nil {
			return nil, trove.Errorf(trove.KindBadRequest, "[DEFAULT] transport_url: malformed virtual host")
		}
		c.VirtualHost = vhost
	}
	if o.ManagementCAFile != "" {
		pem, err := os.ReadFile(o.ManagementCAFile)
		if err != nil {
			return nil, trove.Errorf(trove.KindBadRequest, "[gotrove] rabbit_management_ca_file: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, trove.Errorf(trove.KindBadRequest, "[gotrove] rabbit_management_ca_file: %s holds no certificate", o.ManagementCAFile)
		}
		c.TLS = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	return guestlogin.NewManagement(c)
}

// configText is what the operator wants in every guest's configuration; nil if
// there is no such file.
func (o *guestLoginOptions) configText() ([]byte, error) {
	text, err := os.ReadFile(o.ConfigFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, trove.Errorf(trove.KindBadRequest, "[DEFAULT] guest_config: %w", err)
	}
	return text, nil
}

// liveGuests are the instances whose logins must stay.
func (p *process) liveGuests(ctx context.Context) (map[string]int, error) {
	live, err := p.store.LiveInstances(ctx)
	if err != nil {
		return nil, err
	}
	rotated, err := p.store.RotatedCredentials(ctx)
	last := make(map[string]int, len(live))
	for _, i := range live {
		last[i.ID] = rotated[i.ID].Last()
	}
	return last, err
}

// listeningGuests are the instances whose agents need their queues.
func (p *process) listeningGuests(ctx context.Context) ([]string, error) {
	live, err := p.store.LiveInstances(ctx)
	var ids []string
	for _, i := range live {
		// What has no server and is not being made failed, and was taken down.
		if i.Task != trove.TaskDeleting && (i.ComputeID != "" || i.Task == trove.TaskBuilding) {
			ids = append(ids, i.ID)
		}
	}
	return ids, err
}
