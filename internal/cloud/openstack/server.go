package openstack

import (
	"cmp"
	"context"
	"encoding/base64"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/trove"
)

// serverRow is a server as Nova shows it.
type serverRow struct {
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Status   string            `json:"status"`
	Task     string            `json:"OS-EXT-STS:task_state"`
	Created  time.Time         `json:"created"`
	Metadata map[string]string `json:"metadata"`
	Tags     []string          `json:"tags"`
	Flavor   struct {
		ID   string `json:"id"`            // before 2.47
		Name string `json:"original_name"` // since then
	} `json:"flavor"`
	Addresses map[string][]struct {
		Address string `json:"addr"`
		Type    string `json:"OS-EXT-IPS:type"`
		MAC     string `json:"OS-EXT-IPS-MAC:mac_addr"`
	} `json:"addresses"`
	Fault struct {
		Message string `json:"message"`
	} `json:"fault"`
}

// instance is the instance that a server is for; empty if for none.
func (r serverRow) instance() string {
	if id := r.Metadata[metaInstance]; id != "" {
		return id
	}
	for _, t := range r.Tags {
		if id, ok := strings.CutPrefix(t, metaInstance+"_"); ok {
			return id
		}
	}
	return ""
}

// there tells whether Nova still has the server.
func (r serverRow) there() bool { return r.Status != "DELETED" && r.Status != "SOFT_DELETED" }

func byAge(a, b serverRow) int {
	failed := func(r serverRow) int {
		if r.Status == trove.ServerError {
			return 1
		}
		return 0
	}
	return cmp.Or(failed(a)-failed(b), older(a.Created, a.ID, b.Created, b.ID))
}

func (c *Cloud) listServers(ctx context.Context, s *session, opts servers.ListOpts) ([]serverRow, error) {
	pages, err := servers.List(s.compute, opts).AllPages(ctx)
	if err != nil {
		return nil, failed(ctx, err, "list servers")
	}
	var all []serverRow
	if err := servers.ExtractServersInto(pages, &all); err != nil {
		return nil, failed(ctx, err, "list servers")
	}
	return slices.DeleteFunc(all, func(r serverRow) bool { return !r.there() || c.memory.isGone(r.ID) }), nil
}

// allServers lists the project's servers, for all who want to know now.
func (c *Cloud) allServers(ctx context.Context, s *session) ([]serverRow, error) {
	all, err := c.servers.get(ctx, func(ctx context.Context) ([]serverRow, error) { return c.listServers(ctx, s, servers.ListOpts{}) })
	return slices.DeleteFunc(slices.Clone(all), func(r serverRow) bool { return c.memory.isGone(r.ID) }), err
}

func (c *Cloud) serverByID(ctx context.Context, s *session, id string) (serverRow, error) {
	var r serverRow
	none := trove.Errorf(trove.KindNotFound, "There is no server %s.", id)
	if !goodID.MatchString(id) || c.memory.isGone(id) {
		return r, none
	}
	err := servers.Get(ctx, s.compute, id).ExtractInto(&r)
	switch {
	case isStatus(err, http.StatusNotFound), err == nil && !r.there():
		return r, none
	case err != nil:
		return r, failed(ctx, err, "look at server %s", id)
	}
	return r, nil
}

// known adds the servers whose ids are on record somewhere and that a list did
// not show.
func (c *Cloud) known(ctx context.Context, s *session, o cloud.Owner, all []serverRow) ([]serverRow, error) {
	all = slices.DeleteFunc(all, func(r serverRow) bool { return r.instance() != o.InstanceID })
	for _, id := range []string{c.memory.recall(aServer, o.InstanceID), o.ServerID} {
		if id == "" || slices.ContainsFunc(all, func(r serverRow) bool { return r.ID == id }) {
			continue
		}
		r, err := c.serverByID(ctx, s, id)
		switch {
		case err == nil && r.instance() == o.InstanceID:
			all = append(all, r)
		case err != nil && !trove.IsKind(err, trove.KindNotFound):
			return nil, err
		}
	}
	slices.SortFunc(all, byAge)
	return all, nil
}

