// Package mysql is the engine MySQL, 8.0 and later, and what MariaDB's has in
// common with it: all but their Dialect.
//
// The data directory comes from a template without any account but the
// server's own locked ones, so a server that runs before ours is made lets
// nobody in. The administrator's account is made by the server itself, from
// its init file, before it listens. All else goes through the server's socket
// as that account. The package runs no server: it says what to run.
package mysql

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"

	"github.com/gotrove/gotrove/internal/guest/engine"
	"github.com/gotrove/gotrove/internal/guest/runtime"
)

// Manager is the datastore manager's name.
const Manager = "mysql"

const (
	mib = 1 << 20
	// smallestRedo is the redo log of small flavors and of a template, MiB.
	smallestRedo = 64
)

// New makes the engine of an instance. It touches nothing.
func New(s engine.Settings) *Engine { return NewOf(Own(), s) }

// Installed gives version and directory of the MySQL of this machine; ok is
// false if there is none. MariaDB's program may have the same name.
func Installed(ctx context.Context) (version, dir string, ok bool) {
	d := Own()
	server, err := d.Find("", d.Server)
	if err != nil {
		return "", "", false
	}
	version, err = d.Version(ctx, runtime.Host{}, server)
	return version, filepath.Dir(server), err == nil
}

// Own is MySQL's dialect. Its passwords are hashed by caching_sha2_password, the
// default of all these versions.
func Own() *Dialect {
	return &Dialect{
		Manager: Manager, Product: "MySQL",
		Server: "mysqld", Installer: "mysqld", Admin: "mysqladmin", Package: "mysql-server-core",
		VersionNumber: regexp.MustCompile(`Ver (\d+\.\d+\.\d+)(?:-\d\S*)? for `), // MariaDB has its name behind the number
		Recipe:        1, Room: (smallestRedo + 160) * mib,
		// MySQL's own accounts are locked.
		NoAccounts: "DROP USER IF EXISTS 'root'@'localhost';\n",
		InstallArgs: func(dir, statements string) []string {
			return []string{"--no-defaults", "--initialize-insecure", "--datadir=" + dir, "--init-file=" + statements, "--skip-log-bin",
				fmt.Sprintf("--loose-innodb-redo-log-capacity=%d", smallestRedo*mib)}
		},
		Group: "mysqld", Memory: memory, Fixed: "loose_mysqlx = OFF\n",
		// A statement that takes a year is in the log of slow ones.
		Session: map[string]string{"sql_mode": "''", "sql_log_off": "1", "long_query_time": "31536000", "lock_wait_timeout": "30"},
		SetUser: func(account, password string) string {
			return "CREATE USER IF NOT EXISTS " + account + " IDENTIFIED BY " + password + ";\n" +
				"ALTER USER " + account + " IDENTIFIED BY " + password + ";\n"
		},
		MaxUser:       32,
		ReservedUsers: []string{administrator, "root", "mysql", "mysql.sys", "mysql.session", "mysql.infoschema"},
		// A role is a user nobody can log in as, and with no password at all.
		NoRole:     "NOT (account_locked = 'Y' AND password_expired = 'Y' AND authentication_string = '')",
		RootLocked: "SELECT account_locked = 'Y' FROM mysql.user",
	}
}

// memory are the settings that follow from the flavor's memory in MiB.
func memory(mb int) string {
	small := Clamp(mb/64, 4, 128)
	return fmt.Sprintf(`character_set_server = utf8mb4
performance_schema = OFF
skip_log_bin
max_connections = %d
table_open_cache = %d
innodb_buffer_pool_size = %d
loose_innodb_redo_log_capacity = %d
innodb_log_buffer_size = %d
innodb_flush_log_at_trx_commit = 1
key_buffer_size = %d
tmp_table_size = %d
max_heap_table_size = %d
temptable_max_ram = %d
`, Clamp(mb/5, 50, 2000), Clamp(mb, 200, 4000), Pool(mb)*mib, Clamp(mb/8, smallestRedo, 2048)*mib, Clamp(mb/256, 2, 16)*mib, small*mib, small*mib, small*mib, 2*small*mib)
}
