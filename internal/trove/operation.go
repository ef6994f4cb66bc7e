package trove

import "time"

// OperationState is the state of an operation or of one of its steps.
type OperationState string

// Operation states. A finished one is done, failed or cancelled.
const (
	OperationPending   OperationState = "pending"
	OperationRunning   OperationState = "running"
	OperationDone      OperationState = "done"
	OperationFailed    OperationState = "failed"
	OperationCancelled OperationState = "cancelled"
)

// Finished reports whether nothing more will happen.
func (s OperationState) Finished() bool {
	return s == OperationDone || s == OperationFailed || s == OperationCancelled
}

// Operation is one piece of work on an instance, as people watch it.
type Operation struct {
	ID         string
	InstanceID string
	Kind       string // create_instance, delete_instance, restart…
	State      OperationState
	RequestID  string // of the API request that asked for it
	Started    time.Time
	Ended      time.Time // zero while it runs
	Deadline   time.Time // when it will be given up
	Read       time.Time // when this was so, by the clock of the others
	Cause      string    // of a failure
	Action     string    // what to do about it
	Steps      []OperationStep
}

// OperationStep is one step of an operation.
type OperationStep struct {
	Name     string
	State    OperationState
	Started  time.Time
	Ended    time.Time
	Message  string // what it is doing, for people
	Progress *Progress
	Cause    string
}

// Progress counts what a step has done so far.
type Progress struct {
	Done  int64
	Total int64 // 0 when it is not known
	Unit  string
}

// OperationEvent is one change of an operation. Sequence rises with every
// event of the system, so a watcher can go on where it stopped.
type OperationEvent struct {
	Sequence    int64
	OperationID string
	InstanceID  string
	Kind        string
	Step        string // empty when the event is about the operation itself
	State       OperationState
	Time        time.Time
	Message     string
	Progress    *Progress
	Cause       string
	Action      string
}
