package postgres

import (
	"context"
	"database/sql"
	"net"
	"net/url"
	"os"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/gotrove/gotrove/internal/guest/engine"
	"github.com/gotrove/gotrove/internal/guest/engine/enginetest"
	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/guest/runtime/docker/dockertest"
	"github.com/gotrove/gotrove/internal/guest/runtime/process"
)

func TestMain(m *testing.M) { os.Exit(enginetest.Main(m, dockertest.Stable)) }

func TestEngine(t *testing.T) {
	if len(candidates()) == 0 {
		t.Skip("PostgreSQL is not installed: apt-get install postgresql")
	}
	enginetest.Run(t, harness())
}

func TestInContainers(t *testing.T) {
	enginetest.Run(t, enginetest.InContainers(t, harness(), "postgres"))
}

func harness() enginetest.Harness {
	return enginetest.Harness{
		New: func(_ *testing.T, s engine.Settings) engine.Engine { return New(s) },
		Runtime: func(t *testing.T) runtime.Runtime {
			r, err := process.New(process.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return r
		},
		Connect:           connect,
		Port:              defaultPort,
		Administrator:     superuser,
		ReservedDatabases: reservedDatabases,
		ReservedUsers:     append([]string{"pg_monitor", "pg_whatever"}, reservedUsers...),
		MemoryQuery:       "SELECT pg_size_bytes(current_setting('shared_buffers'))",
		Override:          "work_mem",
		OverrideValue:     "7MB",
		OverrideQuery:     "SHOW work_mem",
		OverrideAnswer:    "7MB",
	}
}

func connect(_ context.Context, to enginetest.Target) (*sql.DB, error) {
	if to.Database == "" {
		to.Database = "postgres"
	}
	u := url.URL{Scheme: "postgres", User: url.UserPassword(to.User, to.Password), Path: "/" + to.Database,
		Host: net.JoinHostPort(to.Address, strconv.Itoa(to.Port)), RawQuery: "sslmode=disable"}
	cfg, err := pgx.ParseConfig(u.String())
	if err != nil {
		return nil, err
	}
	return stdlib.OpenDB(*cfg), nil
}
