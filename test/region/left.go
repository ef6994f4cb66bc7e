package region

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/gotrove/gotrove/internal/rpc/amqp/rabbittest"
)

// AssertNothingLeft waits until there is nothing of instances that are gone:
// processes, directories, queues, logins, and rows of the database, with the
// usage of quotas at zero. To be called when all instances were deleted.
func (r *Region) AssertNothingLeft() {
	r.TB.Helper()
	Must(r.TB, func() error { return r.Left(nil) })
}

// Left tells what there is of other instances than live ones.
func (r *Region) Left(live map[string]bool) error {
	var left []string
	add := func(what string, names []string) {
		for _, n := range names {
			of := false
			for id := range live {
				of = of || strings.Contains(n, id)
			}
			if !of {
				left = append(left, what+" "+n)
			}
		}
	}
	if len(live) == 0 {
		for _, pid := range r.InstanceProcesses() {
			left = append(left, fmt.Sprintf("process %d", pid))
		}
	}
	for _, dir := range []string{"data/instances", "data/addresses"} {
		entries, _ := os.ReadDir(filepath.Join(r.Dir, dir))
		for _, e := range entries {
			if dir == "data/addresses" {
				whose, _ := os.ReadFile(filepath.Join(r.Dir, dir, e.Name()))
				add("address", []string{e.Name() + " of " + string(whose)})
				continue
			}
			add("directory", []string{e.Name()})
		}
	}
	queues, err := r.names("/api/queues")
	if err != nil {
		return err
	}
	for _, q := range queues {
		if strings.HasPrefix(q, "guestagent.") {
			add("queue", []string{q})
		}
	}
	users, err := r.names("/api/users")
	if err != nil {
		return err
	}
	for _, u := range users {
		if u != rabbittest.AdminName && u != "guest" {
			add("login", []string{u})
		}
	}
	rows, err := r.rows(live)
	if err != nil {
		return err
	}
	if left = append(left, rows...); len(left) > 0 {
		return fmt.Errorf("left behind: %s", strings.Join(left, ", "))
	}
	return nil
}

// rows tells of rows that should not be there: of the outbox, of work that is
// not finished, of instances that are gone, and of usage that does not fit.
func (r *Region) rows(live map[string]bool) (left []string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), requestWait)
	defer cancel()
	for what, query := range map[string]string{
		"messages in the outbox":            "SELECT COUNT(*) FROM outbox",
		"pieces of unfinished work":         "SELECT COUNT(*) FROM work WHERE outcome IN ('pending', 'running')",
		"observations of gone instances":    "SELECT COUNT(*) FROM observed o WHERE NOT EXISTS (SELECT 1 FROM instances i WHERE i.id = o.instance_id AND i.deleted = FALSE)",
		"charges of gone instances":         "SELECT COUNT(*) FROM charges c WHERE NOT EXISTS (SELECT 1 FROM instances i WHERE i.id = c.instance_id AND i.deleted = FALSE)",
		"last-seen rows of gone instances":  "SELECT COUNT(*) FROM conductor_lastseen c WHERE NOT EXISTS (SELECT 1 FROM instances i WHERE i.id = c.instance_id AND i.deleted = FALSE)",
		"credentials of gone instances":     "SELECT COUNT(*) FROM guest_credentials g WHERE NOT EXISTS (SELECT 1 FROM instances i WHERE i.id = g.instance_id AND i.deleted = FALSE)",
		"reserved amounts of quotas":        "SELECT COUNT(*) FROM quota_usages WHERE reserved <> 0",
		"instances more or less than alive": fmt.Sprintf("SELECT ABS(COUNT(*) - %d) FROM instances WHERE deleted = FALSE", len(live)),
		"instances charged too many or few": fmt.Sprintf("SELECT ABS(COALESCE(SUM(in_use), 0) - %d) FROM quota_usages WHERE resource = 'instances'", len(live)),
	} {
		var n int
		if err := r.SQL.QueryRowContext(ctx, query).Scan(&n); err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		if n != 0 {
			left = append(left, fmt.Sprintf("%d %s", n, what))
		}
	}
	return left, nil
}

// names lists things of the broker.
func (r *Region) names(path string) ([]string, error) {
	req, err := http.NewRequest(http.MethodGet, r.Broker.ManagementURL()+path+"?columns=name", nil)
	if err != nil {
		return nil, err
	}
	req.SetBasicAuth(rabbittest.AdminName, rabbittest.AdminPassword)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("management API: %s", resp.Status)
	}
	var list []struct{ Name string }
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return nil, err
	}
	var out []string
	for _, l := range list {
		out = append(out, l.Name)
	}
	return out, nil
}