// serversOf asks Nova for the servers of an instance, the one to keep first.
func (c *Cloud) serversOf(ctx context.Context, s *session, o cloud.Owner) ([]serverRow, error) {
	opts := servers.ListOpts{Tags: instanceTag(o.InstanceID)}
	if !s.tags {
		opts = servers.ListOpts{Name: "^" + regexp.QuoteMeta(o.Name) + "$"}
	}
	all, err := c.listServers(ctx, s, opts)
	if err != nil {
		return nil, err
	}
	return c.known(ctx, s, o, all)
}

// seenOf is serversOf from the list that all share.
func (c *Cloud) seenOf(ctx context.Context, s *session, o cloud.Owner) ([]serverRow, error) {
	all, err := c.allServers(ctx, s)
	if err != nil {
		return nil, err
	}
	return c.known(ctx, s, o, all)
}

// keepOneServer deletes all but the first that is really there: a list that is
// behind may show one that is gone.
func (c *Cloud) keepOneServer(ctx context.Context, s *session, o cloud.Owner, all []serverRow) (serverRow, error) {
	for len(all) > 1 {
		_, err := c.serverByID(ctx, s, all[0].ID)
		if err == nil {
			break
		}
		if !trove.IsKind(err, trove.KindNotFound) {
			return serverRow{}, err
		}
		c.memory.gone(all[0].ID)
		all = all[1:]
	}
	for _, r := range all[1:] {
		c.log.WarnContext(ctx, "a second server of an instance is deleted", "instance_id", o.InstanceID, "server_id", r.ID, "kept", all[0].ID)
		if err := c.askToGo(ctx, s, o, r.ID); err != nil {
			return serverRow{}, err
		}
		c.memory.gone(r.ID)
	}
	return all[0], nil
}

// askToGo asks Nova to delete a server.
func (c *Cloud) askToGo(ctx context.Context, s *session, o cloud.Owner, id string) error {
	err := servers.Delete(ctx, s.compute, id).ExtractErr()
	switch {
	case isStatus(err, http.StatusNotFound):
		c.memory.gone(id)
		return nil
	case isStatus(err, http.StatusConflict): // it is on its way, or moving: asked again
	case err != nil:
		return failed(ctx, err, "delete server %s", id)
	}
	if c.memory.recall(aServer, o.InstanceID) == id {
		c.memory.forget(aServer, o.InstanceID)
	}
	c.memory.note(aLeaving+aServer, o.InstanceID, id)
	c.servers.touch()
	return nil
}

// EnsureServer implements cloud.Cloud.
func (c *Cloud) EnsureServer(ctx context.Context, spec cloud.ServerSpec) (cloud.Server, error) {
	o := spec.Owner
	s, end, err := c.begin(ctx, o)
	if err != nil {
		return cloud.Server{}, err
	}
	defer end()
	if c.memory.recall(aServer, o.InstanceID) != "" { // it is waited for
		if found, err := c.seenOf(ctx, s, o); err != nil || len(found) == 1 {
			if err != nil {
				return cloud.Server{}, err
			}
			return c.serverOf(ctx, s, found[0])
		}
	}
	found, err := c.serversOf(ctx, s, o)
	if err != nil {
		return cloud.Server{}, err
	}
	if len(found) == 0 {
		if err := c.createServer(ctx, s, spec); err != nil {
			return cloud.Server{}, err
		}
		if found, err = c.serversOf(ctx, s, o); err != nil {
			return cloud.Server{}, err
		}
		if len(found) == 0 {
			return cloud.Server{}, trove.Errorf(trove.KindUnavailable, "The server of instance %s was made and cannot be seen.", o.InstanceID)
		}
	}
	r, err := c.keepOneServer(ctx, s, o, found)
	if err != nil {
		return cloud.Server{}, err
	}
	c.memory.note(aServer, o.InstanceID, r.ID)
	return c.serverOf(ctx, s, r)
}

