package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gotrove/gotrove/internal/proc"
)

// machine is what the figures were measured on.
type machine struct {
	cpu     string
	memory  string
	kernel  string
	disk    string
	load    string // at the start
	busy    bool
	engines []string
}

func lookAround() machine {
	m := machine{cpu: field("/proc/cpuinfo", "model name"), memory: field("/proc/meminfo", "MemTotal"), load: "unknown"}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.kernel = unix.ByteSliceToString(u.Release[:])
	}
	var st unix.Statfs_t
	if unix.Statfs(os.TempDir(), &st) == nil {
		m.disk = fmt.Sprintf("%s, file system type 0x%x", os.TempDir(), st.Type)
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		words := strings.Fields(string(b))
		m.load = strings.Join(words[:min(3, len(words))], " ")
		one, err := strconv.ParseFloat(words[0], 64)
		// Whoever else wants a core takes it from what is measured.
		m.busy = err == nil && one > 0.25*float64(runtime.NumCPU())
	}
	return m
}

// field is the value of the first line of a file that starts with name.
func field(file, name string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

func (m machine) String() string {
	s := fmt.Sprintf("Measured on: %s, %d cores, %s of memory; Linux %s; data in %s; %s; %s.\nLoad average at the start: %s",
		m.cpu, runtime.NumCPU(), m.memory, m.kernel, m.disk, runtime.Version(), strings.Join(m.engines, ", "), m.load)
	if m.busy {
		s += " — HIGH: other programs were using the cores, so every time above is longer than it would be on an idle machine"
	}
	return s + ".\n"
}

// rss is the resident memory of a process in MiB.
func rss(pid int) (float64, error) {
	v := field("/proc/"+strconv.Itoa(pid)+"/status", "VmRSS")
	kb, err := strconv.Atoi(strings.TrimSuffix(v, " kB"))
	if err != nil {
		return 0, fmt.Errorf("resident memory of process %d: %w", pid, err)
	}
	return float64(kb) / 1024, nil
}

// tick is the kernel's unit of CPU time in /proc.
const tick = 10 * time.Millisecond

// cpu is what a process and the children it has waited for have used; 0 of one
// that is gone.
func cpu(pid int) time.Duration {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	words := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	var ticks int
	for _, w := range words[11:15] { // utime, stime, cutime, cstime
		n, _ := strconv.Atoi(w)
		ticks += n
	}
	return time.Duration(ticks) * tick
}

// family gives the agent, and all processes of an instance, it included.
func family(id string) (agent int, all []int, err error) {
	found, err := proc.Tree("GOTROVE_INSTANCE=" + id)
	for _, p := range found {
		all = append(all, p.PID)
		b, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/cmdline")
		program, _, _ := strings.Cut(string(b), "\x00")
		if err == nil && filepath.Base(program) == "trove-guestagent" && p.Stat.Leader() {
			agent = p.PID
		}
	}
	if agent == 0 && err == nil {
		err = errors.New("the agent of instance " + id + " does not run")
	}
	return agent, all, err
}

// size of a file in MiB.
func size(path string) (float64, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("%w: run make build first", err)
	}
	if err != nil {
		return 0, err
	}
	return float64(st.Size()) / (1 << 20), nil
}
