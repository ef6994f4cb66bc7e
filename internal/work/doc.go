// Package work carries out flows: chains of steps that survive the death of the
// process that runs them.
//
// A piece of work is a row. Its state and its step advance in one transaction,
// fenced by the row's version and by a lease; whoever holds the lease runs the
// step. A process killed anywhere leaves a row that the next one goes on with,
// so a step looks first (by a tag of its own on what it makes), then acts, and
// is safe to run twice. What a step may have made is recorded as data in the
// transaction that enters it; a flow that fails or is cancelled walks that
// record backwards.
//
//	pending ──lease──▶ step ──Next──▶ step … ──Done──▶ done
//	                   │  ▲ Nap, Retry: later again
//	                   └──Fail, deadline, cancel──▶ undo … ──▶ failed | cancelled
//
// The package knows no flow and no service; it writes only its own two tables, and
// how an operation ended together with the end of its last step.
// A subject (an instance) has at most one piece of work running at a time, in
// the order they were accepted.
package work