// mostTag is the longest tag that Nova takes.
const mostTag = 60

func (c *Cloud) serverOpts(s *session, spec cloud.ServerSpec, image string, data []byte) servers.CreateOpts {
	o := spec.Owner
	drive := c.o.ConfigDrive
	opts := servers.CreateOpts{Name: o.Name, ImageRef: image, FlavorRef: spec.Flavor.ID, UserData: data, ConfigDrive: &drive,
		AvailabilityZone: spec.AvailabilityZone,
		Metadata:         map[string]string{metaProject: o.ProjectID, metaUser: o.UserID, metaInstance: o.InstanceID}}
	if opts.Name == "" {
		opts.Name = resourceName(o)
	}
	if s.tags {
		for _, t := range []string{"trove_instance", "trove_" + o.Manager, metaProject + "_" + o.ProjectID, metaUser + "_" + o.UserID, instanceTag(o.InstanceID)} {
			if len(t) <= mostTag && !strings.ContainsAny(t, "/,") && !strings.HasSuffix(t, "_") {
				opts.Tags = append(opts.Tags, t)
			}
		}
	}
	var user, management []servers.Network // Nova numbers interfaces in this order
	for _, p := range spec.Ports {
		if p.Management {
			management = append(management, servers.Network{Port: p.ID})
		} else {
			user = append(user, servers.Network{Port: p.ID})
		}
	}
	opts.Networks = append(user, management...)
	if spec.Volume.ID != "" {
		opts.BlockDevice = []servers.BlockDevice{
			{SourceType: servers.SourceImage, UUID: image, DestinationType: servers.DestinationLocal, BootIndex: 0, DeleteOnTermination: true},
			// The volume outlives the server: a server that is deleted by mistake,
			// or as a double, does not take the data along. DeleteVolume does.
			{SourceType: servers.SourceVolume, UUID: spec.Volume.ID, DestinationType: servers.DestinationVolume, BootIndex: -1},
		}
	}
	return opts
}

// withKey adds the key pair, which gophercloud has an extension for.
type withKey struct {
	servers.CreateOpts
	key string
}

func (w withKey) ToServerCreateMap() (map[string]any, error) {
	body, err := w.CreateOpts.ToServerCreateMap()
	if err == nil && w.key != "" {
		if server, ok := body["server"].(map[string]any); ok {
			server["key_name"] = w.key
		}
	}
	return body, err
}

// createServer makes the server, unless Nova says that its port or volume is a
// server's already, and that server is the instance's.
func (c *Cloud) createServer(ctx context.Context, s *session, spec cloud.ServerSpec) error {
	image, err := c.image(ctx, s, spec.ImageID, spec.ImageTags)
	if err != nil {
		return err
	}
	if spec.Files, err = c.withNetwork(ctx, s, spec); err != nil {
		return err
	}
	data, err := c.userData(spec)
	if err != nil {
		return err
	}
	opts := withKey{c.serverOpts(s, spec, image, data), c.o.KeyPair}
	var made *servers.Server
	err = c.create(spec.Owner, aServer, func() (err error) {
		made, err = servers.Create(ctx, s.compute, opts, nil).Extract()
		return err
	})
	if err == nil {
		c.memory.note(aServer, spec.InstanceID, made.ID)
		c.servers.touch()
		return nil
	}
	if isStatus(err, http.StatusBadRequest, http.StatusConflict) {
		if found, err := c.adopt(ctx, s, spec.Owner); err != nil || found {
			return err
		}
	}
	e := failed(ctx, hideData(err, data), "create a server")
	if trove.IsKind(e, trove.KindNotFound) { // image, flavor, key pair…
		e = trove.Errorf(trove.KindBadRequest, "%w", e)
	}
	return e
}

