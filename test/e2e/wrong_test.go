package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// creationFails asks for an instance that cannot be made: trovectl, the fault
// and the operation each give the cause, and deleting it leaves nothing.
func (s *standalone) creationFails(datastore string, words ...string) {
	s.t.Helper()
	s.creationFailed(datastore, words...)
	s.exactly()
	s.quota(0)
}

// creationFailed is creationFails, which does not look for what is left.
func (s *standalone) creationFailed(datastore string, words ...string) {
	s.t.Helper()
	s.refuses(1, words, "instance", "create", "fails", "--datastore", datastore, "--flavor", "db.tiny", "--database", "d",
		"--user", "u", "--password-file", s.secretFile(password), "--wait", "--timeout", patience.String())
	id := s.trovectl("instance", "show", "fails", "-f", "value", "-c", "ID")
	i, err := s.show(id)
	if err != nil {
		s.t.Fatal(err)
	}
	if i.Status != "ERROR" {
		s.t.Errorf("it is %s", i.Status)
	}
	says(s.t.Errorf, "the fault", i.fault(), words...)
	var list struct{ Operations []json.RawMessage }
	if _, err := s.rest("GET", "instances/"+id+"/operations", nil, &list); err != nil {
		s.t.Fatal(err)
	}
	says(s.t.Errorf, "the operations", fmt.Sprintf("%s", list.Operations), words...)
	s.remove(id)
}

// standaloneFails starts a troved that must end with exit code 1 and say why.
func (s *standalone) standaloneFails(words ...string) {
	s.t.Helper()
	var errs bytes.Buffer
	cmd := s.troved("standalone")
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait()
	late.Stop()
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		s.t.Errorf("exit code %d", code)
	}
	says(s.t.Errorf, "troved", errs.String(), words...)
}

func TestWrongRequests(t *testing.T) {
	t.Parallel()
	s := newStandalone(t)
	if err := s.login(); err != nil {
		t.Fatal(err)
	}
	create := func(code int, words []string, name string, more ...string) {
		t.Helper()
		s.refuses(code, words, append([]string{"instance", "create", name, "--wait"}, more...)...)
	}
	tiny := []string{"--flavor", "db.tiny", "--datastore", "mariadb"}
	create(3, []string{"db.huge", "db.tiny"}, "x", "--flavor", "db.huge")
	create(3, []string{"oracle"}, "x", "--flavor", "db.tiny", "--datastore", "oracle")
	create(1, []string{"9.9"}, "x", append(tiny, "--datastore-version", "9.9")...)
	create(1, []string{"elsewhere"}, "x", append(tiny, "--nic", "elsewhere")...)
	create(1, []string{"name", "255"}, strings.Repeat("x", 256), tiny...)
	create(1, []string{"mysql"}, "x", append(tiny, "--database", "mysql")...)
	create(1, []string{"postgres"}, "x", "--flavor", "db.tiny", "--datastore", "postgresql", "--database", "postgres")
	create(1, []string{"os_admin"}, "x", append(tiny, "--user", "os_admin")...)
	create(1, []string{"size", "10"}, "x", append(tiny, "--size", "11")...)

	body := request("x", "mariadb", "")
	delete(body["instance"].(map[string]any)["users"].([]map[string]any)[0], "password")
	code, err := s.rest("POST", "instances", body, nil)
	if code != 400 {
		t.Errorf("a user without a password: %d", code)
	}
	says(t.Errorf, "a user without a password", fmt.Sprint(err), "password")
	if code, err := s.rest("POST", "instances", request("x", "mariadb", ""), nil); code != 400 {
		t.Errorf("a user with an empty password: %d, %v", code, err)
	}
	flavor := request("x", "mariadb", password)
	flavor["instance"].(map[string]any)["flavorRef"] = "77"
	code, err = s.rest("POST", "instances", flavor, nil)
	if code != 400 {
		t.Errorf("an unknown flavor: %d", code)
	}
	says(t.Errorf, "an unknown flavor", fmt.Sprint(err), "flavor", "77")

	if got := s.trovectl("instance", "list", "-f", "value"); got != "" {
		t.Errorf("there are instances: %s", got)
	}
	s.exactly()
	s.quota(0)
}

