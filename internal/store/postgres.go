package store

import (
	"database/sql"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/gotrove/gotrove/internal/trove"
)

// postgresOptions are the options of a URL that we pass on to the driver:
// libpq's.
var postgresOptions = []string{"host", "port", "sslmode", "sslrootcert", "sslcert", "sslkey", "application_name", "target_session_attrs"}

// openPostgres opens the pool of connections.
func openPostgres(t target, p Pool, log *slog.Logger) (*sql.DB, error) {
	settings := map[string]string{"user": t.user, "password": t.password.Reveal(), "host": t.host, "port": t.port,
		"dbname": t.database, "application_name": "gotrove"}
	for name, v := range t.options {
		if !slices.Contains(postgresOptions, name) {
			log.Warn("an option of [database] connection has no effect", "option", name)
			continue
		}
		settings[name] = v
	}
	var words []string
	for name, v := range settings {
		if v != "" {
			words = append(words, name+"='"+strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(v)+"'")
		}
	}
	slices.Sort(words)
	c, err := pgx.ParseConfig(strings.Join(words, " "))
	if err != nil {
		// The driver's text repeats what it was given.
		return nil, badURL("the driver cannot use its options (sslmode and the files of certificates)")
	}
	c.ConnectTimeout = dialTimeout
	for name, v := range map[string]string{
		"timezone": "UTC", "client_encoding": "UTF8", "standard_conforming_strings": "on",
		// docs/decisions/0014.
		"default_transaction_isolation":       "read committed",
		"lock_timeout":                        millis(lockTimeout),
		"idle_in_transaction_session_timeout": millis(callTimeout + 5*time.Second),
	} {
		c.RuntimeParams[name] = v
	}
	db := sql.OpenDB(patient{stdlib.GetConnector(*c), func(err error) bool { return postgresCode(err, postgresTooManyConnections) }})
	p.apply(db)
	return db, nil
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

func postgresDialect() *dialect {
	return &dialect{
		migrations:  "migrations/postgres",
		goose:       goose.DialectPostgres,
		bind:        newNumbering().bind,
		nowMicros:   "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000000 AS BIGINT)",
		nowSeconds:  "date_trunc('second', statement_timestamp() AT TIME ZONE 'UTC')",
		bigint:      "CAST(? AS BIGINT)",
		forUpdate:   " FOR NO KEY UPDATE", // FOR UPDATE would wait for those who only refer to the row
		quote:       func(name string) string { return `"` + name + `"` },
		onConflict:  onConflict,
		verdict:     postgresVerdict,
		explain:     explainPostgres,
		tableExists: "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = current_schema() AND table_name = ?",
		count:       "SELECT setval(pg_get_serial_sequence('%s', 'seq'), (SELECT COALESCE(MAX(seq), 0) + 1 FROM %s), false)",
		// In this order: the row of set_config is made first.
		lock:     "SELECT 1 FROM (SELECT set_config('lock_timeout', ?, false) OFFSET 0) s, LATERAL (SELECT pg_advisory_lock(hashtext('gotrove'))) l",
		lockWait: func(d time.Duration) any { return millis(d) },
	}
}

// postgresGone are codes that a server sends when it goes away or is not there
// yet, beside those of class 08.
var postgresGone = []string{"57P01", "57P02", "57P03", "57P05", "25P03"}

func postgresLost(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return slices.Contains(postgresGone, e.Code) || strings.HasPrefix(e.Code, "08")
	}
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	return connecting || connectionLost(err) || pgconn.SafeToRetry(err)
}

const (
	postgresTooManyConnections = "53300"
	postgresReadOnly           = "25006"
)

func postgresCode(err error, code string) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == code
}

func postgresVerdict(err error) verdict {
	if postgresCode(err, postgresReadOnly) {
		return demoted
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && slices.Contains([]string{"40001", "40P01", "55P03"}, e.Code) {
		return again
	}
	if postgresLost(err) {
		return lost
	}
	return final
}

func explainPostgres(err error) *explanation {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		if postgresLost(err) {
			return away()
		}
		return nil
	}
	switch {
	case e.Code == "23505":
		return &explanation{trove.KindConflict, "There is one like it already.", ""}
	case e.Code == "23503":
		return &explanation{trove.KindBadRequest, "It refers to something that does not exist.", ""}
	case e.Code == "22021", e.Code == "22P05":
		return &explanation{trove.KindBadRequest, "The text has characters that the database cannot hold.", "Leave them out."}
	case e.Code == "22001":
		return &explanation{trove.KindBadRequest, "A text is too long for the database.", ""}
	case slices.Contains([]string{"40001", "40P01", "55P03"}, e.Code):
		return &explanation{trove.KindUnavailable, "The database is busy.", "Try again."}
	case strings.HasPrefix(e.Code, "28"), e.Code == "42501":
		return &explanation{trove.KindUnavailable, "The database refuses the login, or a right that is needed.",
			"Make the user of [database] connection the owner of the database."}
	case e.Code == "3D000":
		return &explanation{trove.KindUnavailable, "There is no database of this name.", "Create it."}
	case e.Code == "42P01", e.Code == "42703":
		return &explanation{trove.KindUnavailable, "The database has not the schema that is needed.", "Run trove-manage db_sync."}
	case e.Code == postgresReadOnly:
		return onlyRead()
	case e.Code == "53100":
		return &explanation{trove.KindUnavailable, "The database cannot be written: its disk is full.", "Make room on the database server's disk."}
	case e.Code == postgresTooManyConnections:
		return &explanation{trove.KindUnavailable, "The database has too many connections.",
			"Raise its max_connections, or lower [database] max_overflow."}
	case e.Code == "57014":
		return &explanation{trove.KindUnavailable, "The database did not answer in time.", "Try again."}
	}
	if postgresLost(err) {
		return away()
	}
	return nil
}
