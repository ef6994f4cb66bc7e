package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// process is an agent, an engine, or something that one of them started.
type process struct {
	pid, parent int
	instance    string
	agent       bool
}

var instancePath = regexp.MustCompile(`/instances/([0-9a-f-]{36})`)

// processes finds all of this standalone's but troved, without what the product
// itself goes by: a process counts if it has to do with our data.
func (s *standalone) processes() []process {
	var found []process
	for _, dir := range glob("/proc/[0-9]*") {
		var p process
		if _, err := fmt.Sscanf(filepath.Base(dir), "%d", &p.pid); err != nil {
			continue
		}
		cmdline, _ := os.ReadFile(dir + "/cmdline")
		cwd, _ := os.Readlink(dir + "/cwd")
		about := string(cmdline) + "\x00" + cwd
		at := strings.Index(about, s.home+"/")
		if at < 0 || s.cmd != nil && p.pid == s.cmd.Process.Pid {
			continue
		}
		if id := instancePath.FindStringSubmatch(about[at:]); id != nil {
			p.instance = id[1]
		}
		stat, _ := os.ReadFile(dir + "/stat")
		_, rest, _ := strings.Cut(string(stat), ") ")
		var state string
		if _, err := fmt.Sscan(rest, &state, &p.parent); err != nil || state == "Z" {
			continue
		}
		program, _, _ := strings.Cut(string(cmdline), "\x00")
		p.agent = filepath.Base(program) == "trove-guestagent"
		found = append(found, p)
	}
	return found
}

// pids are those of an instance's agent and engine; an error unless there is
// one of each.
func (s *standalone) pids(id string) (agent, engine int, err error) {
	var agents, engines []int
	all := s.processes()
	for _, p := range all {
		child := slices.ContainsFunc(all, func(q process) bool { return q.pid == p.parent && q.agent == p.agent })
		switch {
		case p.instance != id || child: // engines have many
		case p.agent:
			agents = append(agents, p.pid)
		default:
			engines = append(engines, p.pid)
		}
	}
	if len(agents) != 1 || len(engines) != 1 {
		return 0, 0, fmt.Errorf("instance %s has the agents %v and the engines %v", id, agents, engines)
	}
	return agents[0], engines[0], nil
}

func (s *standalone) mustPIDs(id string) (agent, engine int) {
	s.t.Helper()
	agent, engine, err := s.pids(id)
	if err != nil {
		s.t.Fatal(err)
	}
	return agent, engine
}

// signal signals one process that must be there.
func (s *standalone) signal(pid int, sig syscall.Signal) {
	s.t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		s.t.Fatalf("signal %d to pid %d: %v", sig, pid, err)
	}
}

// killEverything kills agents, engines and all they started.
func (s *standalone) killEverything() {
	s.t.Helper()
	s.eventually("all processes are gone", func() error {
		left := s.processes()
		// First the agents: they would start engines again.
		slices.SortFunc(left, func(a, b process) int {
			switch {
			case a.agent && !b.agent:
				return -1
			case b.agent && !a.agent:
				return 1
			}
			return 0
		})
		for _, p := range left {
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
		}
		if len(left) > 0 {
			return fmt.Errorf("still there: %+v", left)
		}
		return nil
	})
}

// exactly checks that the machine holds what these instances need and nothing
// else: processes, directories, addresses, sockets.
func (s *standalone) exactly(instances ...instance) {
	s.t.Helper()
	var ids, addresses, short []string
	for _, i := range instances {
		ids, addresses = append(ids, i.ID), append(addresses, i.Address)
		short = append(short, strings.ReplaceAll(i.ID, "-", "")[:12])
		if _, _, err := s.pids(i.ID); err != nil {
			s.t.Error(err)
		}
	}
	s.eventually("no other process is left", func() error {
		for _, p := range s.processes() {
			if !slices.Contains(ids, p.instance) {
				return fmt.Errorf("%+v", p)
			}
		}
		return nil
	})
	for dir, want := range map[string][]string{
		s.home + "/instances": ids, s.home + "/addresses": addresses, s.run: append(short, "bus.sock"),
	} {
		s.holds(dir, want)
	}
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/memory"} {
		for _, p := range s.leftovers(root, ids) {
			s.t.Errorf("a control group is left: %s", p)
		}
	}
}

// leftovers are control groups of instances that were deleted. Others use that
// place too, so nothing is said of groups of ids we do not know.
func (s *standalone) leftovers(root string, live []string) []string {
	var left []string
	for _, id := range s.deleted {
		if !slices.Contains(live, id) {
			left = append(left, glob(root+"/gotrove/"+id)...)
			left = append(left, glob(root+"/*/gotrove/"+id)...)
		}
	}
	return left
}

// holds checks what is in a directory.
func (s *standalone) holds(dir string, want []string) {
	s.t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		s.t.Error(err)
	}
	var have []string
	for _, e := range entries {
		have = append(have, e.Name())
	}
	slices.Sort(have)
	want = slices.Sorted(slices.Values(want))
	if !slices.Equal(have, want) {
		s.t.Errorf("%s holds\n%s\ninstead of\n%s", dir, strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
}