// adopt looks for a server that has the instance's ports, and remembers it.
func (c *Cloud) adopt(ctx context.Context, s *session, o cloud.Owner) (found bool, err error) {
	user, management, err := c.portsOf(ctx, s, o)
	if err != nil {
		return false, err
	}
	for _, p := range slices.Concat(user, management) {
		if p.DeviceID == "" {
			continue
		}
		r, err := c.serverByID(ctx, s, p.DeviceID)
		switch {
		case err == nil && r.instance() == o.InstanceID:
			c.memory.note(aServer, o.InstanceID, r.ID)
			return true, nil
		case err != nil && !trove.IsKind(err, trove.KindNotFound):
			return false, err
		}
	}
	return false, nil
}

// hideData keeps the files of a server, which hold secrets, out of an error: Nova
// repeats what it finds wrong.
func hideData(err error, data []byte) error {
	code, ok := err.(gophercloud.ErrUnexpectedResponseCode) //nolint:errorlint // gophercloud returns it as it is
	if !ok || len(data) < 48 {
		return err
	}
	sent := base64.StdEncoding.EncodeToString(data)
	if strings.Contains(string(code.Body), sent[:64]) {
		code.Body = []byte(`{"badRequest":{"message":"Nova does not take the files of the server (user_data)."}}`)
	}
	return code
}

// serverOf is a server as flows see it: only with the addresses that users have.
func (c *Cloud) serverOf(ctx context.Context, s *session, r serverRow) (cloud.Server, error) {
	out := cloud.Server{ID: r.ID, Status: r.Status, Fault: clip(r.Fault.Message), FlavorID: r.Flavor.ID, Created: r.Created}
	if out.FlavorID == "" {
		all, err := c.Flavors(ctx)
		if err != nil {
			return out, err
		}
		for _, f := range all {
			if f.Name == r.Flavor.Name {
				out.FlavorID = f.ID
			}
		}
	}
	known, err := c.interfaces(ctx, s, r)
	if err != nil {
		return out, err
	}
	for network, all := range r.Addresses {
		for _, a := range all {
			i, ok := known[a.MAC]
			switch {
			case i.management:
			case a.Type == "floating":
				out.Addresses = append(out.Addresses, trove.Address{Address: a.Address, Type: trove.AddressPublic})
			case ok:
				out.Addresses = append(out.Addresses, trove.Address{Address: a.Address, Type: trove.AddressPrivate, Network: i.network})
			default:
				out.Addresses = append(out.Addresses, trove.Address{Address: a.Address, Type: trove.AddressPrivate, Network: network})
			}
		}
	}
	slices.SortFunc(out.Addresses, func(a, b trove.Address) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Address, b.Address))
	})
	return out, nil
}

// Server implements cloud.Cloud.
func (c *Cloud) Server(ctx context.Context, o cloud.Owner) (cloud.Server, error) {
	s, end, err := c.begin(ctx, o)
	if err != nil {
		return cloud.Server{}, err
	}
	defer end()
	r, err := c.oneServer(ctx, s, o)
	if err != nil {
		return cloud.Server{}, err
	}
	return c.serverOf(ctx, s, r)
}

// oneServer finds the instance's server in the list that all share; KindNotFound
// when there is none. Of two it keeps the first.
func (c *Cloud) oneServer(ctx context.Context, s *session, o cloud.Owner) (serverRow, error) {
	found, err := c.seenOf(ctx, s, o)
	if err != nil {
		return serverRow{}, err
	}
	if len(found) == 0 {
		return serverRow{}, trove.Errorf(trove.KindNotFound, "Instance %s has no server.", o.InstanceID)
	}
	return c.keepOneServer(ctx, s, o, found)
}

