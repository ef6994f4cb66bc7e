package region

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// History tells what is known of an instance: the rows about it, and what
// services and its agent have logged. For a test that fails.
func (r *Region) History(id string) string {
	var out strings.Builder
	for what, query := range map[string]string{
		"instance": "SELECT created, updated, task_description, compute_instance_id, deleted FROM instances WHERE id = '" + id + "'",
		"service":  "SELECT status_description, updated_at FROM service_statuses WHERE instance_id = '" + id + "'",
		"seen":     "SELECT method_name, sent FROM conductor_lastseen WHERE instance_id = '" + id + "'",
		"work":     "SELECT id, kind, step, outcome, attempt, version, lease_owner, lease_until, run_at, deadline_at, wakes, created, ended, error FROM work WHERE subject = '" + id + "'",
		"events":   "SELECT step, state, at, message, cause FROM work_events WHERE subject = '" + id + "' ORDER BY seq",
		"outbox":   "SELECT id, topic, method, attempts, created, next_at FROM outbox WHERE instance_id = '" + id + "' OR subject = '" + id + "'",
	} {
		rows, err := r.SQL.Query(query)
		if err != nil {
			fmt.Fprintf(&out, "%s: %v\n", what, err)
			continue
		}
		columns, _ := rows.Columns()
		for rows.Next() {
			values, into := make([]any, len(columns)), make([]any, len(columns))
			for i := range values {
				into[i] = &values[i]
			}
			if err := rows.Scan(into...); err != nil {
				fmt.Fprintf(&out, "%s: %v\n", what, err)
				break
			}
			fmt.Fprintf(&out, "%s:", what)
			for i, v := range values {
				if b, ok := v.([]byte); ok {
					v = string(b)
				}
				fmt.Fprintf(&out, " %s=%v", columns[i], v)
			}
			out.WriteByte('\n')
		}
		rows.Close()
	}
	logs, _ := filepath.Glob(filepath.Join(r.Dir, "*.log"))
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		var lines [][]byte
		for line := range bytes.Lines(b) {
			if bytes.Contains(line, []byte(id)) && !bytes.Contains(line, []byte(`"method":"GET"`)) {
				lines = append(lines, line)
			}
		}
		lines = lines[max(0, len(lines)-40):]
		fmt.Fprintf(&out, "%s:\n%s", filepath.Base(path), bytes.Join(lines, nil))
	}
	agent, _ := filepath.Glob(filepath.Join(r.Dir, "data/instances", id, "*.log"))
	deeper, _ := filepath.Glob(filepath.Join(r.Dir, "data/instances", id, "*/*.log"))
	for _, path := range append(agent, deeper...) {
		fmt.Fprintf(&out, "%s:\n%s\n", path, Tail(path, 6000))
	}
	return out.String()
}
