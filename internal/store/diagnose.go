package store

import (
	"context"
	"database/sql"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// Diagnosis is what can be said about a database server without changing it.
type Diagnosis struct {
	Engine  string // sqlite, mysql, postgresql
	Version string // as the server tells it
	// Settings of the server by their own names, those that decide on what is
	// kept. Empty for SQLite.
	Settings map[string]string
	// Storage and Collation are MySQL's, of the table instances, which the
	// original may have made; empty if it is not there.
	Storage, Collation string
	// Ahead is how far the server's clock is before ours, give or take Spread.
	Ahead, Spread time.Duration
}

// settings are asked for with their names in lower case.
var settings = map[engine][]string{
	engineMySQL: {"tx_isolation", "transaction_isolation", "sql_mode", "read_only",
		"innodb_flush_log_at_trx_commit", "max_connections"},
	enginePostgres: {"server_encoding", "default_transaction_isolation", "default_transaction_read_only", "fsync", "synchronous_commit",
		"full_page_writes", "max_connections", "in_hot_standby"},
}

// Diagnose asks the server about itself.
func (s *Store) Diagnose(ctx context.Context) (d Diagnosis, err error) {
	d = Diagnosis{Engine: string(s.engine()), Settings: map[string]string{}}
	err = s.read(ctx, func(ctx context.Context, c session) error {
		version, show := "SELECT VERSION()", "SHOW GLOBAL VARIABLES"
		switch s.engine() {
		case engineSQLite:
			version, show = "SELECT sqlite_version()", ""
		case enginePostgres:
			version, show = "SHOW server_version", "SELECT name, setting FROM pg_settings"
		}
		if _, err := c.one(ctx, version, nil, &d.Version); err != nil {
			return err
		}
		var micros int64
		began := s.clock()
		if _, err := c.one(ctx, "SELECT "+s.d.nowMicros, nil, &micros); err != nil {
			return err
		}
		d.Spread = s.clock().Sub(began) / 2
		d.Ahead = time.UnixMicro(micros).Sub(began.Add(d.Spread))
		if show == "" {
			return nil
		}
		if s.engine() == engineMySQL {
			if _, err := c.one(ctx, `SELECT engine, table_collation FROM information_schema.tables
				WHERE table_schema = DATABASE() AND table_name = 'instances'`, nil, &d.Storage, &d.Collation); err != nil {
				return err
			}
		}
		return c.each(ctx, show, nil, func(r *sql.Rows) error {
			var name string
			var value sql.NullString
			err := r.Scan(&name, &value)
			if slices.Contains(settings[s.engine()], strings.ToLower(name)) {
				d.Settings[strings.ToLower(name)] = value.String
			}
			return err
		})
	})
	return d, err
}

func (s *Store) engine() engine {
	switch path.Base(s.d.migrations) {
	case "mysql":
		return engineMySQL
	case "postgres":
		return enginePostgres
	}
	return engineSQLite
}

// Refused tells which of its statements the services' login may not run, on
// which tables: what each tries touches no row. Errors are those of a server
// that cannot be asked.
func (s *Store) Refused(ctx context.Context) (refused []string, err error) {
	err = s.read(ctx, func(ctx context.Context, c session) error {
		c.db = s.writer
		for _, table := range slices.Concat(originalTables, ownTables) {
			columns, err := c.columns(ctx, table)
			if err != nil {
				if trove.IsKind(err, trove.KindUnavailable) && ctx.Err() != nil {
					return err
				}
				refused = append(refused, "SELECT on "+table)
				continue
			}
			for verb, statement := range map[string]string{
				"INSERT": fmt.Sprintf("INSERT INTO %s SELECT * FROM %s WHERE 1 = 0", table, table),
				"UPDATE": fmt.Sprintf("UPDATE %s SET %s = %s WHERE 1 = 0", table, s.d.quote(columns[0]), s.d.quote(columns[0])),
				"DELETE": fmt.Sprintf("DELETE FROM %s WHERE 1 = 0", table),
			} {
				if _, err := c.exec(ctx, statement); err != nil {
					if ctx.Err() != nil {
						return err
					}
					refused = append(refused, verb+" on "+table)
				}
			}
		}
		return nil
	})
	slices.Sort(refused)
	return refused, err
}

func (c session) columns(ctx context.Context, table string) ([]string, error) {
	rows, err := c.query(ctx, "SELECT * FROM "+table+" WHERE 1 = 0", nil)
	if err != nil {
		return nil, c.s.classify(err, table)
	}
	defer rows.Close()
	return rows.Columns()
}

// scratchTable is made and dropped at once by MayMigrate.
const scratchTable = "gotrove_doctor"

// MayMigrate tells whether the login may change the schema, as Migrate does: it
// makes an empty table and drops it.
func (s *Store) MayMigrate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	c := session{s: s, db: s.writer}
	for _, statement := range []string{"CREATE TABLE " + scratchTable + " (id INTEGER)", "CREATE INDEX " + scratchTable + "_id ON " + scratchTable + " (id)",
		"DROP TABLE " + scratchTable} {
		if _, err := c.exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}
