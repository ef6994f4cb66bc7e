package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/gotrove/gotrove/internal/apiclient"
	"github.com/gotrove/gotrove/internal/proc"
	"github.com/gotrove/gotrove/internal/proc/porttest"
)

const (
	serveWait = 60 * time.Second
	stopWait  = 2 * time.Minute
)

// standalone is a troved with data, ports and addresses of its own.
type standalone struct {
	bin, dir string
	health   string // URL
	cmd      *exec.Cmd
	ended    chan error
	log      *os.File
	api      *apiclient.Client
}

// extra are more lines of its group [gotrove].
func newStandalone(bin string, extra ...string) (*standalone, error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	// The engines' user must be able to pass, and a socket's path is short.
	dir, err := os.MkdirTemp("", "gtb")
	if err != nil {
		return nil, err
	}
	s := &standalone{bin: bin, dir: dir}
	if err := s.configure(extra); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

func (s *standalone) configure(extra []string) error {
	if err := os.Chmod(s.dir, 0o755); err != nil {
		return err
	}
	api, err := porttest.Free()
	if err != nil {
		return err
	}
	identity, err := porttest.Free()
	if err != nil {
		return err
	}
	s.health = fmt.Sprintf("http://127.0.0.1:%d/healthcheck", api)
	config := fmt.Sprintf(`[DEFAULT]
bind_port = %d
max_instances_per_tenant = 100
max_volumes_per_tenant = 400
[gotrove]
identity_port = %d
data_dir = %s
run_dir = %s
loopback_range = 127.%d.0.0/16
rate_per_minute = -1
engine_user = nobody
%s
`, api, identity, s.home(), filepath.Join(s.dir, "run"), 140+os.Getpid()%60, strings.Join(extra, "\n"))
	if err := os.WriteFile(s.config(), []byte(config), 0o644); err != nil {
		return err
	}
	s.log, err = os.Create(filepath.Join(s.dir, "log"))
	return err
}

func (s *standalone) home() string   { return filepath.Join(s.dir, "home") }
func (s *standalone) config() string { return filepath.Join(s.dir, "troved.conf") }

// start starts troved and gives the time until its API answered 200.
func (s *standalone) start(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, serveWait)
	defer cancel()
	s.cmd = exec.Command(filepath.Join(s.bin, "troved"), "standalone", "--config-file", s.config())
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "LANG=C.UTF-8"}
	began := time.Now()
	if err := s.cmd.Start(); err != nil {
		return 0, err
	}
	s.ended = make(chan error, 1)
	go func() { s.ended <- s.cmd.Wait() }()
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.health, nil)
		if err != nil {
			return 0, err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return time.Since(began), nil
			}
		}
		select {
		case err := <-s.ended:
			s.cmd = nil
			return 0, fmt.Errorf("troved ended: %w", err)
		case <-ctx.Done():
			return 0, fmt.Errorf("troved does not serve: %w", ctx.Err())
		case <-again.C:
		}
	}
}

// stop ends troved, its agents and its engines.
func (s *standalone) stop() error {
	if s.cmd == nil {
		return nil
	}
	defer func() { s.cmd = nil }()
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	wait := time.NewTimer(stopWait)
	defer wait.Stop()
	select {
	case err := <-s.ended:
		return err
	case <-wait.C:
		_ = s.cmd.Process.Kill()
		return errors.New("troved did not stop and was killed")
	}
}

// remove stops everything and leaves nothing.
func (s *standalone) remove() error {
	err := s.stop()
	ids, _ := filepath.Glob(s.home() + "/instances/*")
	ctx, cancel := context.WithTimeout(context.Background(), stopWait)
	defer cancel()
	for _, id := range ids {
		err = errors.Join(err, proc.Kill(ctx, func() ([]proc.Process, error) {
			return proc.Tree("GOTROVE_INSTANCE=" + filepath.Base(id))
		}))
	}
	return errors.Join(err, s.log.Close(), os.RemoveAll(s.dir))
}

func (s *standalone) printLog(to io.Writer) {
	if b, err := os.ReadFile(s.log.Name()); err == nil {
		_, _ = to.Write(b)
	}
}

// login makes the client of the API, as a person with the openrc would.
func (s *standalone) login(ctx context.Context) error {
	b, err := os.ReadFile(filepath.Join(s.home(), "openrc"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		if kv, ok := strings.CutPrefix(strings.TrimSpace(line), "export "); ok {
			k, v, _ := strings.Cut(kv, "=")
			if err := os.Setenv(k, strings.Trim(v, `"'`)); err != nil {
				return err
			}
		}
	}
	s.api, err = apiclient.New(ctx, "")
	return err
}

// engines gives the versions that instances are made of.
func (s *standalone) engines(ctx context.Context) ([]string, error) {
	stores, err := s.api.Datastores(ctx)
	var out []string
	for _, d := range stores {
		for _, v := range d.Versions {
			if v.ID == d.DefaultVersion {
				out = append(out, d.Name+" "+v.Name)
			}
		}
	}
	return out, err
}

const startRounds = 5

// starts measures starts and leaves a troved running, logged in.
func (b *bench) starts(ctx context.Context, s *standalone) error {
	first, err := s.start(ctx)
	if err != nil {
		return err
	}
	if b.wants("start") {
		if err := b.info("troved_first_start", first.Seconds(), "s", "in an empty directory: database, keys and users are made"); err != nil {
			return err
		}
		var times []float64
		for range startRounds {
			if err := s.stop(); err != nil {
				return err
			}
			took, err := s.start(ctx)
			if err != nil {
				return err
			}
			times = append(times, took.Seconds())
		}
		if err := b.most("troved_start", median(times), "s", "<", 0.5,
			fmt.Sprintf("exec to the first 200 of /healthcheck, median of %d fresh processes, data directory there", startRounds)); err != nil {
			return err
		}
	}
	return s.login(ctx)
}
