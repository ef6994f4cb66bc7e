package rpc

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
)

// Method is one procedure of a Router.
type Method func(ctx context.Context, in *Incoming) (any, error)

// Bind makes a Method of a function that takes its keyword arguments as a
// struct with JSON tags. Unknown arguments are ignored, so that a newer sender
// is understood; what cannot be decoded is answered as Python's TypeError.
func Bind[A, R any](f func(context.Context, A) (R, error)) Method {
	return func(ctx context.Context, in *Incoming) (any, error) {
		var args A
		if err := decodeArgs(in.Args, &args); err != nil {
			return nil, &RemoteError{Class: "TypeError", Module: "builtins", Message: in.Method + "(): " + err.Error()}
		}
		return f(ctx, args)
	}
}

// BindCast is Bind for a procedure without a result.
func BindCast[A any](f func(context.Context, A) error) Method {
	return Bind(func(ctx context.Context, a A) (any, error) { return nil, f(ctx, a) })
}

func decodeArgs(args map[string]json.RawMessage, into any) error {
	if len(args) == 0 {
		return nil
	}
	// Put together again by hand: Marshal would check each value once more.
	b := make([]byte, 0, 256)
	for name, value := range args {
		key, err := json.Marshal(name)
		if err != nil {
			return err
		}
		b = append(append(append(append(b, ','), key...), ':'), value...)
	}
	b[0] = '{'
	return json.Unmarshal(append(b, '}'), into)
}

// Router is a Handler that picks a Method by name, after the version check
// oslo.messaging makes: same major version, minor not above ours.
type Router struct {
	Version string
	Methods map[string]Method
}

// Handle implements Handler. A method that is not there or a version that is
// not ours is a *RemoteError as Python raises it.
func (r Router) Handle(ctx context.Context, in *Incoming) (any, error) {
	if !compatible(r.Version, in.Version) || in.Namespace != "" {
		return nil, &RemoteError{Class: "UnsupportedVersion", Module: dispatcherModule,
			Message: "Endpoint does not support RPC version " + in.Version + ". Attempted method: " + in.Method}
	}
	m, ok := r.Methods[in.Method]
	if !ok {
		return nil, &RemoteError{Class: "NoSuchMethod", Module: dispatcherModule,
			Message: "Endpoint does not support RPC method " + in.Method}
	}
	return m(ctx, in)
}

const dispatcherModule = "oslo_messaging.rpc.dispatcher"

// RemoteError is a failure raised by the server of a call. Module and Class
// name the Python exception; KindOf of the trove error it stands for is found
// with errors.As, since it unwraps to one where the class is known.
type RemoteError struct {
	Class     string
	Module    string
	Message   string
	Traceback []string
	Args      []json.RawMessage
	Kwargs    map[string]json.RawMessage
}

// Error gives the message of the remote exception.
func (e *RemoteError) Error() string { return e.Message }

// compatible reports whether an endpoint of version ours may serve a request
// of version asked ("" is 1.0).
func compatible(ours, asked string) bool {
	om, on := parseVersion(ours)
	am, an := parseVersion(asked)
	return om == am && an <= on
}

func parseVersion(v string) (major, minor int) {
	if v == "" {
		return 1, 0
	}
	ma, mi, _ := strings.Cut(v, ".")
	major, err := strconv.Atoi(ma)
	if err != nil {
		return -1, 0
	}
	if mi != "" {
		if minor, err = strconv.Atoi(strings.SplitN(mi, ".", 2)[0]); err != nil {
			return -1, 0
		}
	}
	return major, minor
}
