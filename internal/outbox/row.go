// Package outbox carries messages from a transaction to the bus: a message is
// a row that is written together with the change of state it belongs to, and
// the Relay publishes it, and again, until its receiver says that it has it.
//
// It owns the form of a row's body and when rows are published. Rows are
// deleted by others: those to the task manager where the work is recorded,
// those to guest agents where the conductor hears that they were handled. So
// every message may arrive more than once, with the same unique id, and
// receivers drop repeats.
//
// Bodies hold passwords. The store seals them, and they are never logged.
package outbox

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// maxBody bounds a message, in bytes: what a request may hold, and some more.
const maxBody = 4 << 20

// body is a message as a row holds it. Rows outlive the program that wrote
// them: members are only ever added.
type body struct {
	Server    string         `json:"server,omitempty"`
	Fanout    bool           `json:"fanout,omitempty"`
	Version   string         `json:"version"`
	Args      map[string]any `json:"args"`
	Mandatory bool           `json:"mandatory,omitempty"`
	Context   rpc.Context    `json:"context"`
}

// Row makes the row that carries m and ctx's request context. instanceID is the
// instance whose guest agent must say that it handled m; empty if m is not for
// a guest agent. After deadline the message is given up and the instance gets a
// fault; 0 is never, as it must be for what nothing else would make good.
func Row(ctx context.Context, m rpc.Message, instanceID string, deadline time.Duration) (store.OutboxRow, error) {
	b, err := json.Marshal(body{m.Server, m.Fanout, m.Version, m.Args, m.Mandatory, rpc.ContextFrom(ctx)})
	if err != nil {
		return store.OutboxRow{}, trove.Errorf(trove.KindInternal, "message %s to %s cannot be stored: %w", m.Method, m.Topic, err)
	}
	if len(b) > maxBody {
		return store.OutboxRow{}, trove.Errorf(trove.KindBadRequest, "The request makes a message of %d bytes; at most %d are possible.", len(b), maxBody)
	}
	r := store.OutboxRow{ID: m.UniqueID, Topic: m.Topic, Method: m.Method, Subject: instanceID, InstanceID: instanceID, Body: b, GiveUpAfter: deadline}
	if r.ID == "" {
		r.ID = strings.ReplaceAll(trove.NewID(), "-", "") // as oslo.messaging writes unique ids
	}
	return r, nil
}

// message is what r carries.
func message(r store.OutboxRow) (rpc.Message, rpc.Context, error) {
	var b body
	d := json.NewDecoder(bytes.NewReader(r.Body))
	d.UseNumber() // numbers leave as they came
	if err := d.Decode(&b); err != nil {
		// Not err itself: it may quote what it could not read.
		return rpc.Message{}, rpc.Context{}, trove.Errorf(trove.KindInternal, "the body of outbox row %s cannot be read", r.ID)
	}
	return rpc.Message{Topic: r.Topic, Server: b.Server, Fanout: b.Fanout, Method: r.Method, Version: b.Version,
		Args: b.Args, UniqueID: r.ID, Mandatory: b.Mandatory}, b.Context, nil
}
