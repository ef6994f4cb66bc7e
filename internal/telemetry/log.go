// Package telemetry is how a process tells what it does: structured logs with
// the ids of the request, project and instance they are about, and with secrets
// masked.
//
// Ids travel in the context (With); nobody passes loggers around. Any package
// may import it; it imports nothing of ours.
package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Attribute names that every room uses alike.
const (
	RequestID       = "request_id"
	GlobalRequestID = "global_request_id" // what the caller of the API calls it
	ProjectID       = "project_id"
	InstanceID      = "instance_id"
)

type key struct{}

// With returns a context whose log lines carry args, as slog takes them, besides
// those ctx carries already. An attribute of the same name replaces the older.
func With(ctx context.Context, args ...any) context.Context {
	var r slog.Record
	r.Add(args...)
	old, _ := ctx.Value(key{}).([]slog.Attr)
	attrs := make([]slog.Attr, 0, len(old)+r.NumAttrs())
	attrs = append(attrs, old...)
	r.Attrs(func(a slog.Attr) bool {
		for i := range attrs {
			if attrs[i].Key == a.Key {
				attrs[i] = a
				return true
			}
		}
		attrs = append(attrs, a)
		return true
	})
	return context.WithValue(ctx, key{}, attrs)
}

// Value gives the text of an attribute that With put into ctx, "" if there is
// none.
func Value(ctx context.Context, name string) string {
	attrs, _ := ctx.Value(key{}).([]slog.Attr)
	for _, a := range attrs {
		if a.Key == name {
			return a.Value.String()
		}
	}
	return ""
}

// Options say how to log.
type Options struct {
	Level  string // debug, info (default), warn, error
	Format string // text, json; empty: text on a terminal, else json
}

// NewLogger makes a logger that writes to w, one line per record. An unknown
// level or format is an error that names what is right.
func NewLogger(w io.Writer, o Options) (*slog.Logger, error) {
	var level slog.Level
	if o.Level != "" {
		if err := level.UnmarshalText([]byte(o.Level)); err != nil {
			return nil, fmt.Errorf("log level %q: use debug, info, warn or error", o.Level)
		}
	}
	format := o.Format
	if format == "" {
		format = "json"
		if isTerminal(w) {
			format = "text"
		}
	}
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: redact}
	switch format {
	case "text":
		return slog.New(handler{slog.NewTextHandler(w, opts)}), nil
	case "json":
		return slog.New(handler{slog.NewJSONHandler(w, opts)}), nil
	}
	return nil, fmt.Errorf("log format %q: use text or json", o.Format)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// handler adds the context's attributes to each record.
type handler struct{ slog.Handler }

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if attrs, ok := ctx.Value(key{}).([]slog.Attr); ok {
		r = r.Clone()
		r.AddAttrs(attrs...)
	}
	return h.Handler.Handle(ctx, r)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.Handler.WithAttrs(attrs)}
}
func (h handler) WithGroup(name string) slog.Handler { return handler{h.Handler.WithGroup(name)} }

const mask = "***"

// redact masks attributes whose name says that they hold a secret: the second
// line of defence, behind secret.String.
func redact(_ []string, a slog.Attr) slog.Attr {
	name := strings.ToLower(a.Key)
	for _, word := range [...]string{"password", "passwd", "secret", "token", "transport_url", "authorization", "encr_key", "private_key", "credential"} {
		if strings.Contains(name, word) {
			return slog.String(a.Key, mask)
		}
	}
	return a
}
