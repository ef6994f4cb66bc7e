package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/rpc"
	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
)

// Credentials are what the agent has instead of the login and the key that its
// configuration came with. New ones are on disk before anybody uses them, and
// the ones before stay beside them until the bus has taken a message under the
// new ones: an agent that dies at any point finds one pair that is good.
type Credentials struct {
	path, instanceID string
	changed          chan rpc.Context

	mu  sync.Mutex
	now credentials
}

// credentials is the file. Generation 0 is as configured.
type credentials struct {
	Version  int                  `json:"version"`
	Instance string               `json:"instance_id"`
	Current  guestapi.Credentials `json:"current"`
	// Previous are good until Current was used.
	Previous *guestapi.Credentials `json:"previous,omitempty"`
	// Late are those before Current once it was used: their login is gone, but
	// services that have not heard yet seal with their key for a while.
	Late *guestapi.Credentials `json:"late,omitempty"`
}

const credentialsVersion = 1

// OpenCredentials reads the file of an instance's agent, or begins with what is
// configured if there is none.
func OpenCredentials(path, instanceID string) (*Credentials, error) {
	c := &Credentials{path: path, instanceID: instanceID, changed: make(chan rpc.Context, 1),
		now: credentials{Version: credentialsVersion, Instance: instanceID}}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the agent's credentials: %w", err)
	}
	// Its text could quote a password.
	if json.Unmarshal(b, &c.now) != nil {
		return nil, trove.Errorf(trove.KindInternal, "The agent's credentials %s are damaged.", path)
	}
	switch {
	case c.now.Version > credentialsVersion:
		return nil, trove.Errorf(trove.KindConflict, "The agent's credentials %s have version %d; this agent understands %d.",
			path, c.now.Version, credentialsVersion).WithAction("Install a trove-guestagent that is at least as new as the one that wrote them.")
	case c.now.Instance != instanceID:
		return nil, trove.Errorf(trove.KindConflict, "The agent's credentials %s are of instance %s, not of %s.", path, c.now.Instance, instanceID)
	}
	return c, nil
}

// Get gives the credentials to use, and those to go back to if the bus refuses
// them; nil if the bus has taken them already.
func (c *Credentials) Get() (current guestapi.Credentials, previous *guestapi.Credentials) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now.Current, c.now.Previous
}

// Changed has an element after each Take: the ids of the request that the last
// one came with.
func (c *Credentials) Changed() <-chan rpc.Context { return c.changed }

// Take writes newer credentials down. Those that are not newer are no error:
// who sent them has not heard yet, so they are tried again if they were not
// taken by the bus.
func (c *Credentials) Take(ctx context.Context, fresh guestapi.Credentials) error {
	if fresh.Generation < 1 || fresh.Password == "" || fresh.Login != guestapi.Login(c.instanceID, fresh.Generation) {
		return trove.Errorf(trove.KindBadRequest, "These are no credentials of this instance's agent.")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if fresh.Generation > c.now.Current.Generation {
		next := c.now
		next.Current = fresh
		if next.Previous == nil {
			was := c.now.Current
			next.Previous = &was
		}
		if err := c.write(next); err != nil {
			return err
		}
	}
	select {
	case <-c.changed: // whoever comes for it gets the newer
	default:
	}
	c.changed <- idsOf(ctx)
	return nil
}

// Used notes that the bus has taken a message under credentials of a
// generation; the login before is forgotten. first is whether that is news.
func (c *Credentials) Used(generation int) (first bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now.Previous == nil || c.now.Current.Generation != generation {
		return false, nil
	}
	next := c.now
	next.Previous, next.Late = nil, next.Previous
	return true, c.write(next)
}

// Late gives the credentials before the current ones, whose key may still be in
// use elsewhere; nil if it is not.
func (c *Credentials) Late() *guestapi.Credentials {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now.Late
}

// ForgetLate forgets those before the ones of a generation, unless that is not
// the current one any more.
func (c *Credentials) ForgetLate(generation int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now.Late == nil || c.now.Current.Generation != generation {
		return nil
	}
	next := c.now
	next.Late = nil
	return c.write(next)
}

// write puts next on disk and then in force.
func (c *Credentials) write(next credentials) error {
	b, err := json.Marshal(next)
	if err == nil {
		err = durable.WriteFile(c.path, b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write the agent's credentials: %w", err)
	}
	c.now = next
	return nil
}

// RotateCredentials writes new credentials down; whoever keeps the agent on the
// bus hears of it.
func (a *Agent) RotateCredentials(ctx context.Context, c guestapi.Credentials) error {
	if a.cfg.Credentials == nil {
		return trove.Errorf(trove.KindNotImplemented, "This guest agent has its login from the operator.")
	}
	if err := a.cfg.Credentials.Take(ctx, c); err != nil {
		return err
	}
	a.log.InfoContext(ctx, "new credentials", "generation", c.Generation)
	return nil
}

// Announce reports the agent's status again, at once: whoever waits for a
// message under new credentials hears it. ctx has the ids of who asked for them.
func (a *Agent) Announce(ctx context.Context) { a.pulse.announce(ctx) }
