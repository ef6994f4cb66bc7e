package server

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/gotrove/gotrove/internal/trove"
)

// logOptions say where a process logs, with oslo.log's names.
type logOptions struct {
	Debug     bool   `conf:"DEFAULT.debug" default:"false"`
	File      string `conf:"DEFAULT.log_file" deprecated:"DEFAULT.logfile" default:""`
	Dir       string `conf:"DEFAULT.log_dir" deprecated:"DEFAULT.logdir" default:""`
	JSON      bool   `conf:"DEFAULT.use_json" default:"true"`
	UseStderr bool   `conf:"DEFAULT.use_stderr" default:"false"`
}

// path is the log's file as oslo.log finds it; empty if there is none.
func (o *logOptions) path(program string) string {
	switch {
	case o.File != "" && (o.Dir == "" || filepath.IsAbs(o.File)):
		return o.File
	case o.File != "":
		return filepath.Join(o.Dir, o.File)
	case o.Dir != "":
		return filepath.Join(o.Dir, program+".log")
	}
	return ""
}

// format is telemetry's name for the form of lines.
func (o *logOptions) format() string {
	if o.JSON {
		return ""
	}
	return "text"
}

// open gives what to log to: errs, or the file, which is closed and opened anew
// by its Reopen. file is nil if there is none.
func (o *logOptions) open(program string, errs io.Writer) (w io.Writer, file *logFile, err error) {
	path := o.path(program)
	if path == "" {
		return errs, nil, nil
	}
	if file, err = openLogFile(path); err != nil {
		return nil, nil, trove.Errorf(trove.KindBadRequest, "cannot write the log: %w", err).
			WithAction("make its directory, writable for the user that the service runs as, or change [DEFAULT] log_file or log_dir")
	}
	if o.UseStderr {
		return io.MultiWriter(errs, file), file, nil
	}
	return file, file, nil
}

// logFile is a file that is appended to and can be rotated from outside.
type logFile struct {
	path string
	hup  chan os.Signal

	mu sync.Mutex
	f  *os.File
}

// openLogFile opens a file, and from now on a SIGHUP does not end the process:
// it waits for follow.
func openLogFile(path string) (*logFile, error) {
	l := &logFile{path: path, hup: make(chan os.Signal, 1)}
	if err := l.Reopen(); err != nil {
		return nil, err
	}
	signal.Notify(l.hup, syscall.SIGHUP)
	return l, nil
}

// Write appends to the file.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Write(p)
}

// Reopen goes on in the file that has the name now. If that fails it stays with
// the one it has.
func (l *logFile) Reopen() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != nil {
		err = l.f.Close()
	}
	l.f = f
	return err
}

// follow opens the file anew on each SIGHUP until ctx ends.
func (l *logFile) follow(ctx context.Context, failed func(error)) error {
	defer signal.Stop(l.hup)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.hup:
			if err := l.Reopen(); err != nil {
				failed(errors.Join(errors.New("the log goes on in the old file"), err))
			}
		}
	}
}
