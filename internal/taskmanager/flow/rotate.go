package flow

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
	"github.com/gotrove/gotrove/internal/work"
)

// Rotation is how far the replacement of an agent's login and key has come.
//
//	pending: its key beside the one that counts, its login beside the old one
//	   │ cast rotate_credentials, again and again
//	   ▼
//	the agent writes them down, then uses them; it goes back to the old ones if
//	they are refused
//	   │ a message of the agent under the new login and key (the conductor)
//	   ▼
//	confirmed: the key is the instance's, the old one is forgotten
//	   │
//	   ▼
//	the old login is removed and its connections are closed
//
// Whoever dies where in between: what is pending stays so until the agent has
// spoken, and until then both are good.
type Rotation struct {
	// Target is the generation that must count in the end, 0 if not known yet.
	Target int `json:"target,omitempty"`
	// Casts is how often the agent was told, the last time at LastCast by the
	// process LastBy.
	Casts    int       `json:"casts,omitempty"`
	LastCast time.Time `json:"last_cast,omitzero"`
	LastBy   string    `json:"last_by,omitempty"`
	// Taken: the agent was at its queue, and the message was not in it any more.
	Taken bool `json:"taken,omitempty"`
}

// Rotate is the state of KindRotate.
type Rotate struct {
	Rotation Rotation `json:"rotation"`
}

type rotateRun = work.Run[Rotate]

// rotate replaces the credentials of an agent that works, at an operator's
// wish.
func (f *Flows) rotate() work.Registered {
	type step = work.Step[Rotate]
	return work.Flow[Rotate]{
		Kind:    KindRotate,
		Timeout: f.opts.RotateTimeout,
		Steps: []step{
			{Name: "begin", Do: f.rotateBegin},
			{Name: "credentials", Do: func(ctx context.Context, r *rotateRun) work.Outcome {
				inst, err := f.store.Instance(ctx, r.Subject())
				if beingDeleted(inst, err) {
					return work.Done()
				}
				if err != nil {
					return work.Fail(err)
				}
				return f.replaceCredentials(ctx, r.ID(), r.Subject(), r.Now(), &r.State.Rotation)
			}},
		},
		Expired: func(_ context.Context, r *rotateRun, _ string, last error) error {
			err := trove.Errorf(trove.KindGuestTimeout, "The guest agent did not take its new login and key within %s; both the old and the new ones are good.", f.opts.RotateTimeout).
				WithAction("Look whether the agent runs, then ask for the rotation again: it goes on with the same credentials.")
			err.Err = last
			return err
		},
	}
}

func (f *Flows) rotateBegin(ctx context.Context, r *rotateRun) work.Outcome {
	if !f.bus.PerGuest() {
		return work.Fail(trove.Errorf(trove.KindUnprocessable, "The guests share one login, which is the operator's to change ([gotrove] guest_credentials = shared)."))
	}
	c, err := f.store.GuestCredentials(ctx, r.Subject())
	if err != nil {
		return work.Fail(err)
	}
	// What a rotation that was given up left behind goes first: there are never
	// more than two logins.
	if err := f.bus.RemoveLogins(ctx, r.Subject(), c.Generation); err != nil {
		return work.Fail(err)
	}
	r.State.Rotation.Target = c.Generation + 1
	return work.Next()
}

// replaceCredentials has an agent's login and key replaced, and goes on when
// the agent has used them and the old login is removed: nothing may follow that
// that one must not read. now is the database's clock: ours may jump.
func (f *Flows) replaceCredentials(ctx context.Context, workID, id string, now time.Time, r *Rotation) work.Outcome {
	c, err := f.store.GuestCredentials(ctx, id)
	if err != nil {
		return work.Fail(err)
	}
	if c.Generation >= r.Target {
		return outcome(f.bus.RemoveLogins(ctx, id, r.Target))
	}
	if c.Pending == 0 {
		key, err := f.keys.NewKey(ctx, id)
		if err != nil {
			return work.Fail(err)
		}
		if c, err = f.store.BeginRotation(ctx, id, key); err != nil {
			return work.Fail(err)
		}
	}
	// At once after a restart of the control plane, whose broker may have
	// forgotten the message; then, unless it is still there, with growing pauses.
	pause := f.opts.Recast << min(max(r.Casts-1, 0), 5)
	if r.LastBy == f.process {
		if now.Sub(r.LastCast) < pause {
			return work.Nap(f.opts.PollInterval)
		}
		seen, err := f.bus.Seen(ctx, id, c.Last())
		if err != nil {
			return work.Fail(err)
		}
		// An agent on a slow server needs minutes to come, and then its time: a message
		// that waits for it, or that it has only just taken, is not said again.
		if seen.Waiting > 0 || seen.Consumers > 0 && !r.Taken {
			r.LastCast, r.Taken = now, seen.Waiting == 0
			return work.Nap(f.opts.PollInterval)
		}
	}
	login, password, err := f.bus.EnsureLogin(ctx, id, c.Pending)
	if err != nil {
		return work.Fail(err)
	}
	key, err := f.keys.OpenKey(ctx, id, c.PendingKey)
	if err != nil {
		return work.Fail(err)
	}
	m := guest.RotateMessage(id, guest.Credentials{Generation: c.Pending, Login: login, Password: password, Key: key})
	sum := sha256.Sum256(fmt.Appendf(nil, "rotate %s %d", workID, c.Pending))
	m.UniqueID = hex.EncodeToString(sum[:16])
	if err := f.casts.Cast(ctx, m); err != nil {
		return work.Fail(err)
	}
	r.Casts++
	r.LastCast, r.LastBy = now, f.process
	return work.Nap(f.opts.PollInterval)
}

// createCredentials replaces what the user data carried before anything secret
// is told to the agent: user data can be read by whoever gets into the server
// or its metadata, at any time.
func (f *Flows) createCredentials(ctx context.Context, r *createRun) work.Outcome {
	if !f.bus.PerGuest() {
		return work.Next()
	}
	inst, err := f.store.Instance(ctx, r.Subject())
	if err != nil {
		return work.Fail(err)
	}
	switch inst.Service {
	case trove.ServiceNew, trove.ServiceBuilding, trove.ServiceUnknown, trove.ServiceDeleted:
	default:
		return f.engineFailed(ctx, inst, r)
	}
	r.State.Rotation.Target = 1
	if c, err := f.store.GuestCredentials(ctx, inst.ID); err != nil {
		return work.Fail(err)
	} else if c.Generation == 0 {
		// Before the first contact the server itself may have failed.
		if _, out := f.watchServer(ctx, inst, r); out != nil {
			return *out
		}
	}
	return f.replaceCredentials(ctx, r.ID(), inst.ID, r.Now(), &r.State.Rotation)
}
