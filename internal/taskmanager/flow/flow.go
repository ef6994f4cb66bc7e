// Package flow is what the task manager does to instances, as flows of durable
// steps: create, delete, restart, resize, change access, rotate credentials.
//
// It decides the order of things and what a failure means for the instance:
// its task, its fault, what is taken back. How a cloud, a bus or an agent does
// its part it must not know. Steps are run again after a crash, so each looks
// first or calls what does (package cloud).
package flow

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpcapi/conductor"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
	"github.com/gotrove/gotrove/internal/work"
)

// Kinds of work: the names of the messages that ask for them.
const (
	KindCreate  = "create_instance"
	KindDelete  = "delete_instance"
	KindRestart = "restart"

	KindResizeFlavor = "resize_flavor"
	KindResizeVolume = "resize_volume"
	KindUpdateAccess = "update_access"
	// KindRotate is ours: nobody else asks for it.
	KindRotate = "rotate_credentials"
)

// Store is what flows need of the store.
type Store interface {
	Instance(ctx context.Context, id string) (*trove.Instance, error)
	SetTask(ctx context.Context, id string, task trove.Task) error
	SetServiceStatus(ctx context.Context, id string, st trove.ServiceStatus) error
	SetResources(ctx context.Context, id string, r store.Resources) error
	SetFault(ctx context.Context, id string, f trove.Fault) error
	SetRoot(ctx context.Context, instanceID, user string, enabled bool) error
	Observe(ctx context.Context, seen map[string]trove.ServerObservation) error
	FinishDelete(ctx context.Context, id string) error
	GuestCredentials(ctx context.Context, instanceID string) (store.GuestCredentials, error)
	BeginRotation(ctx context.Context, instanceID, encryptedKey string) (store.GuestCredentials, error)
}

// Guest calls an agent and waits for its answer.
type Guest interface {
	// Restart restarts the engine once, however often it is asked with one
	// requestID (32 hexadecimal digits).
	Restart(ctx context.Context, instanceID, requestID string) error
	StopDB(ctx context.Context, instanceID string) error
	// StartDB starts the engine with the memory there is now, once for each
	// requestID.
	StartDB(ctx context.Context, instanceID, requestID string, m guest.NewMemory) error
	MountVolume(ctx context.Context, instanceID string, d guest.Device) error
	UnmountVolume(ctx context.Context, instanceID string, d guest.Device) error
	ResizeFS(ctx context.Context, instanceID string, d guest.Device) error
	Ping(ctx context.Context, instanceID string) error
}

// Caster sends a message and does not wait for it to be carried out.
type Caster interface {
	Cast(ctx context.Context, m rpc.Message) error
}

// Bus makes the place of an agent on the message bus.
type Bus interface {
	// EnsureGuest declares the agent's queues and makes its first login. The
	// transport URL holds the login's password; it is the same each time, and
	// empty where the operator's configuration of the agents has one for all.
	EnsureGuest(ctx context.Context, instanceID string) (transportURL string, err error)
	// RemoveGuest removes queues and logins; last is the newest generation of
	// credentials there may be.
	RemoveGuest(ctx context.Context, instanceID string, last int) error
	// PerGuest is whether agents have logins of their own; the rest is for
	// those.
	PerGuest() bool
	EnsureLogin(ctx context.Context, instanceID string, generation int) (login, password string, err error)
	// Seen is what the bus shows of the agent.
	Seen(ctx context.Context, instanceID string, last int) (guest.Presence, error)
	// RemoveLogins removes the logins before a generation and closes their
	// connections.
	RemoveLogins(ctx context.Context, instanceID string, before int) error
}

// Keys makes the keys that messages of an instance are sealed with. A key is
// empty where they are not sealed.
type Keys interface {
	NewKey(ctx context.Context, instanceID string) (encrypted string, err error)
	OpenKey(ctx context.Context, instanceID, encrypted string) (key string, err error)
}

// noKeys is Keys where messages are not sealed.
type noKeys struct{}

func (noKeys) NewKey(context.Context, string) (string, error)          { return "", nil }
func (noKeys) OpenKey(context.Context, string, string) (string, error) { return "", nil }

