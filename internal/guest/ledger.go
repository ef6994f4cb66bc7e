package guest

import (
	"cmp"
	"slices"
	"time"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/trove"
)

// maxHandled bounds each ledger.
const maxHandled = 1024

// ledger is which messages were taken, as far as that must be known: the newest
// by the time in their seals, and which time is older than all of them. Only times
// of senders are compared, so that no clock of ours or theirs need be right. It is
// changed by making another.
type ledger struct {
	Taken []taken `json:"taken,omitempty"`
	// Floor is the newest time that was dropped from Taken: what was made then or
	// before may have been taken.
	Floor int64 `json:"floor,omitempty"`
}

// taken is a message by its unique id.
type taken struct {
	ID   string `json:"id"`
	Made int64  `json:"made,omitempty"` // microseconds since 1970; 0 if its seal does not tell
}

// standing is what a ledger knows of a message.
type standing uint8

const (
	standingNew standing = iota
	standingTaken
	standingUnknown // it is too old to tell
)

func (l ledger) of(id string, made time.Time) standing {
	switch {
	case slices.ContainsFunc(l.Taken, func(t taken) bool { return t.ID == id }):
		return standingTaken
	case !made.IsZero() && made.UnixMicro() <= l.Floor:
		return standingUnknown
	}
	return standingNew
}

// with is l and one more message. What is dropped for it is the oldest: of those
// without a time the one that came first.
func (l ledger) with(id string, made time.Time) ledger {
	one := taken{ID: id}
	if !made.IsZero() {
		one.Made = made.UnixMicro()
	}
	l.Taken = append(slices.Clone(l.Taken), one)
	slices.SortStableFunc(l.Taken, func(a, b taken) int { return cmp.Compare(a.Made, b.Made) })
	for len(l.Taken) > maxHandled {
		l.Floor = max(l.Floor, l.Taken[0].Made)
		l.Taken = l.Taken[1:]
	}
	return l
}

// asks are the calls that change nothing: whoever repeats one gets nothing, for
// the answer is sealed and goes to who asked first.
var asks = map[string]bool{"rpc_ping": true, "get_filesystem_stats": true, "list_databases": true, "list_users": true,
	"get_user": true, "list_access": true, "is_root_enabled": true}

// admitCall refuses a call that was taken before, if its seal vouches for its id.
// It is written down before it is carried out: who calls learns of a failure.
func (a *Agent) admitCall(in *rpc.Incoming) error {
	if in.Made.IsZero() || in.UniqueID == "" || asks[in.Method] {
		return nil
	}
	known, err := a.state.takeCall(in.UniqueID, in.Made)
	if err != nil {
		// On a full disk there may be nothing but a call that helps.
		a.log.Error("cannot write down that a call was taken", "method", in.Method, "error", err)
	}
	switch known {
	case standingTaken:
		return trove.Errorf(trove.KindConflict, "This request was taken before.").WithAction("Ask anew.")
	case standingUnknown:
		return trove.Errorf(trove.KindConflict, "This request is older than the %d before it.", maxHandled).
			WithAction("Ask anew. If that is refused too, the clock of the service that asks is behind the others': see trove-manage doctor.")
	case standingNew:
	}
	return nil
}

// takeCall tells what is known of a call, and remembers it if that is nothing;
// with an error in memory only.
func (f *stateFile) takeCall(id string, made time.Time) (standing, error) {
	known := standingNew
	err := f.remember(func(s *state) {
		if known = s.Calls.of(id, made); known == standingNew {
			s.Calls = s.Calls.with(id, made)
		}
	})
	return known, err
}

// markHandled remembers that the cast with this id was handled; with an error
// it is remembered in memory only.
func (f *stateFile) markHandled(id string, made time.Time) error {
	return f.remember(func(s *state) { s.Casts = s.Casts.with(id, made) })
}

func (f *stateFile) castKnown(id string, made time.Time) standing {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now.Casts.of(id, made)
}

// adopt takes over what an earlier agent wrote: ids of casts, without times.
func (l *ledger) adopt(ids []string) {
	for _, id := range ids {
		*l = l.with(id, time.Time{})
	}
}
