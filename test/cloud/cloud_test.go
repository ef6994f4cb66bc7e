// Package cloud tries the control plane as a cloud runs it: separate processes
// of each role on RabbitMQ, a database server and Keystone.
package cloud

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/gotrove/gotrove/internal/store/dbtest"
	"github.com/gotrove/gotrove/test/region"
)

var bin string // the directory of the built programs

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "gotrove-cloud")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		if err := os.Chmod(dir, 0o755); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if err := region.Build(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		bin = dir
		return m.Run()
	}())
}

// TestTwoOfEach makes an instance with two of each service, on each database
// engine, uses it, deletes it, and finds nothing left.
func TestTwoOfEach(t *testing.T) {
	if testing.Short() {
		t.Skip("needs RabbitMQ, a database server and Keystone")
	}
	for _, engine := range []dbtest.Engine{dbtest.MariaDB, dbtest.PostgreSQL} {
		t.Run(string(engine), func(t *testing.T) {
			r := region.New(t, region.Options{Bin: bin, Database: engine})
			var apis []*region.Service
			for range 2 {
				apis = append(apis, r.Start(region.API))
				r.Start(region.TaskManager)
				r.Start(region.Conductor)
			}
			demo := r.Demo()
			body := region.NewInstance("db", "mariadb")
			inner := body["instance"].(map[string]any)
			inner["databases"] = []map[string]any{{"name": "shop"}}
			inner["users"] = []map[string]any{{"name": "ann", "password": "s3cret-of-ann", "databases": []map[string]any{{"name": "shop"}}}}
			var made struct{ Instance region.Instance }
			demo.Want(apis[0], 200, "POST", "instances", body, &made)
			i := demo.AwaitActive(apis[1], made.Instance.ID)
			if len(i.IP) == 0 {
				t.Fatalf("no address: %+v", i)
			}
			query(t, i.IP[0], "ann", "s3cret-of-ann", "shop")
			demo.Want(apis[1], 202, "POST", "instances/"+i.ID+"/action", map[string]any{"restart": map[string]any{}}, nil)
			demo.AwaitActive(apis[0], i.ID)
			query(t, i.IP[0], "ann", "s3cret-of-ann", "shop")
			demo.Want(apis[0], 202, "DELETE", "instances/"+i.ID, nil, nil)
			demo.AwaitGone(apis[1], i.ID)
			r.AssertNothingLeft()
		})
	}
}

// query logs in and asks something.
func query(t *testing.T, address, user, password, database string) {
	t.Helper()
	c := mysql.NewConfig()
	c.Net, c.Addr, c.User, c.Passwd, c.DBName = "tcp", net.JoinHostPort(address, "3306"), user, password, database
	c.Timeout = 10 * time.Second
	connector, err := mysql.NewConnector(c)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	ctx, cancel := context.WithTimeout(t.Context(), region.Patience)
	defer cancel()
	var one int
	if err := db.QueryRowContext(ctx, "SELECT 1").Scan(&one); err != nil || one != 1 {
		t.Fatalf("query: %d, %v", one, err)
	}
}