// Options are bounds and what the operator configures. A zero time has the
// default told beside it.
type Options struct {
	UsageTimeout   time.Duration // until a created instance must serve; 30 min
	RestartTimeout time.Duration // until a restart is given up; 10 min
	RotateTimeout  time.Duration // until a rotation of credentials is given up; 10 min
	ResizeTimeout  time.Duration // until a resize is given up and taken back; 30 min, and more than ResizeWait
	ResizeWait     time.Duration // until the cloud must have a server resized; 15 min
	RevertWait     time.Duration // until it must have it reverted; 10 min
	AccessTimeout  time.Duration // until a change of access is given up; 10 min
	StopTimeout    time.Duration // how long a deletion waits for a clean stop; 15 s
	PollInterval   time.Duration // how often what tells nothing itself is looked at; 2 s
	CauseGrace     time.Duration // how long a failed agent may take to tell why; 3 s
	// Recast is the pause before prepare is cast again to an agent that has
	// not carried it out; it doubles each time. 20 s.
	Recast time.Duration
	// ControlExchange, ConductorQueue and GuestConfig go into each agent's configuration:
	// GuestConfig as it is, so that an operator can set any option of the agent.
	ControlExchange string
	ConductorQueue  string
	GuestConfig     []byte
	// Isolation has the user's port be the engine's container's, and not the
	// server's.
	Isolation bool
	// DefaultCIDRs may reach an instance that says nothing of its own;
	// everyone if empty.
	DefaultCIDRs []string
	Keys         Keys             // nil: messages are not sealed
	Clock        func() time.Time // time.Now
	Log          *slog.Logger     // slog.Default()
}

