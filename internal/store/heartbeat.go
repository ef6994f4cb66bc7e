package store

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// Beat is what a guest agent said.
type Beat struct {
	Status *trove.ServiceStatus
	Sent   *float64 // the sender's clock, Unix seconds
	Done   []string // ids of outbox rows that the agent has handled
}

// InstanceBeat is a beat of an instance's agent.
type InstanceBeat struct {
	InstanceID string
	Beat
}

// BeatResult is what became of a beat; see Heartbeat.
type BeatResult struct {
	Applied bool
	Err     error
}

// maxDone bounds the ids of one beat; those beyond come again.
const maxDone = 500

// Heartbeat records a beat. Rows of the outbox that the agent has handled go.
// A beat that is not newer than the last one is dropped (applied is false), and
// so is one while the stored status is RESTART_REQUIRED, which only the control
// plane takes back. A change of status wakes the instance's work. KindNotFound
// if there is no such instance.
func (s *Store) Heartbeat(ctx context.Context, id string, b Beat) (applied bool, err error) {
	r := s.Heartbeats(ctx, []InstanceBeat{{id, b}})[0]
	return r.Applied, r.Err
}

// Heartbeats is Heartbeat for many, a few hundred at most, in one transaction
// with a number of statements that does not depend on theirs. What several of
// one instance leave behind is as if they came one after the other. One that
// the database does not take is an error of its own and of no other.
func (s *Store) Heartbeats(ctx context.Context, beats []InstanceBeat) []BeatResult {
	results := make([]BeatResult, len(beats))
	if len(beats) == 0 {
		return results
	}
	err := s.tx(ctx, func(ctx context.Context, t *tx) error { return t.heartbeats(ctx, beats, results) })
	switch {
	case err == nil:
	case len(beats) == 1 || trove.IsKind(err, trove.KindUnavailable):
		for i := range results {
			results[i] = BeatResult{Err: err}
		}
	default:
		// Which of them it was the error does not say.
		half := len(beats) / 2
		copy(results, s.Heartbeats(ctx, beats[:half]))
		copy(results[half:], s.Heartbeats(ctx, beats[half:]))
	}
	return results
}

// LastBeat is when the last beat of an instance's agent was sent, by the agent's
// clock; zero if there was none, or if that clock was wrong as in take.
func (s *Store) LastBeat(ctx context.Context, instanceID string) (last time.Time, err error) {
	var sent sql.NullFloat64
	var now int64
	err = s.read(ctx, func(ctx context.Context, c session) error {
		_, err := c.one(ctx, "SELECT sent, "+s.d.nowMicros+" FROM conductor_lastseen WHERE instance_id = ? AND method_name = 'heartbeat'",
			[]any{instanceID}, &sent, &now)
		return err
	})
	if err != nil || !sent.Valid || sent.Float64 > float64(s.serverTime(now).Unix())+maxAhead {
		return time.Time{}, err
	}
	return time.UnixMicro(int64(sent.Float64 * 1e6)), nil
}

// pulse is what the database holds of the beats of one instance, and what it
// is to hold.
type pulse struct {
	live    bool
	sent    sql.NullFloat64
	status  trove.ServiceStatus
	rows    []string // of service_statuses: the original's schema allows several
	newSent bool     // sent is to be written
	said    bool     // status is to be written, be it the same: its time is told too
	changed bool     // status is not what it was
}

// handled is a row of the outbox, and the guest that says it is handled.
type handled struct{ row, instance string }

// heartbeats fills in results, afresh each time it runs.
func (t *tx) heartbeats(ctx context.Context, beats []InstanceBeat, results []BeatResult) error {
	if len(beats) > 1 {
		t.prepared = nil // these texts are of any length: they do not come again
	}
	pulses, ids, now, err := t.pulses(ctx, beats)
	if err != nil {
		return err
	}
	done := map[handled]bool{}
	latest := float64(now.Unix()) + maxAhead
	for i, b := range beats {
		p := pulses[b.InstanceID]
		if !p.live {
			results[i] = BeatResult{Err: notFound(b.InstanceID)}
			continue
		}
		// Also of a beat that is too old: what was handled then is handled.
		for _, row := range b.Done[:min(len(b.Done), maxDone)] {
			done[handled{row, b.InstanceID}] = true
		}
		results[i] = BeatResult{Applied: p.take(b.Beat, latest)}
	}
	if err := t.acknowledge(ctx, done); err != nil {
		return err
	}
	return t.writePulses(ctx, pulses, ids, now)
}

// maxAhead is how far, in seconds, a guest's clock may be ahead of the
// database's.
const maxAhead = 60

// take is what one beat changes; it reports whether it is applied. The order
// is the senders': the original's rule. A time later than latest orders
// nothing: its clock was wrong, and has perhaps been set back since.
func (p *pulse) take(b Beat, latest float64) bool {
	if b.Sent != nil {
		if p.sent.Valid && *b.Sent <= p.sent.Float64 && p.sent.Float64 <= latest {
			return false
		}
		p.sent, p.newSent = sql.NullFloat64{Float64: *b.Sent, Valid: true}, true
	}
	if b.Status == nil {
		return true
	}
	if p.status == trove.ServiceRestartRequired {
		return false
	}
	p.changed = p.changed || p.status != *b.Status
	p.status, p.said = *b.Status, true
	return true
}

