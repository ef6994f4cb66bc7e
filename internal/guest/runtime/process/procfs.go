package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// stat is what we need of /proc/<pid>/stat.
type stat struct {
	pid     int
	state   byte
	parent  int
	session int
	flags   uint64
	start   uint64 // clock ticks since boot
}

// forkedOnly is the kernel's PF_FORKNOEXEC: the process runs the program of its
// parent, so it is a child the server forked and not the server we started.
const forkedOnly = 0x40

func (s stat) ended() bool { return s.state == 'Z' || s.state == 'X' || s.state == 'x' }

// leader reports whether the process is one we started and not one of its
// children: Start makes a session and then executes a program in it. PostgreSQL
// makes a session for each child too, but executes nothing there.
func (s stat) leader() bool { return s.session == s.pid && s.flags&forkedOnly == 0 }

// readStat reads the stat of a process. gone is true if there is none.
func readStat(pid int) (s stat, gone bool, err error) {
	b, err := os.ReadFile(procPath(pid, "stat"))
	if isGone(err) {
		return stat{}, true, nil
	}
	if err != nil {
		return stat{}, false, err
	}
	s, err = parseStat(b)
	return s, false, err
}

// parseStat takes apart a line of /proc/<pid>/stat. The program's name, in
// parentheses, may itself hold blanks and parentheses.
func parseStat(b []byte) (stat, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || end < open {
		return stat{}, fmt.Errorf("malformed process stat %q", b)
	}
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 20 {
		return stat{}, fmt.Errorf("malformed process stat %q", b)
	}
	var s stat
	var errs [5]error
	s.pid, errs[0] = strconv.Atoi(strings.TrimSpace(string(b[:open])))
	s.state = f[0][0]
	s.parent, errs[1] = strconv.Atoi(f[1])
	s.session, errs[2] = strconv.Atoi(f[3])
	s.flags, errs[3] = strconv.ParseUint(f[6], 10, 64)
	s.start, errs[4] = strconv.ParseUint(f[19], 10, 64)
	return s, errors.Join(errs[:]...)
}

// tag is what marks a program in its environment.
type tag struct{ instance, program string }

func (t tag) env() []string {
	return []string{"GOTROVE_INSTANCE=" + t.instance, "GOTROVE_PROGRAM=" + t.program}
}

// maxEnviron bounds what is read of a process's environment.
const maxEnviron = 256 << 10

// on reports whether the process has the tag. A shell the server is wrapped in
// may have put the environment in another order.
func (t tag) on(pid int) bool {
	f, err := os.Open(procPath(pid, "environ"))
	if err != nil {
		return false // gone, or of another user
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxEnviron))
	if err != nil {
		return false
	}
	b = append([]byte{0}, b...)
	for _, e := range t.env() {
		if !bytes.Contains(b, []byte("\x00"+e+"\x00")) {
			return false
		}
	}
	return true
}

// processes calls f for each live process of the user.
func processes(uid uint32, f func(stat)) error {
	d, err := os.Open("/proc")
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		var st syscall.Stat_t
		if syscall.Stat("/proc/"+name, &st) != nil || st.Uid != uid {
			continue
		}
		if s, gone, err := readStat(pid); err == nil && !gone && !s.ended() {
			f(s)
		}
	}
	return nil
}

func procPath(pid int, file string) string { return "/proc/" + strconv.Itoa(pid) + "/" + file }

func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) }

func readBootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

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
