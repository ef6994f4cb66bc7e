package flow

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/rpcapi/taskmanager"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
	"github.com/gotrove/gotrove/internal/work"
)

// Create is the state of KindCreate.
type Create struct {
	Request taskmanager.CreateInstance `json:"request"`
	// Refused is why the request cannot be carried out, empty if it can.
	Refused string       `json:"refused,omitempty"`
	Ports   []cloud.Port `json:"ports,omitempty"`
	Server  string       `json:"server,omitempty"`
	// Casts is how often prepare was cast, the last time at LastCast by the
	// process LastBy.
	Casts    int       `json:"casts,omitempty"`
	LastCast time.Time `json:"last_cast,omitzero"`
	LastBy   string    `json:"last_by,omitempty"`
	Rotation Rotation  `json:"rotation,omitzero"`
	// FailedAt is when the agent first said that it failed.
	FailedAt time.Time `json:"failed_at,omitzero"`
	// Details is what is known of a failure beside its cause.
	Details string `json:"details,omitempty"`
}

// NewCreate is the beginning of a creation. A request for what is not built yet
// fails with a cause, so that whoever asked finds out.
func NewCreate(r taskmanager.CreateInstance) Create {
	c := Create{Request: r}
	refuse := func(is bool, what string) {
		if is && c.Refused == "" {
			c.Refused = what
		}
	}
	given := func(raw []byte) bool { s := string(raw); return s != "" && s != "null" && s != "[]" && s != "{}" }
	refuse(len(r.More) > 0, "Several instances in one request")
	refuse(r.BackupID != nil && *r.BackupID != "", "Restoring a backup into a new instance")
	refuse(r.SlaveOfID != nil && *r.SlaveOfID != "", "Creating a replica")
	refuse(given(r.ClusterConfig), "Creating a member of a cluster")
	refuse(given(r.Modules), "Applying modules to a new instance")
	return c
}

type createRun = work.Run[Create]

func (f *Flows) create() work.Registered {
	type step = work.Step[Create]
	return work.Flow[Create]{
		Kind:    KindCreate,
		Timeout: f.opts.UsageTimeout,
		Steps: []step{
			{Name: "check", Do: f.createCheck},
			{Name: "security_group", Do: f.createSecurityGroup, Undo: func(ctx context.Context, r *createRun) work.Outcome {
				return stubborn(f.cloud.DeleteSecurityGroup(ctx, owner(r)))
			}},
			{Name: "ports", Do: f.createPorts, Undo: func(ctx context.Context, r *createRun) work.Outcome {
				return stubborn(f.cloud.DeletePorts(ctx, owner(r)))
			}},
			{Name: "volume", Do: f.createVolume, Undo: func(ctx context.Context, r *createRun) work.Outcome {
				return f.gone(f.cloud.DeleteVolume(ctx, owner(r)))
			}},
			{Name: "guest_login", Do: func(ctx context.Context, r *createRun) work.Outcome {
				_, err := f.bus.EnsureGuest(ctx, r.Subject())
				return outcome(err)
			}, Undo: func(ctx context.Context, r *createRun) work.Outcome {
				return f.removeGuest(ctx, r.Subject())
			}},
			{Name: "server", Do: f.createServer, Undo: func(ctx context.Context, r *createRun) work.Outcome {
				return f.gone(f.cloud.DeleteServer(ctx, owner(r)))
			}},
			{Name: "credentials", Do: f.createCredentials},
			{Name: "prepare", Do: f.createPrepare},
			{Name: "database", Do: f.createWait},
		},
		Expired: f.createExpired,
		Failed:  f.createFailed,
	}
}

// owner tags what a creation makes. Undo needs no more than the id; the project
// is known from the row.
func owner(r *createRun) cloud.Owner {
	o := cloud.Owner{InstanceID: r.Subject(), Name: r.State.Request.Name, Manager: r.State.Request.DatastoreManager, ServerID: r.State.Server}
	if z := r.State.Request.AvailabilityZone; z != nil {
		o.Zone = *z
	}
	return o
}

