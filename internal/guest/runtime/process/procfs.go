package process

import (
	"os"
	"strconv"
	"strings"
)

// tag is what marks a program in its environment.
type tag struct{ instance, program string }

func (t tag) env() []string {
	return []string{"GOTROVE_INSTANCE=" + t.instance, "GOTROVE_PROGRAM=" + t.program}
}

func procPath(pid int, file string) string { return "/proc/" + strconv.Itoa(pid) + "/" + file }

// protectAgent raises a program's out-of-memory score to 0 where it inherited
// a lower one: in a shared memory limit the server must go, not the agent that
// restarts it. Raising needs no right.
func protectAgent(pid int) {
	path := procPath(pid, "oom_score_adj")
	b, err := os.ReadFile(path)
	if err != nil {
		return
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && n < 0 {
		_ = os.WriteFile(path, []byte("0"), 0) // best effort: it only decides who goes first
	}
}

// oomKills counts the processes the kernel has killed for memory in our own
// control group, which programs we start share; ok is false where it is not told.
func oomKills() (n uint64, ok bool) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return 0, false
	}
	for _, path := range oomCounters(string(b)) {
		c, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(c)) {
			if v, found := strings.CutPrefix(line, "oom_kill "); found {
				n, err = strconv.ParseUint(strings.TrimSpace(v), 10, 64)
				return n, err == nil
			}
		}
	}
	return 0, false
}

// oomCounters names the files that may hold the count, from /proc/self/cgroup.
func oomCounters(cgroup string) []string {
	var paths []string
	for line := range strings.Lines(cgroup) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) != 3 {
			continue
		}
		switch {
		case part[1] == "":
			paths = append(paths, "/sys/fs/cgroup"+part[2]+"/memory.events")
		case part[1] == "memory":
			paths = append(paths, "/sys/fs/cgroup/memory"+part[2]+"/memory.oom_control")
		}
	}
	return paths
}
