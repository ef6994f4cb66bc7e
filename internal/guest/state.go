package guest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/rpc"
	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
)

// stateVersion is raised when an older agent could not read the file.
const stateVersion = 1

// phase is how far an instance has come.
//
//	new → preparing → prepared
//	         ↓  ↑
//	        failed     (prepare may be asked again)
type phase string

const (
	phaseNew       phase = ""
	phasePreparing phase = "preparing"
	phasePrepared  phase = "prepared"
	phaseFailed    phase = "failed"
)

// state is all the agent must remember over its own death. Everything else it
// asks the engine and the runtime.
type state struct {
	Version    int    `json:"version"`
	InstanceID string `json:"instance_id"`
	Phase      phase  `json:"phase,omitempty"`
	// Prepare is kept while it runs, for it to be resumed; it holds passwords
	// and is dropped at its end.
	Prepare *guestapi.Prepare `json:"prepare,omitempty"`
	// Request is who asked for prepare, without the token.
	Request rpc.Context `json:"request"`
	// Failure is why prepare failed.
	Failure string `json:"failure,omitempty"`
	// ShouldRun is whether the engine is wanted; false after stop_db.
	ShouldRun bool            `json:"should_run"`
	Handle    *runtime.Handle `json:"handle,omitempty"`
	// Restarted is the last restart that was carried out.
	Restarted *restarted `json:"restarted,omitempty"`
	// Casts are those that were handled, Calls those that change something and
	// were begun. They have a ledger each: no number of calls may push out a cast.
	Casts ledger `json:"casts,omitzero"`
	Calls ledger `json:"calls,omitzero"`
	// Handled are the casts as earlier agents wrote them.
	Handled []string `json:"handled,omitempty"`
}

// restarted is how a restart ended.
type restarted struct {
	ID      string `json:"id"` // of the request
	Failure string `json:"failure,omitempty"`
	Action  string `json:"action,omitempty"`
}

// stateFile is the state with the file that holds it. Each update is on disk
// when it returns.
type stateFile struct {
	path string

	mu      sync.Mutex
	now     state
	written []byte // what the file holds, as far as we know
}

// openState reads the state of an instance, or begins one.
func openState(path, instanceID string) (*stateFile, error) {
	f := &stateFile{path: path, now: state{Version: stateVersion, InstanceID: instanceID}}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the agent's state: %w", err)
	}
	if err := json.Unmarshal(b, &f.now); err != nil {
		return nil, fmt.Errorf("read the agent's state %s: %w", path, err)
	}
	f.written = b
	switch {
	case f.now.Version > stateVersion:
		return nil, trove.Errorf(trove.KindConflict, "The agent's state %s has version %d; this agent understands %d.",
			path, f.now.Version, stateVersion).WithAction("Install a trove-guestagent that is at least as new as the one that wrote it.")
	case f.now.InstanceID != instanceID:
		return nil, trove.Errorf(trove.KindConflict, "The agent's state %s is of instance %s, not of %s.",
			path, f.now.InstanceID, instanceID)
	}
	f.now.Casts.adopt(f.now.Handled)
	f.now.Handled = nil
	return f, nil
}

// get gives a copy of the state; what it points to is never changed in place.
func (f *stateFile) get() state {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// update changes the state on disk and then in memory. change must replace what
// pointers and slices hold, not write through them.
func (f *stateFile) update(change func(*state)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := f.now
	change(&next)
	b, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("write the agent's state: %w", err)
	}
	if !bytes.Equal(b, f.written) { // a full disk must not stop what changes nothing
		if err := durable.WriteFile(f.path, b, 0o600); err != nil {
			return fmt.Errorf("write the agent's state: %w", err)
		}
		f.written = b
	}
	f.now = next
	return nil
}

// remember is update for what can be found out again: with an error it is
// remembered in memory only.
func (f *stateFile) remember(change func(*state)) error {
	err := f.update(change)
	if err != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		change(&f.now)
	}
	return err
}
