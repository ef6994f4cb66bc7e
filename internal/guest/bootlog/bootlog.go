// Package bootlog tells on a server's console how far its agent has come: one
// line for each stage, and one for each cause that keeps it from a stage. A
// cloud's console log then tells the story of an agent that never reached the
// message bus.
//
// It owns the console's file and what was told already. It never blocks and
// never fails: a console is not worth a database.
package bootlog

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
)

// Log writes to one console. A nil Log tells nobody.
type Log struct {
	path  string
	since func() time.Duration

	mu     sync.Mutex
	told   map[guestapi.BootStage]bool
	failed map[guestapi.BootStage]failures
}

// failures is what was told of a stage that is not passed.
type failures struct {
	last  string
	times int
	at    time.Duration // since the start of the machine
}

// Of a stage that fails for causes that alternate, so many lines are written at
// once, and then one in so long: a console is slow, and keeps little.
const (
	failuresAtOnce = 5
	failuresEvery  = time.Minute
)

// New is a log on the console at path; with an empty path, nil.
func New(path string) *Log {
	if path == "" {
		return nil
	}
	return &Log{path: path, since: sinceBoot, told: map[guestapi.BootStage]bool{}, failed: map[guestapi.BootStage]failures{}}
}

// sinceBoot is how long the kernel runs.
func sinceBoot() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// Reached tells that a stage is passed, the first time.
func (l *Log) Reached(s guestapi.BootStage, detail string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.told[s] {
		return
	}
	l.told[s] = true
	l.write(guestapi.BootLine{Since: l.since(), Stage: s, Detail: detail})
}

// Failed tells why a stage is not passed, a cause that stays once, others within a
// bound; nothing after it was passed.
func (l *Log) Failed(s guestapi.BootStage, err error) {
	if l == nil || err == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	was, cause, now := l.failed[s], err.Error(), l.since()
	if l.told[s] || was.last == cause || was.times >= failuresAtOnce && now-was.at < failuresEvery {
		return
	}
	l.failed[s] = failures{cause, was.times + 1, now}
	l.write(guestapi.BootLine{Since: now, Stage: s, Failed: true, Detail: cause})
}

// write opens the console for each line: whoever else has it may hang it up.
func (l *Log) write(line guestapi.BootLine) {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close()
	// It may come after half a line of somebody else's.
	_, _ = f.WriteString("\n" + line.String() + "\n")
}
