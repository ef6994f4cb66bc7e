package guest

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpcapi/conductor"
	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// Handler serves the agent. A cast that was handled before is dropped and
// reported again; one that fails becomes the instance's fault, since nobody
// waits for it.
func (a *Agent) Handler() rpc.Handler {
	serve := guestapi.Handler(a)
	return rpc.HandlerFunc(func(ctx context.Context, in *rpc.Incoming) (any, error) {
		a.log.InfoContext(ctx, "request", "method", in.Method, "message", in.UniqueID, "call", in.Call)
		if in.Call {
			if err := a.admitCall(in); err != nil {
				a.log.WarnContext(ctx, "call refused", "method", in.Method, "message", in.UniqueID, "error", err)
				return nil, err
			}
			return serve.Handle(ctx, in)
		}
		return nil, a.handleCast(ctx, serve, in)
	})
}

// handleCast returns an error of KindUnavailable if the cast must come again,
// since the agent ends.
func (a *Agent) handleCast(ctx context.Context, serve rpc.Handler, in *rpc.Incoming) error {
	// One after the other in the order of their arrival: a user may need the
	// database of the cast before. Those who wait for the channel are served in
	// that order.
	select {
	case a.casts <- struct{}{}:
		defer func() { <-a.casts }()
	case <-ctx.Done():
		return errEnding()
	}
	if in.UniqueID != "" {
		switch a.state.castKnown(in.UniqueID, in.Made) {
		case standingTaken:
			a.log.InfoContext(ctx, "request repeated", "method", in.Method, "message", in.UniqueID)
			a.pulse.handled(in.UniqueID)
			return nil
		case standingUnknown:
			// It is not reported as handled: if its sender keeps it still, it ends
			// with a fault of the instance, and is not lost without a word.
			a.log.WarnContext(ctx, "request refused: it is older than the last that are remembered", "method", in.Method, "message", in.UniqueID)
			return nil
		case standingNew:
		}
	}
	limited, cancel := context.WithTimeout(ctx, a.cfg.Timing.CastLimit)
	defer cancel()
	if _, err := serve.Handle(limited, in); err != nil {
		if ctx.Err() != nil {
			return errEnding()
		}
		secrets := stringsUnder(in.Args, "password")
		err = &trove.Error{Kind: trove.KindOf(err), Message: redact(err.Error(), secrets), Action: redact(trove.ActionOf(err), secrets)}
		a.log.ErrorContext(ctx, "request failed", "method", in.Method, "message", in.UniqueID, "error", err)
		a.notify(ctx, in.Method, err, "")
	}
	if in.UniqueID == "" {
		return nil
	}
	if err := a.state.markHandled(in.UniqueID, in.Made); err != nil {
		// Doing it again for ever on a full disk would be worse than perhaps once.
		a.log.ErrorContext(ctx, "cannot write down that a request was handled", "method", in.Method, "error", err)
	}
	a.pulse.handled(in.UniqueID)
	return nil
}

func errEnding() error { return trove.Errorf(trove.KindUnavailable, "The guest agent is ending.") }

// notifications are the Python classes an event of a failed method has. The
// conductor makes a fault of each.
var notifications = map[string]string{
	"prepare":           "DBaaSInstanceCreate",
	"restart":           "DBaaSInstanceRestart",
	"stop_db":           "DBaaSInstanceRestart",
	"create_database":   "DBaaSDatabaseCreate",
	"delete_database":   "DBaaSDatabaseDelete",
	"create_user":       "DBaaSUserCreate",
	"delete_user":       "DBaaSUserDelete",
	"change_passwords":  "DBaaSUserChangePassword",
	"update_attributes": "DBaaSUserUpdateAttributes",
	"disable_root":      "DBaaSInstanceRootDisable",
}

// notify reports a failure to the conductor, which makes it the instance's
// fault. That the conductor is away must not keep a cast from its end: it is
// tried for a while, then only the log has it.
func (a *Agent) notify(ctx context.Context, method string, err error, logTail string) {
	who := rpc.ContextFrom(ctx)
	n := conductor.FailureNotification{InstanceID: a.cfg.InstanceID, ServerType: "guest", RequestID: who.RequestID}
	class, ok := notifications[method]
	if !ok {
		class = notifications["restart"]
	}
	n.Class = "trove.common.notification." + class
	details := []string{err.Error()}
	if action := trove.ActionOf(err); action != "" {
		details = append(details, action)
	}
	if logTail != "" {
		details = append(details, strings.Split(logTail, "\n")...)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), beatLimit)
	defer cancel()
	if err := a.cfg.Conductor.NotifyFailure(ctx, n, err.Error(), details); err != nil {
		a.log.ErrorContext(ctx, "failure not reported", "method", method, "error", err)
	}
}

// redact masks secrets in a text. Engines do not put them there; what an
// engine's server answers is not in our hands.
func redact(text string, secrets []string) string {
	for _, s := range secrets {
		if s != "" {
			text = strings.ReplaceAll(text, s, secret.Mask)
		}
	}
	return text
}

// stringsUnder collects the strings of all members whose name ends in suffix.
func stringsUnder(args map[string]json.RawMessage, suffix string) []string {
	var out []string
	var walk func(name string, v any)
	walk = func(name string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, e := range v {
				walk(k, e)
			}
		case []any:
			for _, e := range v {
				walk(name, e)
			}
		case string:
			if strings.HasSuffix(name, suffix) {
				out = append(out, v)
			}
		}
	}
	for name, raw := range args {
		var v any
		if json.Unmarshal(raw, &v) == nil {
			walk(name, v)
		}
	}
	return out
}
