package rpc

import (
	"time"

	"github.com/gotrove/gotrove/internal/rpc/amqp"
)

// Options are oslo.messaging's in group [DEFAULT], for package osloconf to fill.
type Options struct {
	// Workers is how many requests a server handles at once.
	Workers int `conf:"DEFAULT.executor_thread_pool_size" default:"64"`
	// Ping answers oslo_rpc_server_ping.
	Ping bool `conf:"DEFAULT.rpc_ping_enabled" default:"false"`
	// ResponseTimeout has no effect: see NoEffect.
	ResponseTimeout time.Duration `conf:"DEFAULT.rpc_response_timeout" default:"60"`
}

// NoEffect are those of Options that are accepted and change nothing, by their
// names in [DEFAULT], with the reason.
func NoEffect() map[string]string {
	return map[string]string{
		"rpc_response_timeout": "every call has a timeout of its own (agent_call_low_timeout and the like)",
	}
}

// Serve fills in what the options say of a server: these, and those of the
// connection. What opt has already stays.
func (o Options) Serve(rabbit amqp.Options, opt ServerOptions) ServerOptions {
	if opt.Workers == 0 {
		opt.Workers = o.Workers
	}
	if opt.Prefetch == 0 {
		opt.Prefetch = rabbit.Prefetch
	}
	if opt.ReplyTimeout == 0 {
		opt.ReplyTimeout = rabbit.MissingConsumer
	}
	opt.Ping = opt.Ping || o.Ping
	return opt
}