func (f *Flows) createOwner(inst *trove.Instance, r *createRun) cloud.Owner {
	o := owner(r)
	o.ProjectID, o.VolumeID = inst.TenantID, inst.VolumeID
	return o
}

func (f *Flows) createCheck(ctx context.Context, r *createRun) work.Outcome {
	inst, err := f.store.Instance(ctx, r.Subject())
	if beingDeleted(inst, err) {
		return work.Done() // its deletion came first
	}
	if err != nil {
		return work.Fail(err)
	}
	if why := r.State.Refused; why != "" {
		return work.Fail(trove.Errorf(trove.KindNotImplemented, "%s is not supported yet.", why).
			WithAction("Delete this instance and create one without it."))
	}
	return work.Next()
}

// enginePorts are the TCP ports that a datastore manager's engine listens on.
func enginePorts(manager string) []cloud.Rule {
	port := 3306
	if strings.HasPrefix(manager, "postgres") {
		port = 5432
	}
	return []cloud.Rule{{FirstPort: port, LastPort: port}}
}

func (f *Flows) createSecurityGroup(ctx context.Context, r *createRun) work.Outcome {
	inst, err := f.store.Instance(ctx, r.Subject())
	if err != nil {
		return work.Fail(err)
	}
	return outcome(f.cloud.EnsureSecurityGroup(ctx, f.createOwner(inst, r), f.rules(r.State.Request.DatastoreManager, inst.Access)))
}

func (f *Flows) createPorts(ctx context.Context, r *createRun) work.Outcome {
	inst, err := f.store.Instance(ctx, r.Subject())
	if err != nil {
		return work.Fail(err)
	}
	var nics []trove.NIC
	for _, n := range r.State.Request.NICs {
		nics = append(nics, trove.NIC{NetworkID: n.NetworkID, SubnetID: n.SubnetID, IPAddress: n.IPAddress})
	}
	var access trove.Access
	if inst.Access != nil {
		access = *inst.Access
	}
	ports, err := f.cloud.EnsurePorts(ctx, f.createOwner(inst, r), nics, access)
	if err != nil {
		return noPort.fail(err)
	}
	r.State.Ports = ports
	return outcome(f.observe(ctx, r.Subject(), trove.ServerBuild, addresses(ports)))
}

// addresses are those that users see: not of management ports.
func addresses(ports []cloud.Port) []trove.Address {
	var all []trove.Address
	for _, p := range ports {
		if !p.Management {
			all = append(all, p.Addresses...)
		}
	}
	return all
}

func (f *Flows) volume(ctx context.Context, inst *trove.Instance, r *createRun) (cloud.Volume, error) {
	if inst.VolumeSize == 0 {
		return cloud.Volume{Ready: true}, nil
	}
	var kind string
	if t := r.State.Request.VolumeType; t != nil {
		kind = *t
	}
	return f.cloud.EnsureVolume(ctx, f.createOwner(inst, r), inst.VolumeSize, kind)
}

func (f *Flows) createVolume(ctx context.Context, r *createRun) work.Outcome {
	inst, err := f.store.Instance(ctx, r.Subject())
	if err != nil {
		return work.Fail(err)
	}
	v, err := f.volume(ctx, inst, r)
	if err != nil {
		return noVolume.fail(err)
	}
	if v.ID != "" && v.ID != inst.VolumeID {
		if err := f.store.SetResources(ctx, inst.ID, store.Resources{VolumeID: &v.ID}); err != nil {
			return work.Fail(err)
		}
	}
	if !v.Ready {
		return work.Nap(f.opts.PollInterval)
	}
	return work.Next()
}

