package rpc

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/rpc/wire"
	"github.com/gotrove/gotrove/internal/telemetry"
)

// maxLoggedID bounds an id of somebody else's in our log.
const maxLoggedID = 128

// Logged is ctx with c in it, for the messages sent with it, and with c's ids in
// its log lines.
func (c Context) Logged(ctx context.Context) context.Context {
	ctx = WithContext(ctx, c)
	var ids []any
	for _, id := range [...]struct{ name, value string }{
		{telemetry.RequestID, c.RequestID}, {telemetry.GlobalRequestID, c.GlobalRequestID}, {telemetry.ProjectID, c.ProjectID},
	} {
		if id.value != "" {
			ids = append(ids, id.name, id.value[:min(len(id.value), maxLoggedID)])
		}
	}
	if len(ids) == 0 {
		return ctx
	}
	return telemetry.With(ctx, ids...)
}

// toWire gives the context as Python's services expect it: every key that
// oslo.context writes, so that readers of any age find theirs.
func (c Context) toWire() (map[string]json.RawMessage, error) {
	roles := c.Roles
	if roles == nil {
		roles = []string{}
	}
	dash := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	values := map[string]any{
		"user":              orNull(c.User),
		"user_id":           orNull(c.User),
		"project_id":        orNull(c.ProjectID),
		"project":           orNull(c.ProjectID),
		"tenant":            orNull(c.ProjectID),
		"system_scope":      nil,
		"domain":            nil,
		"user_domain":       nil,
		"project_domain":    nil,
		"is_admin":          c.IsAdmin,
		"read_only":         false,
		"show_deleted":      false,
		"auth_token":        orNull(c.AuthToken),
		"request_id":        orNull(c.RequestID),
		"global_request_id": orNull(c.GlobalRequestID),
		"resource_uuid":     nil,
		"roles":             roles,
		"user_identity":     strings.Join([]string{dash(c.User), dash(c.ProjectID), "-", "-", "-"}, " "),
		"is_admin_project":  true,
		"limit":             nil,
		"marker":            nil,
		"service_catalog":   rawOrNull(c.ServiceCatalog),
	}
	if len(c.Notification) > 0 {
		values["trove_notification"] = c.Notification
	}
	out := make(map[string]json.RawMessage, len(values))
	for k, v := range values {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		out[k] = b
	}
	return out, nil
}

// contextFromWire reads what we keep of a context; all is optional, and a
// member of an unexpected type is as one that is not there.
func contextFromWire(m map[string]json.RawMessage) Context {
	var c Context
	str := func(keys ...string) string {
		for _, k := range keys {
			if s, ok := wire.Text(m[k]); ok && s != "" {
				return s
			}
		}
		return ""
	}
	c.RequestID = str("request_id")
	c.GlobalRequestID = str("global_request_id")
	c.User = str("user", "user_id")
	c.ProjectID = str("project_id", "project", "tenant")
	c.AuthToken = str("auth_token")
	c.IsAdmin = string(m["is_admin"]) == "true"
	if v := m["roles"]; len(v) > len("[]") {
		_ = json.Unmarshal(v, &c.Roles)
	}
	c.ServiceCatalog = notNull(m["service_catalog"])
	c.Notification = notNull(m["trove_notification"])
	return c
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func rawOrNull(b json.RawMessage) any {
	if len(b) == 0 {
		return nil
	}
	return b
}

func notNull(b json.RawMessage) json.RawMessage {
	if len(b) == 0 || string(b) == "null" {
		return nil
	}
	return b
}

func requestOf(m Message, c Context) (wire.Request, error) {
	made := m.Made
	if made.IsZero() {
		made = time.Now()
	}
	r := wire.Request{Method: m.Method, Version: m.Version, UniqueID: m.UniqueID, Made: made.UnixMicro(), Kept: m.Kept, Args: make(map[string]json.RawMessage, len(m.Args))}
	for k, v := range m.Args {
		b, err := json.Marshal(v)
		if err != nil {
			return r, err
		}
		r.Args[k] = b
	}
	if r.UniqueID == "" {
		r.UniqueID = newID()
	}
	var err error
	r.Context, err = c.toWire()
	return r, err
}
