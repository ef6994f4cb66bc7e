package region

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Names of the roles.
const (
	API         = "trove-api"
	TaskManager = "trove-taskmanager"
	Conductor   = "trove-conductor"
)

// Service is a process of a role.
type Service struct {
	Role string
	Name string // its name on the bus and of its log
	URL  string // of an API
	// Bin is where its program is, if not where those of the others are.
	Bin string
	// Env is added to its environment: options, as OS_<GROUP>__<OPTION>=value.
	Env []string
	// Wrap is a command that runs it, such as one that changes the namespace.
	Wrap []string

	r    *Region
	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
	life int // odd: it serves
}

// Start starts a service and returns when it serves. It is stopped when the
// test ends.
func (r *Region) Start(role string, env ...string) *Service {
	r.TB.Helper()
	s := r.NewService(role, env...)
	if err := s.Start(); err != nil {
		r.TB.Fatal(err)
	}
	return s
}

// NewService is a service that does not run yet.
func (r *Region) NewService(role string, env ...string) *Service {
	r.TB.Helper()
	n := 1
	for _, s := range r.services {
		if s.Role == role {
			n++
		}
	}
	s := &Service{Role: role, Name: fmt.Sprintf("%s-%d", strings.TrimPrefix(role, "trove-"), n), Env: env, r: r}
	s.Env = append(s.Env, "OS_DEFAULT__HOST="+s.Name)
	if role == API {
		port := FreePort(r.TB)
		s.URL = fmt.Sprintf("http://127.0.0.1:%d", port)
		s.Env = append(s.Env, "OS_DEFAULT__BIND_PORT="+strconv.Itoa(port))
	}
	r.services = append(r.services, s)
	return s
}

// Services are those that NewService made.
func (r *Region) Services() []*Service { return r.services }

// Log is where the service writes.
func (s *Service) Log() string { return filepath.Join(s.r.Dir, s.Name+".log") }

// PID is the process's, 0 if it does not run.
func (s *Service) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return 0
	}
	return s.cmd.Process.Pid
}

// Life is a number that is the same for as long as the service serves without a
// break; serves is whether it does.
func (s *Service) Life() (life int, serves bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.life, s.life%2 == 1
}

// turn says that it begins, or ends, to serve.
func (s *Service) turn(serves bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if serves != (s.life%2 == 1) {
		s.life++
	}
}

// Start runs the service and returns when it says that it serves.
func (s *Service) Start() error {
	words := filepath.Join(s.r.Dir, s.Name+".notify")
	_ = os.Remove(words)
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: words, Net: "unixgram"})
	if err != nil {
		return err
	}
	out, err := os.OpenFile(s.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return errors.Join(err, notify.Close())
	}
	defer out.Close()
	args := append(append([]string{}, s.Wrap...), filepath.Join(cmp.Or(s.Bin, s.r.bin), s.Role), "--config-file", s.r.Config)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.r.Dir, "NOTIFY_SOCKET=" + words}, s.Env...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return errors.Join(err, notify.Close())
	}
	done := make(chan struct{})
	s.mu.Lock()
	s.cmd, s.done = cmd, done
	s.mu.Unlock()
	go func() {
		_ = cmd.Wait()
		s.mu.Lock()
		if s.cmd == cmd {
			s.cmd = nil
		}
		s.mu.Unlock()
		close(done)
		notify.Close()
	}()
	if err := notify.SetReadDeadline(time.Now().Add(Patience)); err != nil {
		return err
	}
	for b := make([]byte, 64); ; {
		n, err := notify.Read(b)
		if err != nil {
			return fmt.Errorf("%s does not serve: %w\n%s", s.Name, err, Tail(s.Log(), 4000))
		}
		if string(b[:n]) == "READY=1" {
			// It goes on listening, until the process is gone.
			s.turn(true)
			return notify.SetReadDeadline(time.Time{})
		}
	}
}

// Kill ends the service as a power cut would, and waits until it is gone.
func (s *Service) Kill() { s.end(syscall.SIGKILL) }

// Stop ends the service as an operator does.
func (s *Service) Stop() { s.end(syscall.SIGTERM) }

func (s *Service) end(sig syscall.Signal) {
	s.mu.Lock()
	cmd, done := s.cmd, s.done
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	s.turn(false)
	_ = cmd.Process.Signal(sig)
	select {
	case <-done:
	case <-time.After(Patience):
		s.r.TB.Errorf("%s did not stop", s.Name)
		_ = cmd.Process.Kill()
		<-done
	}
}

// Signal sends a signal, for instance to freeze it.
func (s *Service) Signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(sig)
	}
}

func (r *Region) stopServices() {
	var wg sync.WaitGroup
	for _, s := range r.services {
		wg.Go(func() {
			s.Signal(syscall.SIGCONT)
			s.Stop()
		})
	}
	wg.Wait()
	if r.TB.Failed() {
		for _, s := range r.services {
			r.TB.Logf("log of %s:\n%s", s.Name, Tail(s.Log(), 6000))
		}
	}
}

// killInstances ends what still runs of instances: agents and engines outlive
// the services.
func (r *Region) killInstances() {
	for _, pid := range r.InstanceProcesses() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	if err := Until(context.Background(), func() error {
		if left := r.InstanceProcesses(); len(left) > 0 {
			return fmt.Errorf("processes %v are left", left)
		}
		return nil
	}); err != nil {
		r.TB.Error(err)
	}
}

// InstanceProcesses are the processes of this region's instances: agents and
// engines, which all name its directory or are tagged with their instance.
func (r *Region) InstanceProcesses() (pids []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	data := filepath.Join(r.Dir, "data")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		cwd, _ := os.Readlink(filepath.Join("/proc", e.Name(), "cwd"))
		if strings.Contains(string(cmdline), data+"/") || strings.HasPrefix(cwd, data+"/") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Tail is the end of a file.
func Tail(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(b) > n {
		b = b[len(b)-n:]
	}
	return string(b)
}

// Until tries f until it succeeds; its last error is returned when ctx or
// Patience ends.
func Until(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}

// Must fails the test unless f succeeds in time.
func Must(tb testing.TB, f func() error) {
	tb.Helper()
	if err := Until(context.Background(), f); err != nil {
		tb.Fatal(err)
	}
}