func (f *Flows) createServer(ctx context.Context, r *createRun) work.Outcome {
	inst, err := f.store.Instance(ctx, r.Subject())
	if err != nil {
		return work.Fail(err)
	}
	v, err := f.volume(ctx, inst, r)
	if err != nil {
		return noVolume.fail(err)
	}
	url, err := f.bus.EnsureGuest(ctx, inst.ID)
	if err != nil {
		return work.Fail(err)
	}
	key, err := f.keys.OpenKey(ctx, inst.ID, inst.EncryptedKey)
	if err != nil {
		return work.Fail(err)
	}
	files, err := f.files(inst, r.State.Request, url, key)
	if err != nil {
		return work.Fail(err)
	}
	q := r.State.Request
	spec := cloud.ServerSpec{Owner: f.createOwner(inst, r), ImageID: q.ImageID, ImageTags: inst.Version.ImageTags, Ports: r.State.Ports, Volume: v, Files: files,
		Flavor: trove.Flavor{ID: q.Flavor.ID, Name: q.Flavor.Name, RAM: q.Flavor.RAM, VCPUs: q.Flavor.VCPUs, Disk: q.Flavor.Disk}}
	spec.UserID = rpc.ContextFrom(ctx).User
	spec.AvailabilityZone = spec.Zone
	server, err := f.cloud.EnsureServer(ctx, spec)
	if err != nil {
		return noServer.fail(err)
	}
	r.State.Server = server.ID
	if err := f.store.SetResources(ctx, inst.ID, store.Resources{ComputeID: &server.ID}); err != nil {
		return work.Fail(err)
	}
	return outcome(f.observe(ctx, inst.ID, server.Status, f.shown(server, r)))
}

// shown are the addresses of a server, or of its ports while it has none.
func (f *Flows) shown(s cloud.Server, r *createRun) []trove.Address {
	if len(s.Addresses) > 0 {
		return s.Addresses
	}
	return addresses(r.State.Ports)
}

func (f *Flows) createPrepare(ctx context.Context, r *createRun) work.Outcome {
	if p := r.State.Request.RootPassword; p != nil && *p != "" {
		if err := f.store.SetRoot(ctx, r.Subject(), rpc.ContextFrom(ctx).User, true); err != nil {
			return work.Fail(err)
		}
	}
	return outcome(f.prepare(ctx, r))
}

// prepare casts prepare. Its unique id is always the same: an agent that has
// carried it out drops it.
func (f *Flows) prepare(ctx context.Context, r *createRun) error {
	q := r.State.Request
	m := guest.PrepareMessage(r.Subject(), guest.Prepare{
		Packages: []string{}, Databases: q.Databases, MemoryMB: q.Flavor.RAM, Users: q.Users,
		RootPassword: q.RootPassword, Overrides: q.Overrides, DSVersion: q.DSVersion})
	m.UniqueID = once("prepare", r.ID())
	if err := f.casts.Cast(ctx, m); err != nil {
		return err
	}
	r.State.Casts++
	r.State.LastCast, r.State.LastBy = r.Now(), f.process
	return nil
}

// createWait waits until the engine serves. A heartbeat wakes it; the rest is
// looked at now and then.
func (f *Flows) createWait(ctx context.Context, r *createRun) work.Outcome {
	inst, err := f.store.Instance(ctx, r.Subject())
	if err != nil {
		return work.Fail(err)
	}
	switch inst.Service {
	case trove.ServiceRunning, trove.ServiceHealthy, trove.ServiceInstanceReady:
		return f.createDone(ctx, inst, r)
	case trove.ServiceNew, trove.ServiceBuilding, trove.ServiceUnknown, trove.ServiceDeleted:
	default:
		return f.engineFailed(ctx, inst, r)
	}
	if _, out := f.watchServer(ctx, inst, r); out != nil {
		return *out
	}
	if err := f.prepareAgain(ctx, inst, r); err != nil {
		return work.Fail(err)
	}
	return work.Nap(f.opts.PollInterval)
}

// watchServer looks whether the server is still there and well, and records its
// status; the outcome is nil if it is.
func (f *Flows) watchServer(ctx context.Context, inst *trove.Instance, r *createRun) (cloud.Server, *work.Outcome) {
	server, err := f.cloud.Server(ctx, f.createOwner(inst, r))
	out := work.Next()
	switch {
	case trove.IsKind(err, trove.KindNotFound):
		r.State.Details = f.evidence(ctx, r)
		out = work.Fail(trove.Errorf(trove.KindInternal, "%s: the instance's server disappeared while the database was made ready.", noServer).
			WithAction("Look at the cloud's log for server %s, then create the instance again.", r.State.Server))
	case err != nil:
		out = work.Fail(err)
	case server.Status == trove.ServerError:
		out = f.serverFailed(ctx, server, r)
	case inst.Server.Status != server.Status:
		if err := f.observe(ctx, inst.ID, server.Status, f.shown(server, r)); err != nil {
			out = work.Fail(err)
			return server, &out
		}
		return server, nil
	default:
		return server, nil
	}
	return server, &out
}

