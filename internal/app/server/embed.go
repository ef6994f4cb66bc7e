package server

import (
	"context"
	"io"
	"time"

	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/trove"
)

// RunRole runs a role by its program's name until ctx ends, as its command
// does, with a clock of the caller's: for tests, in which the time of one
// process jumps. It logs to log, and calls ready when it serves.
func RunRole(ctx context.Context, program string, src osloconf.Sources, clock func() time.Time, log io.Writer, ready func()) error {
	for _, r := range roles {
		if r.name != program {
			continue
		}
		c, warnings, err := LoadConfig(src, false)
		if err != nil {
			return err
		}
		p, err := newProcess(ctx, r.name, c, warnings, log)
		if err != nil {
			return err
		}
		p.clock = clock
		return run(ctx, p, "test", func(ctx context.Context) ([]any, error) { return r.start(ctx, p) }, ready)
	}
	return trove.Errorf(trove.KindBadRequest, "there is no role %q", program)
}
