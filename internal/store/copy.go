package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// Bounds of one INSERT of Copy.
const (
	copyRows  = 50
	copyBytes = 1 << 20
)

// Copy writes everything that is in one database into another, which may be of
// another engine: one snapshot of the one, one transaction in the other, so that
// whatever goes wrong the target stays empty. Both must be migrated to the
// version of this program; the target must hold no rows. progress, if not nil,
// is told of each table when it is done.
//
// What is written to from meanwhile is not copied: services are to be stopped.
// Errors: KindConflict if the target is not empty.
func Copy(ctx context.Context, from, to *Store, progress func(table string, rows int)) error {
	for _, s := range []*Store{from, to} {
		if err := s.CheckSchema(ctx); err != nil {
			return err
		}
	}
	source, err := from.snapshot(ctx)
	if err != nil {
		return err
	}
	defer source.tx.Rollback() //nolint:errcheck // nothing was written
	target, err := to.writer.BeginTx(ctx, nil)
	if err != nil {
		return to.classify(err, "BEGIN")
	}
	c := copier{from: source, to: session{s: to, db: to.writer, tx: target}}
	if err := c.all(ctx, progress); err != nil {
		return errors.Join(err, ignoreDone(target.Rollback()))
	}
	if err := target.Commit(); err != nil {
		return trove.Errorf(trove.KindUnavailable, "The end of the copy was not confirmed; the target holds all of it or nothing: %w",
			to.classify(err, "COMMIT")).WithAction("Look whether the target has instances; if not, run this again.")
	}
	return nil
}

func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

// snapshot begins a transaction that sees the database as it is now.
func (s *Store) snapshot(ctx context.Context) (session, error) {
	var options *sql.TxOptions
	if s.reader == s.writer { // not SQLite, which has no other
		options = &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	}
	tx, err := s.reader.BeginTx(ctx, options)
	return session{s: s, db: s.reader, tx: tx}, s.classify(err, "BEGIN")
}

type copier struct {
	from, to session
	// sources are the instances that others are replicas of: a row cannot refer
	// to one that is not there yet.
	sources map[string]string
}

