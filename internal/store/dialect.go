package store

import (
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pressly/goose/v3"
)

// dialect is what differs between database engines. Statements use `?`
// placeholders, pass booleans and times as arguments, and write LIMIT as
// `LIMIT ?`, which all our engines understand.
type dialect struct {
	migrations string        // folder of migrations
	goose      goose.Dialect // name of the engine for the migrator
	exact      string        // MySQL's collation under which only the same text is equal
	// bind rewrites `?` placeholders to the engine's.
	bind func(query string) string
	// keep: compiled statements are kept by us, not by the driver.
	keep bool
	// nowMicros is an expression for the database's own clock in Unix
	// microseconds: what leases are compared with.
	nowMicros string
	// nowSeconds is the same for the original's columns: UTC, whole seconds.
	// Empty where the database runs in this process and has no clock but ours.
	nowSeconds string
	// bigint is a placeholder for a 64-bit number where the statement alone
	// does not say so.
	bigint string
	// forUpdate ends a SELECT that keeps others from the row until the end of
	// the transaction; empty where only one transaction writes at a time.
	forUpdate string
	// byIndex follows a table's name in FROM and has it read by an index, in its
	// order; nil where that cannot be said.
	byIndex func(index string) string
	// quote quotes an identifier: some of the original's columns have reserved
	// names (user, key). After a dot none needs it.
	quote func(name string) string
	// onConflict ends an INSERT so that a row with these key columns is not an
	// error: its columns set get the new values; without any, it stays. How
	// many rows were inserted cannot be told by it: see tx.insertNew.
	onConflict func(keys, set []string) string
	// duplicate tells the error for a row that is there already, after which
	// the transaction can go on; nil where it cannot.
	duplicate func(error) bool
	// verdict says what an error means for the transaction.
	verdict func(error) verdict
	// full tells the error of a disk that is full; nil where the disk is not
	// ours.
	full func(error) bool
	// explain turns a driver's error into what may be told, nil if it is
	// nothing to be expected.
	explain func(error) *explanation
	// tableExists is a query that counts tables with a name.
	tableExists string
	// count makes the numbers of a table (twice %s) go on after its highest;
	// empty where they do by themselves.
	count string
	// lock keeps other processes from migrating until the connection ends, and
	// gives 1; its argument is how long to wait, as lockWait writes it. Empty:
	// they cannot meet.
	lock     string
	lockWait func(time.Duration) any
}

// verdict is what an error means for a transaction that failed.
type verdict int

const (
	final   verdict = iota // it would fail again
	again                  // nothing was written; the same may succeed now
	lost                   // the connection is gone: whether a COMMIT was done is not known
	demoted                // nothing was written: this server only reads
)

// upsert makes an INSERT of columns keys and set that overwrites the columns
// set where there is a row with these keys already. The columns once are
// written on insert only. Arguments are in the order keys, set, once.
func (d *dialect) upsert(table string, keys, set []string, once ...string) string {
	return d.insert(table, 1, keys, set, once) + " " + d.onConflict(keys, set)
}

// insert makes an INSERT of so many rows.
func (d *dialect) insert(table string, rows int, groups ...[]string) string {
	var cols []string
	for _, group := range groups {
		for _, c := range group {
			cols = append(cols, d.quote(c))
		}
	}
	row := "(" + marks(len(cols)) + ")"
	return "INSERT INTO " + table + " (" + strings.Join(cols, ", ") + ") VALUES " + strings.TrimSuffix(strings.Repeat(row+", ", rows), ", ")
}

// marks is n placeholders for an IN list or VALUES.
func marks(n int) string { return strings.TrimSuffix(strings.Repeat("?, ", n), ", ") }

// onConflict is dialect.onConflict of SQLite and PostgreSQL.
func onConflict(keys, set []string) string {
	if len(set) == 0 {
		return "ON CONFLICT DO NOTHING"
	}
	q := func(name string) string { return `"` + name + `"` }
	var ks, ss []string
	for _, k := range keys {
		ks = append(ks, q(k))
	}
	for _, c := range set {
		ss = append(ss, q(c)+" = excluded."+q(c))
	}
	return "ON CONFLICT (" + strings.Join(ks, ", ") + ") DO UPDATE SET " + strings.Join(ss, ", ")
}

// maxKept bounds the texts kept, in bytes: longer ones are about so many rows
// that the same hardly comes again.
const maxKept = 4096

// numbering rewrites `?` to `$1`, `$2`… and remembers what it rewrote.
type numbering struct {
	mu   sync.RWMutex
	done map[string]string
}

func newNumbering() *numbering { return &numbering{done: map[string]string{}} }

func (n *numbering) bind(query string) string {
	n.mu.RLock()
	out, ok := n.done[query]
	n.mu.RUnlock()
	if ok {
		return out
	}
	out = number(query)
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.done) < maxPrepared && len(query) < maxKept {
		n.done[query] = out
	}
	return out
}

// number leaves what is in quotes as it is.
func number(query string) string {
	var b strings.Builder
	var quote rune
	count := 0
	for _, c := range query {
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case c == '?':
			count++
			b.WriteString("$" + strconv.Itoa(count))
			continue
		}
		b.WriteRune(c)
	}
	return b.String()
}
