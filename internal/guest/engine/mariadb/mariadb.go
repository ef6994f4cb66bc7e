// Package mariadb is the MariaDB engine: MySQL's, in another dialect.
package mariadb

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/gotrove/gotrove/internal/guest/engine"
	"github.com/gotrove/gotrove/internal/guest/engine/mysql"
	"github.com/gotrove/gotrove/internal/guest/runtime"
)

// Manager is the datastore manager's name, Port the engine's standard port.
const (
	Manager = "mariadb"
	Port    = mysql.Port
)

// Engine is the MariaDB of one instance.
type Engine = mysql.Engine

// New makes the engine of an instance. It touches nothing.
func New(s engine.Settings) *Engine { return mysql.NewOf(dialect(), s) }

// Template builds the template of the installed version and returns its path,
// so that the first instance need not wait for it.
func Template(ctx context.Context, s engine.Settings) (string, error) {
	return dialect().Template(ctx, s)
}

// Installed gives version and directory of the MariaDB of this machine; ok is
// false if there is none.
func Installed(ctx context.Context) (version, dir string, ok bool, err error) {
	d := dialect()
	if _, err := d.Find("", d.Installer); err != nil {
		return "", "", false, nil
	}
	server, err := d.Find("", d.Server)
	if err != nil {
		return "", "", false, nil
	}
	version, err = d.Version(ctx, runtime.Host{}, server)
	return version, filepath.Dir(server), err == nil, err
}

const mib = 1 << 20

// smallestRedo is the size of the redo log of small flavors and in a template,
// in MiB. A server whose log has another size than configured makes a new one
// before it serves, which takes longer than all the rest of its start.
const smallestRedo = 64

func dialect() *mysql.Dialect {
	return &mysql.Dialect{
		Manager: Manager, Product: "MariaDB",
		Server: "mariadbd", Installer: "mariadb-install-db", Admin: "mariadb-admin", Package: "mariadb-server-core",
		VersionNumber: regexp.MustCompile(`Ver (\d+\.\d+\.\d+)-MariaDB`),
		Recipe:        2, Room: (smallestRedo + 32) * mib,
		// Only the account the server's own views run as stays, which is locked:
		// the installer makes a root without a password on every address of the
		// machine.
		NoAccounts: "DELETE FROM mysql.global_priv WHERE User <> 'mariadb.sys';\nDELETE FROM mysql.db;\nDELETE FROM mysql.proxies_priv;\n",
		InstallArgs: func(dir, statements string) []string {
			return []string{"--no-defaults", "--datadir=" + dir, "--extra-file=" + statements,
				"--skip-test-db", "--skip-name-resolve", "--force", "--auth-root-authentication-method=normal",
				"--innodb-log-file-size=" + strconv.Itoa(smallestRedo*mib),
				// The whole directory is made durable afterwards.
				"--innodb-flush-method=nosync"}
		},
		Group: "mariadbd", Memory: memory,
		Session: map[string]string{"sql_mode": "''", "sql_log_off": "1", "slow_query_log": "0", "lock_wait_timeout": "30"},
		SetUser: func(account, password string) string {
			return "CREATE OR REPLACE USER " + account + " IDENTIFIED BY " + password + ";\n"
		},
		MaxUser:       80,
		ReservedUsers: []string{"os_admin", "root", "mariadb.sys", "mysql", "public"},
		NoRole:        "is_role = 'N'",
		RootLocked:    "SELECT COALESCE(JSON_VALUE(Priv, '$.account_locked'), '0') IN ('1', 'true') FROM mysql.global_priv",
		KillUser:      "KILL HARD CONNECTION USER ",
	}
}

// memory are the settings that follow from the flavor's memory in MiB.
func memory(mb int) string {
	small := mysql.Clamp(mb/64, 4, 128)
	// The server keeps two and fills both with zeros when it starts.
	logBuffer := mysql.Clamp(mb/256, 2, 16)
	return fmt.Sprintf(`character_set_server = utf8mb4
collation_server = utf8mb4_general_ci
performance_schema = OFF
query_cache_type = OFF
query_cache_size = 0
max_connections = %d
table_open_cache = %d
innodb_buffer_pool_size = %d
innodb_log_file_size = %d
innodb_log_buffer_size = %d
innodb_flush_log_at_trx_commit = 1
key_buffer_size = %d
aria_pagecache_buffer_size = %d
tmp_table_size = %d
max_heap_table_size = %d
`, mysql.Clamp(mb/5, 50, 2000), mysql.Clamp(mb, 200, 4000), mysql.Pool(mb)*mib, mysql.Clamp(mb/16, smallestRedo, 1024)*mib, logBuffer*mib, small*mib, 2*small*mib, small*mib, small*mib)
}
