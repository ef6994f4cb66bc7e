package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/trove"
)

const (
	// checkWait bounds one check; they run at the same time.
	checkWait = 20 * time.Second

	// widest is how many characters of a message are in one line.
	widest = 100

	slowClock  = 2 * time.Second
	wrongClock = 30 * time.Second
)

// status is the result of a check.
type status string

const (
	statusOK   status = "OK"
	statusWarn status = "WARN"
	statusFail status = "FAIL"
	statusSkip status = "SKIP"
)

// finding is one thing that a check found out.
type finding struct {
	Check   string `json:"check"`
	Status  status `json:"status"`
	Message string `json:"message"`
	// Action is what to do about it.
	Action string `json:"action,omitempty"`
}

// doctor examines what services need, from where they will need it. It changes
// nothing that stays.
type doctor struct {
	c        *Config
	src      osloconf.Sources
	warnings []osloconf.Warning
	log      *slog.Logger
	clock    func() time.Time
	// lookEvery is how often a throw-away guest is looked at; guestLook if 0.
	lookEvery time.Duration
}

// check is one prerequisite, or several that are found out about together.
type check struct {
	name  string
	roles string // that need it, by the first letters of their names: "atc"
	run   func(d *doctor, ctx context.Context, r *report)
}

// checks are in the order in which they are told.
var checks = []check{
	{"files", "atc", (*doctor).checkFiles},
	{"options", "atc", (*doctor).checkOptions},
	{"keys", "atc", (*doctor).checkKeys},
	{"database", "atc", (*doctor).checkDatabase},
	{"broker", "atc", (*doctor).checkBroker},
	{"management", "tc", (*doctor).checkManagement},
	{"guest file", "t", (*doctor).checkGuestFile},
	{"keystone", "a", (*doctor).checkKeystone},
	{"policy", "a", (*doctor).checkPolicy},
	{"cloud", "at", (*doctor).checkCloud},
}

// report is what a check finds.
type report struct {
	check string
	mu    sync.Mutex
	found []finding
}

func (r *report) add(s status, action, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.found = append(r.found, finding{r.check, s, fmt.Sprintf(format, args...), action})
}

func (r *report) ok(format string, args ...any)           { r.add(statusOK, "", format, args...) }
func (r *report) skip(format string, args ...any)         { r.add(statusSkip, "", format, args...) }
func (r *report) warn(action, format string, args ...any) { r.add(statusWarn, action, format, args...) }
func (r *report) fail(action, format string, args ...any) { r.add(statusFail, action, format, args...) }

// broken is fail with an error, which may know what to do; else action says it.
func (r *report) broken(err error, action string) {
	if own := trove.ActionOf(err); own != "" {
		action = own
	}
	r.fail(action, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
}

// examine runs the checks that roles need, at the same time, and gives what they
// found in their order.
func (d *doctor) examine(ctx context.Context, roles string) []finding {
	var wg sync.WaitGroup
	reports := make([]*report, len(checks))
	for i, c := range checks {
		reports[i] = &report{check: c.name}
		if !strings.ContainsAny(c.roles, roles) {
			continue
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, checkWait)
			defer cancel()
			c.run(d, ctx, reports[i])
		})
	}
	wg.Wait()
	var all []finding
	for _, r := range reports {
		all = append(all, r.found...)
	}
	return all
}

// errIll is the end of doctor when something is wrong.
var errIll = errors.New("something will not work")

func doctorCommands(m *manage) []*cobra.Command {
	var role, format string
	var cloud, guest bool
	var instances int
	cmd := &cobra.Command{Use: "doctor", Args: arguments,
		Short: "Check what services need on this machine, and say what to change; the exit code is 1 if something fails",
		RunE: func(cmd *cobra.Command, _ []string) error {
			roles := map[string]string{"api": "a", "taskmanager": "t", "conductor": "c", "all": "atc"}[role]
			if roles == "" {
				return &usageError{cmd, errors.New("--role is api, taskmanager, conductor or all")}
			}
			if format != "table" && format != "json" {
				return &usageError{cmd, errors.New("--format is table or json")}
			}
			cloud = cloud || guest
			switch {
			case cloud && cmd.Flags().Changed("role"):
				return &usageError{cmd, errors.New("--cloud is of no role")}
			case !cloud && cmd.Flags().Changed("instances"), instances < 1:
				return &usageError{cmd, errors.New("--instances is a number of instances, with --cloud")}
			}
			src := m.files.sources(manageName)
			c, warnings, err := LoadConfig(src, false)
			if err != nil {
				return err
			}
			d := &doctor{c: c, src: src, warnings: warnings, log: slog.New(slog.DiscardHandler), clock: time.Now}
			var found []finding
			if cloud {
				found = d.examineCloud(cmd.Context(), instances, guest)
			} else {
				found = d.examine(cmd.Context(), roles)
			}
			if err := tell(cmd.OutOrStdout(), format, found); err != nil {
				return err
			}
			failed := 0
			for _, f := range found {
				if f.Status == statusFail {
					failed++
				}
			}
			if failed > 0 {
				return fmt.Errorf("%w: %d of %d checks failed", errIll, failed, len(found))
			}
			return nil
		}}
	cmd.Flags().StringVar(&role, "role", "all", "whose needs: api, taskmanager, conductor or all")
	cmd.Flags().StringVar(&format, "format", "table", "table or json")
	cmd.Flags().BoolVar(&cloud, "cloud", false, "look at the cloud instead: login, services, networks, images, flavors, volume types, quotas")
	cmd.Flags().BoolVar(&guest, "guest", false, "with --cloud: make a throw-away guest that tries the way to the broker, which takes minutes")
	cmd.Flags().IntVar(&instances, "instances", 1, "with --cloud: how many more instances there must be room for")
	return []*cobra.Command{cmd}
}

// tell writes findings for people or for programs.
func tell(w io.Writer, format string, found []finding) error {
	if format == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(found)
	}
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.Style().Options = table.OptionsNoBordersAndSeparators
	t.SuppressTrailingSpaces()
	for _, f := range found {
		t.AppendRow(table.Row{string(f.Status), f.Check, text.WrapSoft(f.Message, widest)})
		if f.Action != "" {
			// In one line: commands are to be copied.
			t.AppendRow(table.Row{"", "", "→ " + f.Action})
		}
	}
	t.Render()
	return nil
}

// checkClock compares a clock with ours.
func (r *report) checkClock(whose string, ahead, spread time.Duration) {
	off := max(ahead.Abs()-spread, 0)
	which := "ahead of"
	if ahead < 0 {
		which = "behind"
	}
	action := "keep the clocks of all machines together with NTP (chrony or systemd-timesyncd)"
	switch {
	case off > wrongClock:
		r.fail(action, "%s clock is %s %s ours", whose, off.Round(time.Second), which)
	case off > slowClock:
		r.warn(action, "%s clock is %s %s ours", whose, off.Round(100*time.Millisecond), which)
	default:
		r.ok("%s clock agrees with ours", whose)
	}
}

// listed are at most so many of a list, in order.
func listed(all []string, most int) string {
	all = slices.Sorted(slices.Values(all))
	if len(all) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(all[:most], ", "), len(all)-most)
	}
	return strings.Join(all, ", ")
}
