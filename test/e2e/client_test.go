package e2e

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// command runs a program with the openrc in its environment.
func (s *standalone) command(stdin string, name string, args ...string) (stdout, stderr string, code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if ours := filepath.Join(bin, name); !strings.Contains(name, "/") {
		if _, err := os.Stat(ours); err == nil {
			name = ours
		}
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + s.dir, "LANG=C.UTF-8"}
	for k, v := range s.openrc {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.Stdin = strings.NewReader(stdin)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err = cmd.Run()
	return o.String(), e.String(), cmd.ProcessState.ExitCode(), err
}

// trovectl runs it; it must succeed. What it printed is returned.
func (s *standalone) trovectl(args ...string) string {
	s.t.Helper()
	out, errs, _, err := s.command("", "trovectl", args...)
	if err != nil {
		s.t.Fatalf("trovectl %s: %v\n%s%s", strings.Join(args, " "), err, out, errs)
	}
	return strings.TrimSpace(out)
}

// refuses runs a trovectl that must fail with this exit code and say all of
// these words.
func (s *standalone) refuses(code int, words []string, args ...string) {
	s.t.Helper()
	out, errs, got, _ := s.command("", "trovectl", args...)
	if got != code {
		s.t.Errorf("trovectl %s: exit code %d, not %d:\n%s%s", strings.Join(args, " "), got, code, out, errs)
	}
	says(s.t.Errorf, "trovectl "+strings.Join(args, " "), errs, words...)
}

// says checks that a message has all of these words.
func says(report func(string, ...any), who, message string, words ...string) {
	for _, w := range words {
		if !strings.Contains(strings.ToLower(message), strings.ToLower(w)) {
			report("%s: does not say %q: %s", who, w, message)
		}
	}
}

// secretFile writes a password where trovectl reads it.
func (s *standalone) secretFile(password string) string {
	s.t.Helper()
	f := filepath.Join(s.dir, "password")
	if err := os.WriteFile(f, []byte(password), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return f
}

// login gets a token as any client of Keystone would.
func (s *standalone) login() error {
	if s.token != "" {
		return nil
	}
	domain := map[string]string{"id": "default"}
	body, err := json.Marshal(map[string]any{"auth": map[string]any{
		"identity": map[string]any{"methods": []string{"password"}, "password": map[string]any{"user": map[string]any{
			"name": s.openrc["OS_USERNAME"], "password": s.openrc["OS_PASSWORD"], "domain": domain}}},
		"scope": map[string]any{"project": map[string]any{"name": s.openrc["OS_PROJECT_NAME"], "domain": domain}}}})
	if err != nil {
		return err
	}
	resp, err := http.Post(fmt.Sprintf("http://127.0.0.1:%d/v3/auth/tokens", s.id), "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct {
		Token struct{ Project struct{ ID string } }
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusCreated {
		return fmt.Errorf("login: %s", resp.Status)
	}
	s.token, s.project = resp.Header.Get("X-Subject-Token"), answer.Token.Project.ID
	return nil
}

// rest makes a request below the project and decodes the answer into v unless
// that is nil. An answer that is no success is an error with its code.
func (s *standalone) rest(method, path string, body, v any) (code int, err error) {
	if err := s.login(); err != nil {
		return 0, err
	}
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		content = bytes.NewReader(b)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("http://127.0.0.1:%d/v1.0/%s/%s", s.api, s.project, path), content)
	if err != nil {
		return 0, err
	}
	req.Header.Set("X-Auth-Token", s.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return 0, err
	}
	if resp.StatusCode >= 300 {
		return resp.StatusCode, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, b)
	}
	if v != nil {
		return resp.StatusCode, json.Unmarshal(b, v)
	}
	return resp.StatusCode, nil
}

// instance is one as the API shows it.
type instance struct {
	ID, Name, Status string
	Operating        string `json:"operating_status"`
	Datastore        struct{ Type, Version string }
	Addresses        []struct{ Address string }
	Address          string `json:"-"`
	Fault            *struct{ Message, Details string }
}

func (i *instance) fault() string {
	if i.Fault == nil {
		return ""
	}
	return i.Fault.Message
}

func (i *instance) serves() error {
	if i.Status != "ACTIVE" || i.Operating != "HEALTHY" || i.Address == "" {
		return fmt.Errorf("%s is %s/%s at %q; fault: %s", i.Name, i.Status, i.Operating, i.Address, i.fault())
	}
	return nil
}

func (s *standalone) show(id string) (instance, error) {
	var answer struct{ Instance instance }
	_, err := s.rest("GET", "instances/"+id, nil, &answer)
	i := answer.Instance
	if len(i.Addresses) > 0 {
		i.Address = i.Addresses[0].Address
	}
	return i, err
}

// gone reports an error while an instance is there.
func (s *standalone) gone(id string) error {
	code, err := s.rest("GET", "instances/"+id, nil, nil)
	if code == http.StatusNotFound {
		return nil
	}
	return errors.Join(fmt.Errorf("instance %s is still there", id), err)
}

// serving waits until an instance serves.
func (s *standalone) serving(id string) (i instance) {
	s.t.Helper()
	s.eventually("instance "+id+" serves", func() (err error) {
		if i, err = s.show(id); err != nil {
			return err
		}
		if i.Status == "ERROR" || i.Status == "FAILED" {
			s.t.Fatal(i.serves())
		}
		return i.serves()
	})
	return i
}

// request is the body of a create of database d and user u.
func request(name, datastore, password string) map[string]any {
	return map[string]any{"instance": map[string]any{"name": name, "flavorRef": "1", "volume": map[string]int{"size": 1},
		"datastore": map[string]string{"type": datastore}, "databases": []map[string]string{{"name": "d"}},
		"users": []map[string]any{{"name": "u", "password": password, "databases": []map[string]string{{"name": "d"}}}}}}
}

// build asks for an instance and gives its id.
func (s *standalone) build(name, datastore, password string) (string, error) {
	var answer struct{ Instance instance }
	_, err := s.rest("POST", "instances", request(name, datastore, password), &answer)
	return answer.Instance.ID, err
}

// create makes an instance that serves.
func (s *standalone) create(name, datastore, password string) instance {
	s.t.Helper()
	id, err := s.build(name, datastore, password)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.serving(id)
}

// remove deletes instances and waits until they are gone.
func (s *standalone) remove(ids ...string) {
	s.t.Helper()
	for _, id := range ids {
		if _, err := s.rest("DELETE", "instances/"+id, nil, nil); err != nil {
			s.t.Error(err)
		}
	}
	for _, id := range ids {
		s.eventually("instance "+id+" is gone", func() error { return s.gone(id) })
	}
	s.deleted = append(s.deleted, ids...)
}

// quota checks what of the project's quota is taken.
func (s *standalone) quota(instances int) {
	s.t.Helper()
	s.eventually("quota", func() error {
		var answer struct {
			Quotas []struct {
				Resource        string
				InUse           int `json:"in_use"`
				Reserved, Limit int
			}
		}
		if _, err := s.rest("GET", "mgmt/quotas/"+s.project, nil, &answer); err != nil {
			return err
		}
		want := map[string]int{"instances": instances, "volumes": instances, "ram": 512 * instances, "backups": 0}
		for _, q := range answer.Quotas {
			if q.InUse != want[q.Resource] || q.Reserved != 0 {
				return fmt.Errorf("%+v instead of %d", q, want[q.Resource])
			}
			delete(want, q.Resource)
		}
		if len(want) > 0 {
			return fmt.Errorf("nothing is said of %v", want)
		}
		return nil
	})
}

// open connects as u to d by the engine's own protocol.
func (s *standalone) open(i instance, password string) *sql.DB {
	s.t.Helper()
	var db *sql.DB
	switch i.Datastore.Type {
	case "mariadb":
		c := mysql.NewConfig()
		c.Net, c.Addr, c.User, c.Passwd, c.DBName, c.Timeout = "tcp", i.Address+":3306", "u", password, "d", 10*time.Second
		connector, err := mysql.NewConnector(c)
		if err != nil {
			s.t.Fatal(err)
		}
		db = sql.OpenDB(connector)
	case "postgresql":
		c, err := pgx.ParseConfig("sslmode=prefer connect_timeout=10")
		if err != nil {
			s.t.Fatal(err)
		}
		c.Host, c.Port, c.User, c.Password, c.Database = i.Address, 5432, "u", password, "d"
		for _, f := range c.Fallbacks {
			f.Host, f.Port = i.Address, 5432
		}
		db = stdlib.OpenDB(*c)
	default:
		s.t.Fatalf("no client for %q", i.Datastore.Type)
	}
	return db
}

// querier is a connection or a pool of them.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func ask(q querier, query string) (answer string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return answer, q.QueryRowContext(ctx, query).Scan(&answer)
}

func tell(q querier, statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, err := q.ExecContext(ctx, statement)
	return err
}

// rows is how many rows table t of an instance has, by a connection made for
// the question.
func (s *standalone) rows(i instance, password string) (int, error) {
	db := s.open(i, password)
	defer db.Close()
	n, err := ask(db, "SELECT count(*) FROM t")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(n)
}

// fill gives an instance a table t of n rows.
func (s *standalone) fill(i instance, password string, n int) {
	s.t.Helper()
	db := s.open(i, password)
	defer db.Close()
	values := slices.Repeat([]string{"(1)"}, n)
	for _, statement := range []string{"CREATE TABLE t (n int)", "INSERT INTO t VALUES " + strings.Join(values, ",")} {
		if err := tell(db, statement); err != nil {
			s.t.Fatal(err)
		}
	}
}
