package store

import (
	"strings"

	"github.com/pressly/goose/v3"
)

// dialect is what differs between database engines. Statements use `?`
// placeholders, pass booleans and times as arguments, and write LIMIT as
// `LIMIT ?`, which all our engines understand.
type dialect struct {
	migrations string        // folder of migrations
	goose      goose.Dialect // name of the engine for the migrator
	// bind rewrites `?` placeholders to the engine's.
	bind func(query string) string
	// nowMicros is an expression for the database's own clock in Unix
	// microseconds: what leases are compared with.
	nowMicros string
	// quote quotes an identifier: some of the original's columns have reserved
	// names (user, key). After a dot none needs it.
	quote func(name string) string
	// onConflict ends an INSERT so that a row with these key columns is not an
	// error: its columns set get the new values; without any, it stays.
	onConflict func(keys, set []string) string
	// retryable tells errors after which the same transaction may succeed.
	retryable func(error) bool
	// full tells the error of a disk that is full; nil where the disk is not
	// ours.
	full func(error) bool
	// explain turns a driver's error into what may be told, nil if it is
	// nothing to be expected.
	explain func(error) *explanation
	// tableExists is a query that counts tables with a name.
	tableExists string
}

// upsert makes an INSERT of columns keys and set that overwrites the columns
// set where there is a row with these keys already. The columns once are
// written on insert only. Arguments are in the order keys, set, once.
func (d *dialect) upsert(table string, keys, set []string, once ...string) string {
	cols := make([]string, 0, len(keys)+len(set)+len(once))
	for _, group := range [][]string{keys, set, once} {
		for _, c := range group {
			cols = append(cols, d.quote(c))
		}
	}
	return "INSERT INTO " + table + " (" + strings.Join(cols, ", ") + ") VALUES (" + marks(len(cols)) + ") " +
		d.onConflict(keys, set)
}

// marks is n placeholders for an IN list or VALUES.
func marks(n int) string { return strings.TrimSuffix(strings.Repeat("?, ", n), ", ") }
