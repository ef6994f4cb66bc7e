package store

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// OutboxRow is a message that must arrive. Body holds passwords: it is never
// to be logged.
type OutboxRow struct {
	Seq    int64  // order of writing; set by the store
	ID     string // unique id of the message
	Topic  string
	Method string // for people, and to find a message like it
	// Subject is the instance the message is about; the store sets it where it
	// writes the row with a change of an instance.
	Subject string
	// InstanceID is the instance whose guest agent must say that it handled
	// the message; empty if it is not for a guest agent.
	InstanceID string
	Body       []byte
	Created    time.Time // set by the store
	Deadline   time.Time // when it is given up; never, if zero
	// GiveUpAfter, if set, makes the deadline so long after the writing.
	GiveUpAfter time.Duration
	Attempts    int // how often it was published
	// Left is how long the claim on the row lasts, counted from before it was
	// asked for. Past says that the row is to be given up instead.
	Left time.Duration
	Past bool
}

// InsertOutbox writes messages that belong to no change of an instance.
func (s *Store) InsertOutbox(ctx context.Context, rows ...OutboxRow) error {
	return s.tx(ctx, func(ctx context.Context, t *tx) error { return t.insertOutbox(ctx, "", rows) })
}

// bornClaim is how long a row is left to the relay of the process that wrote
// it before another takes it over.
const bornClaim = 5 * time.Second

// ServeOutbox says that a relay of this process publishes, as owner, what the
// process writes: rows are claimed by it as they are written, until stop is
// called. written gives hints as OutboxChanged does. A process has one relay.
func (s *Store) ServeOutbox(owner string) (written <-chan struct{}, stop func()) {
	written, cancel := s.OutboxChanged()
	s.relay.Store(&owner)
	return written, func() { s.relay.CompareAndSwap(&owner, nil); cancel() }
}

func (t *tx) insertOutbox(ctx context.Context, subject string, rows []OutboxRow) error {
	claimedBy, claim := "", time.Duration(0)
	if relay := t.s.relay.Load(); relay != nil {
		claimedBy, claim = *relay, bornClaim
	}
	for _, r := range rows {
		about := cmp.Or(subject, r.Subject, r.InstanceID)
		if err := fits(field{"message id", r.ID, 64}, field{"topic", r.Topic, 255}, field{"method", r.Method, 64},
			field{"subject", about, 36}, field{"instance id", r.InstanceID, 36}); err != nil {
			return err
		}
		if there, err := t.sent(ctx, []OutboxRow{r}); err != nil {
			return err
		} else if there {
			continue
		}
		deadline, args := "?", []any{micros(r.Deadline)}
		if r.GiveUpAfter > 0 {
			deadline, args = t.s.d.nowMicros+" + ?", []any{r.GiveUpAfter.Microseconds()}
		}
		args = append([]any{r.ID, r.Topic, r.Method, about, r.InstanceID, t.s.seal(outboxPlace(r.ID), r.Body), claim.Microseconds(), 0, claimedBy}, args...)
		if _, err := t.exec(ctx, `INSERT INTO outbox (id, topic, method, subject, instance_id, body, created, next_at, attempts, claimed_by, deadline)
			VALUES (?, ?, ?, ?, ?, ?, `+t.s.d.nowMicros+", "+t.s.d.nowMicros+" + ?, ?, ?, "+deadline+")", args...); err != nil {
			return err
		}
		t.outboxChanged()
	}
	return nil
}

// ready is the condition for a row o that owner may publish now: it is due, or
// owner's already, and in front of it, on the same subject and topic, is none
// that was never published or is being published by another. Its arguments are
// readyArgs.
func (c session) ready() string {
	return "(o.next_at <= " + c.s.d.nowMicros + ` OR o.claimed_by = ?) AND NOT EXISTS (SELECT 1 FROM outbox p
		WHERE p.subject = o.subject AND p.topic = o.topic AND p.seq < o.seq
		AND (p.attempts = 0 OR p.claimed_by <> '') AND p.claimed_by <> ? AND p.next_at > ` + c.s.d.nowMicros + ")"
}

// ReadyTopics gives the topics with rows that owner may publish now, those with
// the oldest first, at most limit.
func (s *Store) ReadyTopics(ctx context.Context, owner string, limit int) (topics []string, err error) {
	err = s.read(ctx, func(ctx context.Context, c session) error {
		topics = nil
		return c.each(ctx, "SELECT o.topic FROM outbox o WHERE "+c.ready()+" GROUP BY o.topic ORDER BY MIN(o.seq) LIMIT ?",
			[]any{owner, owner, limit}, func(r *sql.Rows) error {
				var topic string
				err := r.Scan(&topic)
				topics = append(topics, topic)
				return err
			})
	})
	return topics, err
}