// TestEngineVanishes: the engine's program is gone when an instance is to be
// made.
func TestEngineVanishes(t *testing.T) {
	t.Parallel()
	needRoot(t)
	out, err := exec.Command(filepath.Join(bin, "trove-guestagent"), "engines").Output()
	if err != nil {
		t.Fatal(err)
	}
	var engines []struct {
		Manager string
		BinDir  string `json:"bin_dir"`
	}
	if err := json.Unmarshal(out, &engines); err != nil {
		t.Fatal(err)
	}
	dirs := map[string]string{}
	for _, e := range engines {
		dirs[e.Manager] = e.BinDir
	}
	s := prepare(t)
	s.wrap = []string{"unshare", "--mount", "--propagation", "private"}
	s.start()
	for datastore, words := range map[string][]string{"mariadb": {"mariadbd", "mariadbd"}, "postgresql": {"postgres", "PostgreSQL", "not installed"}} {
		program := filepath.Join(dirs[datastore], words[0])
		s.inside("mount", "--bind", "/dev/null", program)
		s.creationFails(datastore, words[1:]...)
		s.inside("umount", program)
		i := s.create("works-"+datastore, datastore, password)
		s.remove(i.ID)
	}
	s.exactly()
}

// inside runs a program in the mount namespace of troved.
func (s *standalone) inside(name string, args ...string) {
	s.t.Helper()
	args = append([]string{fmt.Sprintf("--mount=/proc/%d/ns/mnt", s.cmd.Process.Pid), name}, args...)
	if out, err := exec.Command("nsenter", args...).CombinedOutput(); err != nil {
		s.t.Fatalf("nsenter %v: %v: %s", args, err, out)
	}
}

// TestPortTaken: others listen on the engine's port.
func TestPortTaken(t *testing.T) {
	t.Parallel()
	s := newStandalone(t)
	listen := func(port string, host int) {
		t.Helper()
		l, err := net.Listen("tcp", fmt.Sprintf("%s%d:%s", s.addrs, host, port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
	listen("3306", 1)
	i := s.create("second", "mariadb", password)
	if i.Address != s.addrs+"2" {
		t.Errorf("it is at %s", i.Address)
	}
	s.remove(i.ID)
	for host := 1; host < 255; host++ {
		if host > 1 {
			listen("3306", host)
		}
		listen("5432", host)
	}
	s.creationFails("mariadb", "port 3306")
	s.creationFails("postgresql", "port 5432")
}

// mount puts a file system of its own under the data directory.
func (s *standalone) mount(options string) {
	s.t.Helper()
	needRoot(s.t)
	if err := os.Mkdir(s.home, 0o711); err != nil {
		s.t.Fatal(err)
	}
	if err := syscall.Mount("none", s.home, "tmpfs", 0, "mode=711,"+options); err != nil {
		s.t.Skipf("this machine does not let us mount: %v", err)
	}
	s.mounted = true
}

func TestReadOnly(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := prepare(t)
	s.mount("size=1g")
	s.start()
	i := s.create("before", "postgresql", password)
	s.fill(i, password, 10)
	s.stop()
	remount := func(flags uintptr) {
		t.Helper()
		if err := syscall.Mount("none", s.home, "", syscall.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	remount(syscall.MS_RDONLY)
	s.standaloneFails(s.home, "read-only")
	if left := s.processes(); len(left) > 0 {
		t.Errorf("left running: %+v", left)
	}
	remount(0)
	s.start()
	s.unharmed(i, 10)
}

// TestForbidden: the data directory is somebody else's.
func TestForbidden(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := prepare(t)
	if err := os.Mkdir(s.home, 0o755); err != nil {
		t.Fatal(err)
	}
	s.unprivileged()
	s.standaloneFails(s.home, "another user")
	s.holds(s.home, nil)
}

func TestSecondStandalone(t *testing.T) {
	t.Parallel()
	s := newStandalone(t)
	i := s.create("first", "postgresql", password)
	s.standaloneFails(fmt.Sprintf("pid %d", s.cmd.Process.Pid), s.home, "What to do")
	s.serving(i.ID)
	s.exactly(i)
}

func TestBusyPort(t *testing.T) {
	t.Parallel()
	s := prepare(t)
	for port, option := range map[int]string{s.api: "--listen", s.id: "--identity-listen"} {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		s.standaloneFails(l.Addr().String(), "address already in use", "What to do", option)
		l.Close()
	}
	s.start() // with the same data
}