// prepareAgain casts prepare again if it may have been lost: at once after a
// restart of the control plane, whose broker may have forgotten it, and now and
// then while the agent does not come to an end: it may have died over it.
func (f *Flows) prepareAgain(ctx context.Context, inst *trove.Instance, r *createRun) error {
	pause := f.opts.Recast << min(max(r.State.Casts-1, 0), 5)
	switch {
	case r.State.LastBy != f.process:
	case r.Now().Sub(r.State.LastCast) < pause:
		return nil
	case inst.Service == trove.ServiceNew:
		r.Report(ctx, fmt.Sprintf("the guest agent has not spoken for %s, asking it again", r.Elapsed().Round(time.Second)), nil)
	}
	return f.prepare(ctx, r)
}

func (f *Flows) createDone(ctx context.Context, inst *trove.Instance, r *createRun) work.Outcome {
	server, err := f.cloud.Server(ctx, f.createOwner(inst, r))
	if err != nil {
		return work.Fail(err)
	}
	if inst.Server.Status != server.Status {
		if err := f.observe(ctx, inst.ID, server.Status, f.shown(server, r)); err != nil {
			return work.Fail(err)
		}
	}
	if server.Status != trove.ServerActive {
		// The agent was quicker than the cloud.
		if server.Status == trove.ServerError {
			return f.serverFailed(ctx, server, r)
		}
		return work.Nap(f.opts.PollInterval)
	}
	r.EndWith(store.Change{Task: trove.TaskBuilding}) // with it goes the fault of a message that expired meanwhile
	return work.Next()
}

func (f *Flows) serverFailed(ctx context.Context, s cloud.Server, r *createRun) work.Outcome {
	r.State.Details = f.evidence(ctx, r)
	why := s.Fault
	if why == "" {
		why = lastLine(r.State.Details)
	}
	if why == "" {
		why = "the cloud does not say why"
	}
	return work.Fail(trove.Errorf(trove.KindInternal, "%s: %s", serverFailed, why).
		WithAction("Remove the cause, delete this instance and create it again."))
}

// engineFailed waits a moment for the agent to tell why it failed.
func (f *Flows) engineFailed(ctx context.Context, inst *trove.Instance, r *createRun) work.Outcome {
	now := r.Now()
	if r.State.FailedAt.IsZero() {
		r.State.FailedAt = now
	}
	if inst.Fault == nil && now.Sub(r.State.FailedAt) < f.opts.CauseGrace {
		return work.Nap(min(f.opts.CauseGrace, 200*time.Millisecond))
	}
	r.State.Details = f.evidence(ctx, r)
	why := lastLine(r.State.Details)
	if inst.Fault != nil {
		why = inst.Fault.Message
		r.State.Details = strings.TrimSpace(inst.Fault.Details + "\n\n" + r.State.Details)
	}
	if why == "" {
		why = "its agent does not say why"
	}
	hop := engineUnready
	if f, ok := diagnoseBoot(guest.ParseBoot(r.State.Details)); ok {
		hop = f.hop
	}
	return work.Fail(trove.Errorf(trove.KindGuest, "%s: the database engine could not be made ready (%s): %s", hop, inst.Service.Description, why).
		WithAction("Remove the cause, delete this instance and create it again."))
}

// evidence is what the server wrote last; nothing if that cannot be had.
func (f *Flows) evidence(ctx context.Context, r *createRun) string {
	text, err := f.cloud.Evidence(ctx, owner(r))
	if err != nil {
		f.opts.Log.InfoContext(ctx, "no evidence of a failure", "error", err)
		return ""
	}
	return strings.ToValidUTF8(text, "?")
}

// hopOf is the hop of a step that waits for the cloud.
var hopOf = map[string]hop{"ports": noPort, "volume": noVolume, "server": noServer}