// pulses reads what there is of the instances of beats, and lets nobody else
// change it. ids are those instances, in the order in which all who lock
// several do so. now is the database's clock.
func (t *tx) pulses(ctx context.Context, beats []InstanceBeat) (_ map[string]*pulse, ids []any, now time.Time, err error) {
	pulses := make(map[string]*pulse, len(beats))
	for _, b := range beats {
		if pulses[b.InstanceID] == nil {
			pulses[b.InstanceID] = &pulse{}
			ids = append(ids, b.InstanceID)
		}
	}
	slices.SortFunc(ids, byText)
	// A server that reads all of a small table instead would wait for those
	// who hold other rows of it.
	instances := " FROM instances"
	if byIndex := t.s.d.byIndex; byIndex != nil {
		instances += byIndex("PRIMARY")
	}
	where := " WHERE instances.id IN (" + marks(len(ids)) + ")"
	var micros int64
	if err := t.each(ctx, "SELECT id, deleted, "+t.s.d.nowMicros+instances+where+" ORDER BY id"+t.s.d.forUpdate, ids, func(r *sql.Rows) error {
		var id string
		var deleted sql.NullBool
		err := r.Scan(&id, &deleted, &micros)
		// The collation of a database that the original made may take another
		// id for the same.
		if p := pulses[id]; p != nil && id != "" {
			p.live = deleted.Valid && !deleted.Bool
		}
		return err
	}); err != nil {
		return nil, nil, now, err
	}
	now = t.s.serverTime(micros)
	var several []any
	if err := t.each(ctx, "SELECT instances.id, c.sent, s.id, s.status_id, s.status_description"+instances+`
		LEFT JOIN conductor_lastseen c ON c.instance_id = instances.id AND c.method_name = 'heartbeat'
		LEFT JOIN service_statuses s ON s.instance_id = instances.id`+where, ids, func(r *sql.Rows) error {
		var id string
		var sent sql.NullFloat64
		var row, description sql.NullString
		var code sql.NullInt64
		err := r.Scan(&id, &sent, &row, &code, &description)
		p := pulses[id]
		if p == nil {
			return err
		}
		p.sent = sent
		if row.Valid {
			p.status = trove.ServiceStatus{Code: int(code.Int64), Description: description.String}
			p.rows = append(p.rows, row.String)
		}
		if len(p.rows) == 2 {
			several = append(several, id)
		}
		return err
	}); err != nil || len(several) == 0 {
		return pulses, ids, now, err
	}
	// Of several rows the last written tells.
	err = t.each(ctx, "SELECT instance_id, status_id, status_description FROM service_statuses WHERE instance_id IN ("+marks(len(several))+") ORDER BY updated_at",
		several, func(r *sql.Rows) error {
			var id string
			var status trove.ServiceStatus
			err := r.Scan(&id, &status.Code, &status.Description)
			if p := pulses[id]; p != nil {
				p.status = status
			}
			return err
		})
	return pulses, ids, now, err
}

// writePulses writes what is to be, and wakes the work of those whose status
// changed.
func (t *tx) writePulses(ctx context.Context, pulses map[string]*pulse, ids []any, now time.Time) error {
	var sent, said, changed []any
	now = now.UTC().Truncate(time.Second)
	for _, id := range ids {
		p := pulses[id.(string)]
		if p.newSent {
			sent = append(sent, id, "heartbeat", p.sent.Float64)
		}
		if p.said {
			if len(p.rows) == 0 {
				p.rows = []string{trove.NewID()}
			}
			for _, row := range p.rows {
				said = append(said, row, p.status.Code, p.status.Description, now, id)
			}
		}
		if p.changed {
			changed = append(changed, id)
		}
	}
	for _, w := range []struct {
		table     string
		keys, set []string
		once      []string
		values    []any
	}{
		{"conductor_lastseen", []string{"instance_id", "method_name"}, []string{"sent"}, nil, sent},
		{"service_statuses", []string{"id"}, []string{"status_id", "status_description", "updated_at"}, []string{"instance_id"}, said},
	} {
		if len(w.values) == 0 {
			continue
		}
		rows := len(w.values) / (len(w.keys) + len(w.set) + len(w.once))
		if _, err := t.exec(ctx, t.s.d.insert(w.table, rows, w.keys, w.set, w.once)+" "+t.s.d.onConflict(w.keys, w.set), w.values...); err != nil {
			return err
		}
	}
	if len(changed) == 0 {
		return nil
	}
	n, err := t.exec(ctx, "UPDATE work SET run_at = "+t.s.d.nowMicros+`, wakes = wakes + 1
		WHERE subject IN (`+marks(len(changed))+`) AND outcome IN ('pending', 'running')`, changed...)
	if n > 0 {
		t.workChanged()
	}
	return err
}

// acknowledge deletes rows of the outbox that the guest had to handle that says
// so; those of others stay.
func (t *tx) acknowledge(ctx context.Context, done map[handled]bool) error {
	var ids []any
	for d := range done {
		ids = append(ids, d.row)
	}
	slices.SortFunc(ids, byText)
	for some := range slices.Chunk(slices.Compact(ids), maxDone) {
		var theirs []any
		if err := t.each(ctx, "SELECT id, instance_id FROM outbox WHERE id IN ("+marks(len(some))+") ORDER BY id", some, func(r *sql.Rows) error {
			var id, instance string
			err := r.Scan(&id, &instance)
			if instance != "" && done[handled{id, instance}] {
				theirs = append(theirs, id)
			}
			return err
		}); err != nil {
			return err
		}
		if len(theirs) == 0 {
			continue
		}
		n, err := t.exec(ctx, "DELETE FROM outbox WHERE id IN ("+marks(len(theirs))+")", theirs...)
		if err != nil {
			return err
		}
		if n > 0 {
			t.outboxChanged()
		}
	}
	return nil
}

// byText orders arguments that are texts.
func byText(a, b any) int { return strings.Compare(a.(string), b.(string)) }
