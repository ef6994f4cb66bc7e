package guest

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/gotrove/gotrove/internal/durable"
)

const (
	logsEvery = time.Minute
	// maxLog is how long an engine's log may be before it is cut, in bytes.
	maxLog = 8 << 20
)

// watchLogs keeps the engine's logs short until ctx ends: they are no part of
// the volume, so that nothing else bounds them.
func watchLogs(ctx context.Context, dir string, log *slog.Logger) {
	if dir == "" {
		return
	}
	timer := time.NewTimer(jitter(logsEvery))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		cutLogs(dir, maxLog, log)
		timer.Reset(jitter(logsEvery))
	}
}

// cutLogs cuts the logs in dir that are longer than limit bytes. The runtime
// opens them for appending.
func cutLogs(dir string, limit int64, log *slog.Logger) {
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		log.Warn("the engine's logs cannot be listed", "error", err)
	}
	for _, path := range logs {
		if err := durable.CutLog(path, limit); err != nil {
			log.Warn("the engine's log is not kept short", "log", path, "error", err)
		}
	}
}