func (c *copier) all(ctx context.Context, progress func(string, int)) error {
	c.sources = map[string]string{}
	tables := slices.Concat(originalTables, ownTables)
	for _, table := range tables {
		var n int
		if _, err := c.to.one(ctx, "SELECT COUNT(*) FROM "+table, nil, &n); err != nil {
			return err
		}
		if n > 0 {
			return trove.Errorf(trove.KindConflict, "The target is not empty: its table %s has %d rows.", table, n).
				WithAction("Copy into a new database on which only trove-manage db_sync was run.")
		}
	}
	for _, table := range tables {
		rows, err := c.table(ctx, table)
		if err != nil {
			return err
		}
		if progress != nil {
			progress(table, rows)
		}
	}
	for replica, source := range c.sources {
		if _, err := c.to.exec(ctx, "UPDATE instances SET slave_of_id = ? WHERE id = ?", source, replica); err != nil {
			return err
		}
	}
	if c.to.s.d.count == "" {
		return nil
	}
	for _, table := range numberedTables {
		var n int64
		if _, err := c.to.one(ctx, fmt.Sprintf(c.to.s.d.count, table, table), nil, &n); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) table(ctx context.Context, table string) (copied int, err error) {
	types, err := c.types(ctx, table)
	if err != nil {
		return 0, err
	}
	rows, err := c.from.query(ctx, "SELECT * FROM "+table, nil)
	if err != nil {
		return 0, c.from.s.classify(err, table)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return 0, c.from.s.classify(err, table)
	}
	var pending []any
	size := 0
	flush := func() error {
		if len(pending) == 0 {
			return nil
		}
		n := len(pending) / len(columns)
		_, err := c.to.exec(ctx, c.to.s.d.insert(table, n, columns), pending...)
		copied += n
		pending, size = nil, 0
		return err
	}
	for rows.Next() {
		row := make([]any, len(columns))
		into := make([]any, len(columns))
		for i := range row {
			into[i] = &row[i]
		}
		if err := rows.Scan(into...); err != nil {
			return 0, c.from.s.classify(err, table)
		}
		if table == "instances" {
			c.detach(columns, row)
		}
		for i, column := range columns {
			v, n, err := convert(row[i], types[column])
			if err != nil {
				return 0, trove.Errorf(trove.KindInternal, "Column %s of table %s cannot be copied: %w", column, table, err)
			}
			pending = append(pending, v)
			size += n
		}
		if len(pending) >= copyRows*len(columns) || size > copyBytes {
			if err := flush(); err != nil {
				return 0, err
			}
		}
	}
	if err := rows.Err(); err != nil {
		return 0, c.from.s.classify(err, table)
	}
	if err := flush(); err != nil {
		return 0, err
	}
	return copied, c.verify(ctx, table, copied)
}

// detach takes the reference to another instance out of a row, for later.
func (c *copier) detach(columns []string, row []any) {
	id, of := slices.Index(columns, "id"), slices.Index(columns, "slave_of_id")
	if row[of] == nil {
		return
	}
	c.sources[text(row[id])] = text(row[of])
	row[of] = nil
}

// verify counts on both sides.
func (c *copier) verify(ctx context.Context, table string, copied int) error {
	var there, here int
	if _, err := c.from.one(ctx, "SELECT COUNT(*) FROM "+table, nil, &there); err != nil {
		return err
	}
	if _, err := c.to.one(ctx, "SELECT COUNT(*) FROM "+table, nil, &here); err != nil {
		return err
	}
	if there != copied || here != copied {
		return trove.Errorf(trove.KindInternal, "Table %s has %d rows, of which %d were copied and %d arrived.", table, there, copied, here)
	}
	return nil
}

// types are the target's types of a table's columns.
func (c *copier) types(ctx context.Context, table string) (map[string]string, error) {
	rows, err := c.to.query(ctx, "SELECT * FROM "+table+" WHERE 1 = 0", nil)
	if err != nil {
		return nil, c.to.s.classify(err, table)
	}
	defer rows.Close()
	columns, err := rows.ColumnTypes()
	if err != nil {
		return nil, c.to.s.classify(err, table)
	}
	types := map[string]string{}
	for _, t := range columns {
		types[t.Name()] = strings.ToUpper(t.DatabaseTypeName())
	}
	return types, c.to.s.classify(rows.Err(), table)
}

func text(v any) string {
	if b, ok := v.([]byte); ok {
		return string(b)
	}
	return fmt.Sprint(v)
}

// timeLayouts are how times are written as text.
var timeLayouts = []string{"2006-01-02 15:04:05.999999999", "2006-01-02T15:04:05.999999999Z07:00", "2006-01-02"}

// convert makes a value fit a column of another engine. It also tells about how
// big it is.
func convert(v any, into string) (any, int, error) {
	if v == nil {
		return nil, 1, nil
	}
	switch {
	case strings.Contains(into, "BOOL"), into == "TINYINT":
		switch x := v.(type) {
		case bool:
			return x, 1, nil
		case int64:
			return x != 0, 1, nil
		}
		return nil, 0, fmt.Errorf("it is no boolean but %T", v)
	case into == "BYTEA", strings.Contains(into, "BLOB"):
		if s, ok := v.(string); ok {
			return []byte(s), len(s), nil
		}
		b, ok := v.([]byte)
		if !ok {
			return nil, 0, fmt.Errorf("it is no bytes but %T", v)
		}
		return slices.Clone(b), len(b), nil
	case strings.Contains(into, "TIMESTAMP"), strings.Contains(into, "DATETIME"):
		if t, ok := v.(time.Time); ok {
			return t.UTC().Truncate(time.Second), 8, nil
		}
		for _, layout := range timeLayouts {
			if t, err := time.Parse(layout, text(v)); err == nil {
				return t.UTC().Truncate(time.Second), 8, nil
			}
		}
		return nil, 0, errors.New("it is no time")
	case strings.Contains(into, "CHAR"), strings.Contains(into, "TEXT"):
		s := text(v)
		return s, len(s), nil
	}
	return v, 8, nil
}