// Servers implements cloud.Cloud.
func (c *Cloud) Servers(ctx context.Context) (map[string]cloud.Server, error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	all, err := c.allServers(ctx, s)
	if err != nil {
		return nil, err
	}
	for instance, id := range c.memory.ofKind(aServer) {
		if slices.ContainsFunc(all, func(r serverRow) bool { return r.ID == id }) {
			continue
		}
		r, err := c.serverByID(ctx, s, id)
		switch {
		case err == nil:
			all = append(all, r)
		case trove.IsKind(err, trove.KindNotFound):
			c.memory.forget(aServer, instance)
		default:
			return nil, err
		}
	}
	slices.SortFunc(all, byAge)
	out := map[string]cloud.Server{}
	for _, r := range all {
		id := r.instance()
		if id == "" || out[id].ID != "" {
			continue
		}
		if out[id], err = c.serverOf(ctx, s, r); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// DeleteServer implements cloud.Cloud.
func (c *Cloud) DeleteServer(ctx context.Context, o cloud.Owner) (bool, error) {
	s, end, err := c.begin(ctx, o)
	if err != nil {
		return false, err
	}
	defer end()
	if id := c.memory.recall(aLeaving+aServer, o.InstanceID); id != "" {
		if gone, err := c.left(ctx, s, o, id); err != nil || gone {
			return gone, err
		}
		if c.memory.recall(aLeaving+aServer, o.InstanceID) != "" {
			return false, nil
		}
	}
	found, err := c.serversOf(ctx, s, o)
	if err == nil && len(found) == 0 && s.tags && o.ServerID == "" && o.Name != "" {
		// One that the original made and could not write down, before it had tags.
		if found, err = c.listServers(ctx, s, servers.ListOpts{Name: "^" + regexp.QuoteMeta(o.Name) + "$"}); err == nil {
			found, err = c.known(ctx, s, o, found)
		}
	}
	if err != nil {
		return false, err
	}
	for _, r := range found {
		if err := c.askToGo(ctx, s, o, r.ID); err != nil {
			return false, err
		}
	}
	if len(found) > 1 { // all of them are looked for again
		c.memory.forget(aLeaving+aServer, o.InstanceID)
	}
	if len(found) > 0 {
		return false, nil
	}
	if err := c.settled(o, aServer); err != nil {
		return false, err
	}
	return true, nil
}

// left tells whether the only server there was, which was asked to go, is gone:
// by the list that all share, and by the server's id in the end. One that failed
// to go is forgotten, to be asked again.
func (c *Cloud) left(ctx context.Context, s *session, o cloud.Owner, id string) (bool, error) {
	all, err := c.allServers(ctx, s)
	if err != nil {
		return false, err
	}
	if i := slices.IndexFunc(all, func(r serverRow) bool { return r.ID == id }); i >= 0 && all[i].Status != trove.ServerError {
		return false, nil
	}
	r, err := c.serverByID(ctx, s, id)
	switch {
	case trove.IsKind(err, trove.KindNotFound):
		c.memory.gone(id)
		c.memory.forget(aLeaving+aServer, o.InstanceID)
		err := c.settled(o, aServer)
		return err == nil, err
	case err == nil && r.Status == trove.ServerError:
		c.memory.forget(aLeaving+aServer, o.InstanceID)
	}
	return false, err
}

const (
	mostEvidence  = 4 << 10
	evidenceLines = 80
)

// Evidence implements cloud.Cloud: the end of the server's console.
func (c *Cloud) Evidence(ctx context.Context, o cloud.Owner) (string, error) {
	s, end, err := c.begin(ctx, o)
	if err != nil {
		return "", err
	}
	defer end()
	r, err := c.oneServer(ctx, s, o)
	if err != nil {
		return "", err
	}
	text, err := servers.ShowConsoleOutput(ctx, s.compute, r.ID, servers.ShowConsoleOutputOpts{Length: evidenceLines}).Extract()
	if isStatus(err, http.StatusNotFound, http.StatusConflict) { // it does not run yet, or any more
		return "", nil
	}
	if err != nil {
		return "", failed(ctx, err, "read the console of server %s", r.ID)
	}
	if len(text) > mostEvidence {
		text = text[len(text)-mostEvidence:]
	}
	return strings.ToValidUTF8(text, "?"), nil
}
