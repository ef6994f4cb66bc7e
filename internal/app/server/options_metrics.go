package server

import (
	"context"
	"log/slog"
	"time"

	"github.com/gotrove/gotrove/internal/telemetry"
	"github.com/gotrove/gotrove/internal/trove"
)

// monitorOptions say how a process is watched (docs/operator/monitoring.md).
type monitorOptions struct {
	Listen      string        `conf:"gotrove.metrics_listen" default:"" help:"host:port of GET /metrics, /healthcheck with causes, and /livez; off for none. Empty: 127.0.0.1:9779 for trove-api, :9780 for trove-taskmanager, :9781 for trove-conductor (the first of each on a host), none for a standalone. There is no login: keep it from strangers."`
	Drain       time.Duration `conf:"gotrove.drain_delay" default:"0" help:"How long trove-api, told to stop, goes on answering while /healthcheck says 503: what the load balancer takes to notice."`
	DisableFile string        `conf:"gotrove.healthcheck_disable_file" default:"/etc/trove/healthcheck_disable" help:"While there is such a file, /healthcheck says 503, to take a trove-api out of service."`
	AuditLog    string        `conf:"gotrove.audit_log" default:"" help:"File that the audit goes to in place of the log: a line of JSON for each call that changes something. It is appended to, made with mode 0640, and opened anew on SIGHUP."`
}

const listenOff = "off"

// usualListen is where each role is watched if the configuration does not say.
var usualListen = map[string]string{
	"trove-api": "127.0.0.1:9779", "trove-taskmanager": "127.0.0.1:9780", "trove-conductor": "127.0.0.1:9781",
}

// address is where to listen, empty for nowhere; chosen is whether the
// configuration says so.
func (o *monitorOptions) address(program string) (address string, chosen bool) {
	switch o.Listen {
	case "":
		return usualListen[program], false
	case listenOff:
		return "", true
	}
	return o.Listen, true
}

// audit gives the log of the audit: the process's own, or a file's.
func (p *process) audit() (*slog.Logger, error) {
	path := p.c.Monitor.AuditLog
	if path == "" {
		return p.log, nil
	}
	file, err := openLogFile(path)
	if err != nil {
		return nil, trove.Errorf(trove.KindBadRequest, "cannot write the audit: %w", err).
			WithAction("make its directory, writable for the user that the service runs as, or change [gotrove] audit_log")
	}
	p.task("audit log", func(ctx context.Context) error {
		return file.follow(ctx, func(err error) { p.log.ErrorContext(ctx, "the audit's file was not opened anew", "error", err) })
	}, 0)
	return telemetry.NewLogger(file, telemetry.Options{Format: "json"})
}
