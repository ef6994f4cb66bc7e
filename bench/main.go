// Command bench measures the figures this project promises, on the machine it
// runs on: `make bench`. It prints one JSON line per figure on stdout and then
// a table with what they were measured on.
//
// Everything is measured from outside, as a user meets it: fresh processes of
// the built programs in bin/, real engines, the engines' own protocols. Only
// the count of SQL statements and the time of a call on the bus are taken
// inside this process. A figure that does not hold is no error: the exit code
// is 1 only if something could not be measured.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// limit bounds the whole run.
const limit = 30 * time.Minute

// figure is one measured value. Goal and Holds are null for a figure that is
// only information.
type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Goal  *string `json:"goal"`
	Holds *bool   `json:"holds"`
	note  string  // how it was measured
}

// report prints figures as they come and keeps them for the table.
type report struct {
	out     io.Writer
	figures []figure
}

func (r *report) add(f figure) error {
	r.figures = append(r.figures, f)
	e := json.NewEncoder(r.out)
	e.SetEscapeHTML(false) // goals have < in them
	return e.Encode(f)
}

// info adds a figure without a goal.
func (r *report) info(name string, value float64, unit, note string) error {
	return r.add(figure{Name: name, Value: round(value), Unit: unit, note: note})
}

// most adds a figure that is to be at most goal, or less than it.
func (r *report) most(name string, value float64, unit, op string, goal float64, note string) error {
	holds := value <= goal
	if op == "<" {
		holds = value < goal
	}
	text := fmt.Sprintf("%s %g", op, goal)
	return r.add(figure{Name: name, Value: round(value), Unit: unit, Goal: &text, Holds: &holds, note: note})
}

// least adds a figure that is to be at least goal.
func (r *report) least(name string, value float64, unit string, goal float64, note string) error {
	holds, text := value >= goal, fmt.Sprintf(">= %g", goal)
	return r.add(figure{Name: name, Value: round(value), Unit: unit, Goal: &text, Holds: &holds, note: note})
}

func round(v float64) float64 { return float64(int64(v*1000+0.5)) / 1000 }

func (r *report) table(m machine) {
	w := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nFIGURE\tVALUE\tGOAL\tHOLDS\tHOW")
	for _, f := range r.figures {
		goal, holds := "", ""
		if f.Goal != nil {
			goal, holds = *f.Goal, "yes"
			if !*f.Holds {
				holds = "NO"
			}
		}
		fmt.Fprintf(w, "%s\t%g %s\t%s\t%s\t%s\n", f.Name, f.Value, f.Unit, goal, holds, f.note)
	}
	_ = w.Flush()
	fmt.Fprintf(r.out, "\n%s", m)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	bin := flags.String("bin", "bin", "directory of the built programs")
	rounds := flags.Int("rounds", 9, "creates of each engine, one after the other")
	only := flags.String("only", "", "comma-separated parts to measure: start, create, burst, idle, docker, inside, roles, conductor, guests, api (default: all)")
	keep := flags.Bool("v", false, "print troved's log to stderr at the end")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return 2
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	b := &bench{report: &report{out: os.Stdout}, bin: *bin, rounds: *rounds, verbose: *keep, machine: lookAround()}
	if *only != "" {
		b.only = strings.Split(*only, ",")
	}
	err := b.measure(ctx)
	b.report.table(b.machine)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

// bench is one run.
type bench struct {
	*report
	bin     string
	rounds  int
	only    []string
	verbose bool
	machine machine
}

func (b *bench) wants(part string) bool { return len(b.only) == 0 || slices.Contains(b.only, part) }

func (b *bench) measure(ctx context.Context) (err error) {
	if b.wants("inside") {
		if err := b.inside(ctx); err != nil {
			return err
		}
	}
	if b.wants("roles") || b.wants("conductor") || b.wants("guests") || b.wants("api") {
		if err := b.backboneFigures(ctx); err != nil {
			return err
		}
	}
	if b.wants("docker") {
		if err := b.docker(ctx); err != nil {
			return err
		}
	}
	if !b.wants("start") && !b.wants("create") && !b.wants("burst") && !b.wants("idle") {
		return nil
	}
	s, err := newStandalone(b.bin)
	if err != nil {
		return err
	}
	defer func() {
		if b.verbose || err != nil {
			s.printLog(os.Stderr)
		}
		if e := s.remove(); err == nil {
			err = e
		}
	}()
	if err := b.starts(ctx, s); err != nil {
		return err
	}
	b.machine.engines, err = s.engines(ctx)
	if err != nil {
		return err
	}
	if b.wants("create") || b.wants("burst") {
		if err := b.creates(ctx, s); err != nil {
			return err
		}
	}
	if b.wants("idle") {
		return b.idle(ctx, s)
	}
	return nil
}

// median of values, which it sorts.
func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	if n%2 == 1 {
		return values[n/2]
	}
	return (values[n/2-1] + values[n/2]) / 2
}