// fail ends a creation at a hop.
func (h hop) fail(err error) work.Outcome {
	return work.Fail(&trove.Error{Kind: trove.KindOf(err), Message: string(h) + ": " + err.Error(), Action: trove.ActionOf(err), Err: err})
}

// createExpired looks from both sides and names the broken hop.
func (f *Flows) createExpired(ctx context.Context, r *createRun, step string, last error) error {
	within := f.opts.UsageTimeout
	if step != "database" && step != "credentials" {
		where := "The"
		if h := hopOf[step]; h != "" {
			where = string(h) + ": the"
		}
		if last != nil {
			return trove.Errorf(trove.KindInternal, "%s step %s did not succeed within %s: %w", where, step, within, last)
		}
		return trove.Errorf(trove.KindInternal, "%s step %s did not finish within %s.", where, step, within).
			WithAction("Look at the cloud: what it was asked for stays unfinished.")
	}
	s := f.signs(ctx, r)
	found := diagnose(s)
	r.State.Details = strings.TrimSpace(s.String() + "\n" + s.console)
	f.opts.Log.ErrorContext(ctx, "an instance did not come up", "hop", string(found.hop), "cause", found.what, "seen", s.String())
	kind := trove.KindGuestTimeout
	if found.notTheServers {
		kind = trove.KindInternal
	}
	return trove.Errorf(kind, "%s: %s", found.hop, found.what).WithAction("%s", found.action)
}

// signs looks at everything that could tell why an instance does not come up.
func (f *Flows) signs(ctx context.Context, r *createRun) signs {
	s := signs{within: f.opts.UsageTimeout, console: f.evidence(ctx, r)}
	s.view, s.unseen = f.cloud.Inspect(ctx, owner(r))
	last := 1
	if c, err := f.store.GuestCredentials(ctx, r.Subject()); err == nil {
		last = c.Last()
	}
	s.bus, s.busErr = f.bus.Seen(ctx, r.Subject(), last)
	if inst, err := f.store.Instance(ctx, r.Subject()); err == nil {
		s.volume, s.service = inst.VolumeSize > 0, inst.Service
	}
	s.answers = f.guest.Ping(ctx, r.Subject()) == nil
	return s
}

// failedTask is the task that a creation leaves behind when it failed in step.
func failedTask(step string) trove.Task {
	switch step {
	case "security_group":
		return trove.TaskErrorSecGroup
	case "ports":
		return trove.TaskErrorPort
	case "volume":
		return trove.TaskErrorVolume
	case "credentials", "prepare", "database":
		return trove.TaskErrorTimeoutGuest
	}
	return trove.TaskErrorServer
}

// createFailed leaves the row for the user to see and delete; what was made is
// gone by now.
func (f *Flows) createFailed(ctx context.Context, r *createRun, fail work.Failure) error {
	inst, err := f.store.Instance(ctx, r.Subject())
	if beingDeleted(inst, err) {
		return nil
	}
	if err != nil {
		return err
	}
	details := r.State.Details
	if len(fail.Left) > 0 {
		details = "Left behind, deleting the instance will remove it: " + strings.Join(fail.Left, ", ") + "\n\n" + details
	}
	if err := f.fault(ctx, inst.ID, fail.Cause, fail.Action, details); err != nil {
		return gone(err)
	}
	none := ""
	if err := f.store.SetResources(ctx, inst.ID, store.Resources{ComputeID: &none, VolumeID: &none}); err != nil {
		return gone(err)
	}
	if err := f.observe(ctx, inst.ID, trove.ServerShutdown, nil); err != nil {
		return err
	}
	if err := f.store.SetServiceStatus(ctx, inst.ID, trove.ServiceGuestError); err != nil {
		return gone(err)
	}
	return gone(f.store.SetTask(ctx, inst.ID, failedTask(fail.Step)))
}

// gone is err, unless it says that the instance is deleted or on its way: then
// there is nothing to be written about it.
func gone(err error) error {
	if trove.IsKind(err, trove.KindNotFound) || trove.IsKind(err, trove.KindUnprocessable) {
		return nil
	}
	return err
}
