// Package runtime says how the agent runs an engine's server: as a plain
// process (runtime/process) or as a container (runtime/docker). A container
// sees the directories it is given at the paths they have on the machine, so an
// engine's files and sockets are the same to both.
//
// Whatever is started is tagged and has a handle the agent persists, so that an
// agent that was killed finds its engine again and never starts a second one.
// The package knows nothing of any engine.
package runtime

import (
	"context"
	"os"
	"time"
)

// Spec is a program to be run for one instance.
type Spec struct {
	InstanceID string   // the tag
	Name       string   // what it is, "mariadb"; with InstanceID unique
	Argv       []string // no secrets: everyone can read them
	Env        []string
	Dir        string
	LogFile    string    // stdout and stderr are appended to it
	StopSignal os.Signal // what asks the program to stop cleanly
	// New: no program of this tag was ever started, so that none need be looked for.
	New bool

	// What follows only a container needs.
	Dirs   []string // what the program may read and write beside Dir and LogFile
	Port   int      // where clients connect, for a network of its own; 0: nowhere
	Health []string // a command that fails if the program is ill; no secrets
}

// Handle finds a program again. It is stored as JSON by the agent.
type Handle struct {
	Runtime   string `json:"runtime"` // process, docker
	PID       int    `json:"pid,omitempty"`
	StartTime uint64 `json:"start_time,omitempty"` // clock ticks since boot, /proc/<pid>/stat
	BootID    string `json:"boot_id,omitempty"`
	Container string `json:"container,omitempty"`
}

// State is what a program is doing.
type State struct {
	Running  bool
	ExitCode int    // when it is known and the program has ended, else -1
	Detail   string // why it ended, for people: the signal, out of memory
}

// Progress is how far something that takes long is.
type Progress struct {
	Message     string // for people
	Done, Total int64  // in Unit; Total 0: not known
	Unit        string // bytes
}

// Runtime runs programs. A conformance suite (runtimetest) holds for all.
type Runtime interface {
	// Fetch gets what programs are run from, if that is not here yet, and tells
	// how far it is.
	Fetch(ctx context.Context, report func(Progress)) error
	// Start runs the program, or finds the one with the same tag and name that
	// runs already.
	Start(ctx context.Context, s Spec) (Handle, error)
	// Find looks for a running program by tag and name; ok is false if there
	// is none.
	Find(ctx context.Context, s Spec) (h Handle, ok bool, err error)
	// State tells what the handle's program is doing; a handle of an earlier
	// boot or a reused pid is not running.
	State(ctx context.Context, h Handle) (State, error)
	// Wait returns when the program has ended, or ctx.
	Wait(ctx context.Context, h Handle) (State, error)
	// Stop asks the program to stop with signal and, after grace, kills it and
	// everything it started. It returns when it is gone.
	Stop(ctx context.Context, h Handle, signal os.Signal, grace time.Duration) error
}
