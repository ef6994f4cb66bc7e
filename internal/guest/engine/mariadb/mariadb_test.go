package mariadb_test

import (
	"context"
	"database/sql"
	"net"
	"os"
	"strconv"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/gotrove/gotrove/internal/guest/engine"
	"github.com/gotrove/gotrove/internal/guest/engine/enginetest"
	"github.com/gotrove/gotrove/internal/guest/engine/mariadb"
	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/guest/runtime/docker/dockertest"
	"github.com/gotrove/gotrove/internal/guest/runtime/process"
)

func TestMain(m *testing.M) { os.Exit(enginetest.Main(m, dockertest.Stable)) }

func TestConformance(t *testing.T) {
	if _, _, ok, err := mariadb.Installed(t.Context()); !ok || err != nil {
		t.Skip("MariaDB is not installed: apt-get install mariadb-server-core ", err)
	}
	enginetest.Run(t, harness())
}

func TestInContainers(t *testing.T) {
	enginetest.Run(t, enginetest.InContainers(t, harness(), "mariadb"))
}

func harness() enginetest.Harness {
	return enginetest.Harness{
		New: func(_ *testing.T, s engine.Settings) engine.Engine { return mariadb.New(s) },
		Runtime: func(t *testing.T) runtime.Runtime {
			r, err := process.New(process.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return r
		},
		Connect:           connect,
		Port:              mariadb.Port,
		Administrator:     "os_admin",
		ReservedDatabases: []string{"mysql", "information_schema", "performance_schema", "sys", "MySQL"},
		ReservedUsers:     []string{"os_admin", "root", "mariadb.sys", "mysql", "PUBLIC"},
		Hosts:             true,
		MemoryQuery:       "SELECT @@innodb_buffer_pool_size",
		Override:          "max_connections",
		OverrideValue:     float64(77),
		OverrideQuery:     "SELECT @@max_connections",
		OverrideAnswer:    "77",
	}
}

func connect(_ context.Context, t enginetest.Target) (*sql.DB, error) {
	c := mysql.NewConfig()
	c.Net, c.Addr = "tcp", net.JoinHostPort(t.Address, strconv.Itoa(t.Port))
	c.User, c.Passwd, c.DBName = t.User, t.Password, t.Database
	c.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}
