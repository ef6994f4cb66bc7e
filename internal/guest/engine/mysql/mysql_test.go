package mysql_test

import (
	"context"
	"database/sql"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	driver "github.com/go-sql-driver/mysql"

	"github.com/gotrove/gotrove/internal/guest/engine"
	"github.com/gotrove/gotrove/internal/guest/engine/enginetest"
	"github.com/gotrove/gotrove/internal/guest/engine/mysql"
	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/guest/runtime/docker/dockertest"
)

func TestMain(m *testing.M) { os.Exit(enginetest.Main(m, dockertest.MySQL)) }

// No release of Debian has MySQL: it is tried in containers only.
func TestInContainers(t *testing.T) {
	enginetest.Run(t, enginetest.InContainers(t, harness(), "mysql"))
}

// What is an instance's own must not come out of a template: its keys and its id.
func TestTemplateHasNoIdentity(t *testing.T) {
	tools, ok := enginetest.InContainers(t, harness(), "mysql").Runtime(t).(runtime.Tools)
	if !ok {
		t.Fatal("the runtime runs no tools")
	}
	dir, err := mysql.Own().Template(t.Context(), engine.Settings{Tools: tools, TemplateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name := e.Name(); name == "auto.cnf" || strings.HasSuffix(name, ".pem") || strings.HasSuffix(name, ".sql") {
			t.Errorf("the template holds %s", name)
		}
	}
	if len(entries) < 5 {
		t.Errorf("the template holds %v", entries)
	}
}

func harness() enginetest.Harness {
	return enginetest.Harness{
		New:               func(_ *testing.T, s engine.Settings) engine.Engine { return mysql.New(s) },
		Connect:           connect,
		Port:              mysql.Port,
		Administrator:     "os_admin",
		ReservedDatabases: []string{"mysql", "information_schema", "performance_schema", "sys", "MySQL"},
		ReservedUsers:     []string{"os_admin", "root", "mysql.sys", "mysql.session", "mysql.infoschema", "mysql"},
		Hosts:             true,
		MemoryQuery:       "SELECT @@innodb_buffer_pool_size",
		Override:          "max_connections",
		OverrideValue:     float64(77),
		OverrideQuery:     "SELECT @@max_connections",
		OverrideAnswer:    "77",
	}
}

func connect(_ context.Context, t enginetest.Target) (*sql.DB, error) {
	c := driver.NewConfig()
	c.Net, c.Addr = "tcp", net.JoinHostPort(t.Address, strconv.Itoa(t.Port))
	c.User, c.Passwd, c.DBName = t.User, t.Password, t.Database
	c.Logger = &driver.NopLogger{}
	connector, err := driver.NewConnector(c)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}
