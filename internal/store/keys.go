package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// Sealer keeps bodies of messages and states of work from being read in the
// database. A place names a table and a row: what is sealed for one opens for
// no other. It must open what was stored before there was a Sealer.
type Sealer interface {
	Seal(place string, plain []byte) []byte
	Open(place string, stored []byte) ([]byte, error)
	// Fresh tells whether stored is sealed as Seal would do it now.
	Fresh(place string, stored []byte) bool
}

func outboxPlace(id string) string { return "outbox " + id }
func workPlace(id string) string   { return "work " + id }

func (s *Store) seal(place string, plain []byte) []byte {
	if s.sealer == nil {
		return plain
	}
	return s.sealer.Seal(place, plain)
}

// opened is what was sealed. What cannot be opened is logged: the key may be
// missing here only, so nothing is done to the row.
func (s *Store) opened(ctx context.Context, place string, stored []byte) ([]byte, bool) {
	if s.sealer == nil {
		return stored, true
	}
	plain, err := s.sealer.Open(place, stored)
	if err != nil {
		s.log.ErrorContext(ctx, "a row cannot be opened and waits", "error", err, "action", trove.ActionOf(err))
	}
	return plain, err == nil
}

// unopenedPause is how long a row rests that cannot be opened.
const unopenedPause = time.Minute

// openBodies opens the bodies of rows that owner has claimed. One that cannot
// be opened is given back for a while, with those after it on its subject.
func (s *Store) openBodies(ctx context.Context, owner string, rows []OutboxRow) ([]OutboxRow, error) {
	if s.sealer == nil {
		return rows, nil
	}
	open := rows[:0]
	waits := map[string]bool{}
	var back []Sent
	for _, r := range rows {
		if !waits[r.Subject] {
			body, ok := s.opened(ctx, outboxPlace(r.ID), r.Body)
			if ok {
				r.Body = body
				open = append(open, r)
				continue
			}
			waits[r.Subject] = true
		}
		back = append(back, Sent{ID: r.ID, Again: unopenedPause})
	}
	if len(back) == 0 {
		return open, nil
	}
	return open, s.SettleOutbox(ctx, owner, back...)
}

// InstanceKeys gives the key that a live instance's messages are sealed with and
// the one that is to replace it, both encrypted and each empty if there is none.
// KindNotFound if there is no such instance.
func (s *Store) InstanceKeys(ctx context.Context, instanceID string) (current, pending string, err error) {
	err = s.read(ctx, func(ctx context.Context, c session) error {
		var key, next sql.NullString
		found, err := c.one(ctx, `SELECT i.encrypted_key, g.pending_key FROM instances i
			LEFT JOIN guest_credentials g ON g.instance_id = i.id AND g.pending > 0
			WHERE i.id = ? AND i.deleted = ?`, []any{instanceID, false}, &key, &next)
		if err == nil && !found {
			return notFound(instanceID)
		}
		current, pending = key.String, next.String
		return err
	})
	return current, pending, err
}

// SomeInstanceKeys gives encrypted keys of live instances by instance id, at
// most limit.
func (s *Store) SomeInstanceKeys(ctx context.Context, limit int) (map[string]string, error) {
	some := map[string]string{}
	err := s.read(ctx, func(ctx context.Context, c session) error {
		return c.each(ctx, "SELECT id, encrypted_key FROM instances WHERE deleted = ? AND encrypted_key IS NOT NULL ORDER BY id LIMIT ?",
			[]any{false, limit}, func(r *sql.Rows) error {
				var id, key string
				err := r.Scan(&id, &key)
				some[id] = key
				return err
			})
	})
	return some, err
}

// rekeyBatch is how many rows RekeyInstances and Reseal read at a time.
const rekeyBatch = 200

// columnsOfKeys are where encrypted keys of instances are.
var columnsOfKeys = []struct{ table, id, column string }{
	{"instances", "id", "encrypted_key"},
	{"guest_credentials", "instance_id", "pending_key"},
}

