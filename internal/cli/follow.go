package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/apiclient"
	"github.com/gotrove/gotrove/internal/trove"
)

// pollInterval is how often an API without events is asked, and how long a
// broken event stream is left alone before it is taken up again.
const pollInterval = time.Second

// operationsBefore are the operations that a watcher is to pass over, since
// they were there before the one asked for.
func (a *app) operationsBefore(ctx context.Context, c *apiclient.Client, id string) map[string]bool {
	before := map[string]bool{}
	all, err := c.Operations(ctx, id)
	if err != nil {
		return before // an API without operations
	}
	for _, o := range all {
		before[o.ID] = true
	}
	return before
}

// follow shows the steps of an operation until it has ended and ready says the
// instance is as it was asked for; a nil ready waits for the instance to be
// gone. It fails with the cause if the operation does.
func (a *app) follow(ctx context.Context, c *apiclient.Client, id, kind string, before map[string]bool, ready func(*apiclient.Instance) bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, a.timeout, context.DeadlineExceeded)
	defer cancel()
	line := newLine(a, kind)
	defer line.close()

	var after int64
	ended := false // the operation has; the instance may follow a moment later
	for {
		var failure, err error
		watch := func(e apiclient.Event) bool {
			if e.Kind != kind || before[e.OperationID] {
				return true
			}
			line.event(e)
			if e.Step != "" || !trove.OperationState(e.State).Finished() {
				return true
			}
			ended = true
			if e.State != string(trove.OperationDone) {
				failure = &trove.Error{Kind: trove.KindInternal, Action: e.Action,
					Message: fmt.Sprintf("%s %s: %s", kind, e.State, orSay(e.Cause, "no cause was given"))}
			}
			return false
		}
		pause := pollInterval
		if ended {
			pause /= 4
		} else {
			after, err = c.Watch(ctx, id, after, watch)
		}
		if failure != nil {
			return failure
		}
		i, getErr := c.Instance(ctx, id)
		switch {
		case ready == nil && trove.IsKind(getErr, trove.KindNotFound):
			return nil
		case getErr == nil && ready != nil && ready(i) && (ended || err != nil):
			return nil
		case getErr == nil && i.Status == "ERROR":
			return &trove.Error{Kind: trove.KindInternal, Message: "The instance is in ERROR: " + faultOf(i)}
		case getErr != nil && !trove.IsKind(getErr, trove.KindUnavailable):
			if ctx.Err() == nil {
				return getErr
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", kind, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// until waits for an instance to serve, whatever is being done to it. One that
// is in ERROR is given up.
func (a *app) until(ctx context.Context, c *apiclient.Client, id string) error {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	for {
		i, err := c.Instance(ctx, id)
		switch {
		case err != nil && !trove.IsKind(err, trove.KindUnavailable):
			return err
		case err == nil && i.Ready():
			return nil
		case err == nil && i.Status == "ERROR":
			return &trove.Error{Kind: trove.KindInternal, Message: "The instance is in ERROR: " + faultOf(i)}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the instance to serve: %w", ctx.Err())
		case <-time.After(pollInterval / 4):
		}
	}
}

func faultOf(i *apiclient.Instance) string {
	if i.Fault == nil {
		return "no cause is known"
	}
	return i.Fault.Message
}

func orSay(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// line is the progress line: on a terminal one line that is rewritten as time
// passes, elsewhere a line for each step that ended.
type line struct {
	a       *app
	kind    string
	started time.Time
	events  chan apiclient.Event
	done    chan struct{}
}

func newLine(a *app, kind string) *line {
	l := &line{a: a, kind: kind, started: time.Now(), events: make(chan apiclient.Event, 16), done: make(chan struct{})}
	go l.draw()
	return l
}

func (l *line) event(e apiclient.Event) { l.events <- e }

func (l *line) close() {
	close(l.events)
	<-l.done
}

func (l *line) draw() {
	defer close(l.done)
	var current apiclient.Event
	stepStarted := l.started
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case e, open := <-l.events:
			if !open {
				l.rewrite("")
				return
			}
			if e.Step == "" {
				current = apiclient.Event{}
				continue
			}
			if e.Step != current.Step {
				stepStarted = time.Now()
			}
			current = e
			if trove.OperationState(e.State).Finished() {
				l.ended(e, time.Since(stepStarted))
				current = apiclient.Event{}
			}
		case <-tick.C:
		}
		if l.a.Live {
			l.rewrite(l.text(current))
		}
	}
}

func (l *line) text(e apiclient.Event) string {
	s := fmt.Sprintf("  %5.1fs  %s", time.Since(l.started).Seconds(), orSay(label(e.Step), l.kind))
	if e.Message != "" {
		s += ": " + visible(e.Message)
	}
	if p := e.Progress; p != nil {
		if p.Total > 0 {
			s += fmt.Sprintf(" %d%%", p.Done*100/p.Total)
		} else if p.Done > 0 {
			s += fmt.Sprintf(" %d %s", p.Done, p.Unit)
		}
	}
	return s
}

func (l *line) ended(e apiclient.Event, took time.Duration) {
	mark := l.a.green("done")
	if e.State != string(trove.OperationDone) {
		mark = l.a.red(e.State)
	}
	l.rewrite("")
	fmt.Fprintf(l.a.Err, "  %5.1fs  %-28s %s  %.2fs\n", time.Since(l.started).Seconds(), label(e.Step), mark, took.Seconds())
}

// rewrite replaces the live line.
func (l *line) rewrite(s string) {
	if !l.a.Live {
		return
	}
	const width = 100
	if r := []rune(s); len(r) > width {
		s = string(r[:width-1]) + "…"
	}
	fmt.Fprint(l.a.Err, "\r\x1b[2K", s)
}

func label(step string) string { return strings.ReplaceAll(step, "_", " ") }