func (o Options) withDefaults() Options {
	for d, v := range map[*time.Duration]time.Duration{&o.UsageTimeout: 30 * time.Minute, &o.RestartTimeout: 10 * time.Minute,
		&o.RotateTimeout: 10 * time.Minute, &o.ResizeWait: 15 * time.Minute, &o.RevertWait: 10 * time.Minute, &o.AccessTimeout: 10 * time.Minute,
		&o.StopTimeout: 15 * time.Second, &o.PollInterval: 2 * time.Second, &o.CauseGrace: 3 * time.Second, &o.Recast: 20 * time.Second} {
		if *d <= 0 {
			*d = v
		}
	}
	if o.ResizeTimeout <= 0 {
		o.ResizeTimeout = max(30*time.Minute, o.ResizeWait+15*time.Minute)
	}
	if len(o.DefaultCIDRs) == 0 {
		o.DefaultCIDRs = []string{"0.0.0.0/0"}
	}
	if o.Keys == nil {
		o.Keys = noKeys{}
	}
	if o.ConductorQueue == "" {
		o.ConductorQueue = conductor.Topic
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return o
}

// Flows makes flows of what they work with.
type Flows struct {
	store Store
	cloud cloud.Cloud
	guest Guest
	casts Caster
	bus   Bus
	keys  Keys
	opts  Options
	// process tells this process from the ones before it.
	process string
}

// New makes the flows of one region.
func New(s Store, c cloud.Cloud, g Guest, casts Caster, b Bus, o Options) *Flows {
	o = o.withDefaults()
	return &Flows{s, c, g, casts, b, o.Keys, o, rand.Text()}
}

// All are the flows, as work.New takes them.
func (f *Flows) All() []work.Registered {
	return []work.Registered{f.create(), f.delete(), f.restart(), f.rotate(), f.resizeFlavor(), f.resizeVolume(), f.updateAccess()}
}

// outcome goes on, or fails with err.
func outcome(err error) work.Outcome {
	if err != nil {
		return work.Fail(err)
	}
	return work.Next()
}

// stubborn goes on, or tries again whatever err is: for what must come to an
// end, like a deletion.
func stubborn(err error) work.Outcome {
	if err != nil {
		return work.Retry(err)
	}
	return work.Next()
}

// gone goes on when something is gone, and asks again until then.
func (f *Flows) gone(is bool, err error) work.Outcome {
	switch {
	case err != nil:
		return work.Retry(err)
	case !is:
		return work.Nap(f.opts.PollInterval)
	}
	return work.Next()
}

// when goes on when something is done, and asks again until then.
func (f *Flows) when(done bool, err error) work.Outcome {
	if err == nil && !done {
		return work.Nap(f.opts.PollInterval)
	}
	return outcome(err)
}

// tries is how often an agent that does not answer in time is asked.
const tries = 3

// patient goes on, or asks an agent again that may have done what it was asked
// for and could not say so.
func patient(err error, attempt int) work.Outcome {
	if trove.IsKind(err, trove.KindGuestTimeout) && attempt+1 < tries {
		return work.Retry(err)
	}
	return outcome(err)
}

// until goes on, or asks an agent that does not answer until the flow's end.
func until(err error) work.Outcome {
	if trove.IsKind(err, trove.KindGuestTimeout) {
		return work.Retry(err)
	}
	return outcome(err)
}

// undoOnce names a request that takes something back. One that failed is asked
// for anew.
func undoOnce(workID string, attempt int) string { return once(fmt.Sprint("undo ", attempt), workID) }

// once names a request to an agent: the same for whoever asks again.
func once(what, workID string) string {
	sum := sha256.Sum256([]byte(what + " " + workID))
	return hex.EncodeToString(sum[:16])
}

// ownerOf tags what is an instance's.
func ownerOf(inst *trove.Instance) cloud.Owner {
	return cloud.Owner{InstanceID: inst.ID, ProjectID: inst.TenantID, Name: inst.Name, Manager: inst.Version.Manager,
		ServerID: inst.ComputeID, VolumeID: inst.VolumeID}
}

// startAgain has the engine run as it did before a flow that failed. Where the
// server does not run, or goes, there is nothing to be asked.
func (f *Flows) startAgain(ctx context.Context, id, request string) work.Outcome {
	inst, err := f.store.Instance(ctx, id)
	if beingDeleted(inst, err) {
		return work.Next()
	}
	if err != nil {
		return work.Retry(err)
	}
	if server, err := f.cloud.Server(ctx, ownerOf(inst)); trove.IsKind(err, trove.KindNotFound) || err == nil && server.Status == trove.ServerError {
		return work.Next()
	}
	return stubborn(f.startDB(ctx, inst, request))
}

// late is the cause of a flow that did not end in time.
func late(what, step string, within time.Duration, last error) error {
	if last != nil {
		return trove.Errorf(trove.KindInternal, "%s did not end within %s; the step %s failed: %w", what, within, step, last)
	}
	return trove.Errorf(trove.KindInternal, "%s did not end within %s: the step %s did not finish.", what, within, step)
}

// newFault words why a change of an instance failed.
func (f *Flows) newFault(begin string, fail work.Failure, details string) *trove.Fault {
	if len(fail.Left) > 0 {
		details = "Not taken back: " + strings.Join(fail.Left, ", ") + "\n\n" + details
	}
	return &trove.Fault{Message: begin + fail.Cause, Details: strings.TrimSpace(fail.Action + "\n\n" + details), Created: f.opts.Clock().UTC()}
}

// evidenceOf is what an instance's server wrote last; nothing if that cannot be
// had.
func (f *Flows) evidenceOf(ctx context.Context, inst *trove.Instance) string {
	text, err := f.cloud.Evidence(ctx, ownerOf(inst))
	if err != nil {
		f.opts.Log.InfoContext(ctx, "no evidence of a failure", "error", err)
		return ""
	}
	return strings.ToValidUTF8(text, "?")
}

// beingDeleted reports whether an instance is deleted or on its way: other
// flows then leave it alone.
func beingDeleted(inst *trove.Instance, err error) bool {
	return trove.IsKind(err, trove.KindNotFound) || err == nil && inst.Task == trove.TaskDeleting
}

// observe records what is known of a server, so that users see it before the
// observer comes round.
func (f *Flows) observe(ctx context.Context, id, status string, addresses []trove.Address) error {
	return f.store.Observe(ctx, map[string]trove.ServerObservation{
		id: {Status: status, Addresses: addresses, SeenAt: f.opts.Clock().UTC()}})
}

// fault puts a failure on record; cause is for the user, details and action
// for those who look further.
func (f *Flows) fault(ctx context.Context, id, cause, action, details string) error {
	if action != "" {
		details = strings.TrimSpace(action + "\n\n" + details)
	}
	return f.store.SetFault(ctx, id, trove.Fault{Message: cause, Details: details, Created: f.opts.Clock().UTC()})
}

// lastLine is the last line of a log that says something, at most 200 bytes.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	last := strings.ToValidUTF8(plain(strings.TrimSpace(lines[len(lines)-1])), "?")
	if len(last) > 200 {
		last = strings.ToValidUTF8(last[:200], "") + "…"
	}
	return last
}

// plain is a line of an agent's log without its JSON, for people.
func plain(line string) string {
	var record struct{ Msg, Error string }
	if json.Unmarshal([]byte(line), &record) != nil || record.Msg == "" {
		return line
	}
	if record.Error == "" {
		return record.Msg
	}
	return record.Msg + ": " + record.Error
}