// RekeyInstances replaces every encrypted key, those of deleted instances too,
// by what change makes of it; the same is no change. A row that another process
// changed meanwhile is left to the next time. It returns how many it replaced,
// also with an error.
func (s *Store) RekeyInstances(ctx context.Context, change func(instanceID, encrypted string) string) (replaced int, err error) {
	type row struct{ id, key string }
	for _, at := range columnsOfKeys {
		for after := ""; ; {
			var page []row
			err := s.read(ctx, func(ctx context.Context, c session) error {
				page = nil
				return c.each(ctx, "SELECT "+at.id+", "+at.column+" FROM "+at.table+" WHERE "+at.id+" > ? AND "+at.column+" IS NOT NULL AND "+
					at.column+" <> '' ORDER BY "+at.id+" LIMIT ?", []any{after, rekeyBatch}, func(r *sql.Rows) error {
					var one row
					err := r.Scan(&one.id, &one.key)
					page = append(page, one)
					return err
				})
			})
			if err != nil {
				return replaced, err
			}
			for _, r := range page {
				to := change(r.id, r.key)
				if to == r.key {
					continue
				}
				err := s.tx(ctx, func(ctx context.Context, t *tx) error {
					n, err := t.exec(ctx, "UPDATE "+at.table+" SET "+at.column+" = ? WHERE "+at.id+" = ? AND "+at.column+" = ?", to, r.id, r.key)
					replaced += int(n)
					return err
				})
				if err != nil {
					return replaced, err
				}
			}
			if len(page) < rekeyBatch {
				break
			}
			after = page[len(page)-1].id
		}
	}
	return replaced, nil
}

// Reseal seals anew what is not sealed with the newest key. Rows that another
// process changed meanwhile are as new as that process. failed counts those
// that cannot be opened. The counts are right also with an error.
func (s *Store) Reseal(ctx context.Context) (resealed, failed int, err error) {
	if s.sealer == nil {
		return 0, 0, nil
	}
	type row struct {
		key    int64  // of the page
		id     string // of the page for work
		sealed []byte
	}
	again := func(place string, r row, update string, args ...any) error {
		if s.sealer.Fresh(place, r.sealed) {
			return nil
		}
		plain, ok := s.opened(ctx, place, r.sealed)
		if !ok {
			failed++
			return nil
		}
		return s.tx(ctx, func(ctx context.Context, t *tx) error {
			n, err := t.exec(ctx, update, append([]any{s.sealer.Seal(place, plain)}, args...)...)
			resealed += int(n)
			return err
		})
	}
	for after := int64(0); ; {
		var page []row
		if err := s.read(ctx, func(ctx context.Context, c session) error {
			page = nil
			return c.each(ctx, "SELECT seq, id, body FROM outbox WHERE seq > ? ORDER BY seq LIMIT ?", []any{after, rekeyBatch}, func(r *sql.Rows) error {
				var one row
				err := r.Scan(&one.key, &one.id, &one.sealed)
				page = append(page, one)
				return err
			})
		}); err != nil {
			return resealed, failed, err
		}
		for _, r := range page {
			if err := again(outboxPlace(r.id), r, "UPDATE outbox SET body = ? WHERE seq = ?", r.key); err != nil {
				return resealed, failed, err
			}
		}
		if len(page) < rekeyBatch {
			break
		}
		after = page[len(page)-1].key
	}
	for after := ""; ; {
		var page []row
		if err := s.read(ctx, func(ctx context.Context, c session) error {
			page = nil
			return c.each(ctx, "SELECT w.id, w.version, w.state FROM work w WHERE w.id > ? AND "+unfinished+" ORDER BY w.id LIMIT ?",
				[]any{after, rekeyBatch}, func(r *sql.Rows) error {
					var one row
					err := r.Scan(&one.id, &one.key, &one.sealed)
					page = append(page, one)
					return err
				})
		}); err != nil {
			return resealed, failed, err
		}
		for _, r := range page {
			if err := again(workPlace(r.id), r, "UPDATE work SET state = ? WHERE id = ? AND version = ?", r.id, r.key); err != nil {
				return resealed, failed, err
			}
		}
		if len(page) < rekeyBatch {
			break
		}
		after = page[len(page)-1].id
	}
	return resealed, failed, nil
}