// ClaimOutbox gives owner up to limit rows of a topic that it may publish now, in
// the order they were written, for at least half of hold.
func (s *Store) ClaimOutbox(ctx context.Context, owner, topic string, limit int, hold time.Duration) ([]OutboxRow, error) {
	type candidate struct {
		OutboxRow
		claimedBy string
	}
	var found []candidate
	err := s.read(ctx, func(ctx context.Context, c session) error {
		found = nil
		return c.each(ctx, "SELECT "+outboxColumns+", o.claimed_by, o.next_at - "+s.d.nowMicros+
			", CASE WHEN o.deadline > 0 AND o.deadline <= "+s.d.nowMicros+` THEN 1 ELSE 0 END
			FROM outbox o WHERE o.topic = ? AND `+c.ready()+" ORDER BY o.seq LIMIT ?",
			[]any{topic, owner, owner, limit}, func(r *sql.Rows) error {
				var one candidate
				var left int64
				var past int
				err := scanOutbox(r, &one.OutboxRow, &one.claimedBy, &left, &past)
				one.Left, one.Past = time.Duration(left)*time.Microsecond, past > 0
				found = append(found, one)
				return err
			})
	})
	if err != nil || len(found) == 0 {
		return nil, err
	}
	mine := func(c candidate) bool { return c.claimedBy == owner && c.Left >= hold/2 }
	if !slices.ContainsFunc(found, func(c candidate) bool { return !mine(c) }) {
		claimed := make([]OutboxRow, len(found))
		for i, c := range found {
			claimed[i] = c.OutboxRow
		}
		return s.openBodies(ctx, owner, claimed) // the usual case: we wrote them, and nothing is to be written
	}
	var claimed []OutboxRow
	err = s.tx(ctx, func(ctx context.Context, t *tx) error {
		claimed = nil
		taken := map[string]bool{} // subjects whose next row another has
		for _, c := range found {
			switch {
			case taken[c.Subject]:
				continue
			case !mine(c):
				// Still as it was seen, and then due or already owner's.
				n, err := t.exec(ctx, "UPDATE outbox SET claimed_by = ?, next_at = "+s.d.nowMicros+` + ?
					WHERE seq = ? AND claimed_by = ? AND attempts = ? AND (claimed_by = ? OR next_at <= `+s.d.nowMicros+")",
					owner, hold.Microseconds(), c.Seq, c.claimedBy, c.Attempts, owner)
				if err != nil {
					return err
				}
				if n == 0 {
					taken[c.Subject] = true
					continue
				}
				c.Left = hold
			}
			claimed = append(claimed, c.OutboxRow)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.openBodies(ctx, owner, claimed)
}

// Sent is what became of a claimed row.
type Sent struct {
	ID        string
	Published bool
	// Gone deletes the row: its receiver never says that it has it.
	Gone bool
	// Again is in how long it is published again if it is still there.
	Again time.Duration
}

// settleMost bounds the rows of one statement of SettleOutbox.
const settleMost = 32

// SettleOutbox ends owner's claims on rows. A claim that was lost is no error:
// who has it now publishes the row.
func (s *Store) SettleOutbox(ctx context.Context, owner string, rows ...Sent) error {
	var gone, published, back []Sent
	for _, r := range rows {
		switch {
		case r.Gone:
			gone = append(gone, r)
		case r.Published:
			published = append(published, r)
		default:
			back = append(back, r)
		}
	}
	for _, of := range []struct {
		rows      []Sent
		statement func([]Sent) (string, []any)
	}{
		{gone, func(rows []Sent) (string, []any) {
			return "DELETE FROM outbox WHERE id IN (" + marks(len(rows)) + ")", sentIDs(rows)
		}},
		{published, func(rows []Sent) (string, []any) {
			return s.settle("attempts = attempts + 1, published_at = "+s.d.nowMicros+", ", owner, rows)
		}},
		{back, func(rows []Sent) (string, []any) { return s.settle("", owner, rows) }},
	} {
		for some := range slices.Chunk(of.rows, settleMost) {
			for n := len(some); n&(n-1) != 0; n++ { // so that statements have few texts
				some = append(some[:n:n], some[n-1])
			}
			query, args := of.statement(some)
			if err := s.write(ctx, func(ctx context.Context, c session) error {
				_, err := c.exec(ctx, query, args...)
				return err
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

func sentIDs(rows []Sent) []any {
	ids := make([]any, len(rows))
	for i, r := range rows {
		ids[i] = r.ID
	}
	return ids
}

// settle is a statement that gives rows back until each is due again, which is
// not after its deadline.
func (s *Store) settle(set, owner string, rows []Sent) (string, []any) {
	var again []any
	for _, r := range rows {
		again = append(again, r.ID, r.Again.Microseconds())
	}
	next := s.d.nowMicros + " + CASE id" + strings.Repeat(" WHEN ? THEN "+s.d.bigint, len(rows)) + " ELSE 0 END"
	return "UPDATE outbox SET " + set + "claimed_by = '', next_at = CASE WHEN deadline > 0 AND deadline < " + next +
			" THEN deadline ELSE " + next + " END WHERE claimed_by = ? AND id IN (" + marks(len(rows)) + ")",
		slices.Concat(again, again, []any{owner}, sentIDs(rows))
}

// RepeatOutbox makes rows due that were last published longer than ago ago and
// that nobody has acknowledged: a broker that has restarted may have forgotten
// them. When several processes ask for it, each row is published once more.
func (s *Store) RepeatOutbox(ctx context.Context, ago time.Duration) error {
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		n, err := t.exec(ctx, "UPDATE outbox SET next_at = "+s.d.nowMicros+` WHERE attempts > 0 AND claimed_by = ''
			AND next_at > `+s.d.nowMicros+" AND published_at <= "+s.d.nowMicros+" - ?", ago.Microseconds())
		if n > 0 {
			t.outboxChanged()
		}
		return err
	})
}

const outboxColumns = "o.seq, o.id, o.topic, o.method, o.subject, o.instance_id, o.body, o.created, o.attempts, o.deadline"

// scanOutbox scans outboxColumns and what follows them.
func scanOutbox(r *sql.Rows, o *OutboxRow, more ...any) error {
	var created, deadline int64
	err := r.Scan(append([]any{&o.Seq, &o.ID, &o.Topic, &o.Method, &o.Subject, &o.InstanceID, &o.Body,
		&created, &o.Attempts, &deadline}, more...)...)
	o.Created, o.Deadline = fromMicros(created), fromMicros(deadline)
	return err
}

// Outbox gives at most limit rows after the row with seq after, in the order they
// were written, whoever has them.
func (s *Store) Outbox(ctx context.Context, after int64, limit int) (rows []OutboxRow, err error) {
	err = s.read(ctx, func(ctx context.Context, c session) error {
		rows = nil
		return c.each(ctx, "SELECT "+outboxColumns+" FROM outbox o WHERE o.seq > ? ORDER BY o.seq LIMIT ?", []any{after, limit},
			func(r *sql.Rows) error {
				var o OutboxRow
				err := scanOutbox(r, &o)
				rows = append(rows, o)
				return err
			})
	})
	for i := range rows {
		rows[i].Body, _ = s.opened(ctx, outboxPlace(rows[i].ID), rows[i].Body)
	}
	return rows, err
}

// OutboxHas reports whether a message is still to be sent, or to be sent again.
func (s *Store) OutboxHas(ctx context.Context, id string) (has bool, err error) {
	err = s.read(ctx, func(ctx context.Context, c session) error {
		var is string
		_, err := c.one(ctx, "SELECT id FROM outbox WHERE id = ?", []any{id}, &is)
		has = is == id && id != ""
		return err
	})
	return has, err
}

// GuestPending reports whether an instance's guest agent has yet to handle a
// message.
func (s *Store) GuestPending(ctx context.Context, instanceID string) (bool, error) {
	var n int
	err := s.read(ctx, func(ctx context.Context, c session) error {
		// By subject too: it is the column with an index.
		_, err := c.one(ctx, "SELECT COUNT(*) FROM outbox WHERE subject = ? AND instance_id = ?", []any{instanceID, instanceID}, &n)
		return err
	})
	return n > 0, err
}

// DeleteOutbox takes a row back or records that its receiver has it.
func (s *Store) DeleteOutbox(ctx context.Context, id string) error {
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		_, err := t.exec(ctx, "DELETE FROM outbox WHERE id = ?", id)
		return err
	})
}

// expireBatch bounds one transaction of ExpireOutbox.
const expireBatch = 100

// ExpireOutbox gives up rows past their deadline, at most a hundred at a time:
// they are deleted, and their instance gets a fault that says so. They are
// returned without their bodies.
func (s *Store) ExpireOutbox(ctx context.Context) (rows []OutboxRow, err error) {
	err = s.tx(ctx, func(ctx context.Context, t *tx) error {
		rows = nil
		var expired []OutboxRow
		if err := t.each(ctx, "SELECT "+outboxColumns+" FROM outbox o WHERE o.deadline > 0 AND o.deadline <= "+s.d.nowMicros+
			" ORDER BY o.seq LIMIT ?", []any{expireBatch}, func(r *sql.Rows) error {
			var o OutboxRow
			err := scanOutbox(r, &o)
			o.Body = nil
			expired = append(expired, o)
			return err
		}); err != nil {
			return err
		}
		for _, r := range expired {
			n, err := t.exec(ctx, "DELETE FROM outbox WHERE seq = ?", r.Seq)
			if err != nil {
				return err
			}
			if n == 0 {
				continue // another process gave it up, or it was acknowledged at last
			}
			rows = append(rows, r)
			live, err := t.live(ctx, r.Subject)
			if err != nil {
				return err
			}
			if live {
				if err := t.setFault(ctx, r.Subject, trove.Fault{Message: expiry(r)}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return rows, err
}

func expiry(r OutboxRow) string {
	who := "The guest agent"
	if r.InstanceID == "" {
		who = "The task manager"
	}
	return fmt.Sprintf("%s did not carry out %s within %s.", who, r.Method, r.Deadline.Sub(r.Created).Round(time.Second))
}
