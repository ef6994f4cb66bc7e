package guestlogin_test

import (
	"bytes"
	"context"
	"errors"
	"net/url"
	"slices"
	"testing"

	"github.com/gotrove/gotrove/internal/broker"
	"github.com/gotrove/gotrove/internal/guestlogin"
)

const (
	ann = "11111111-1111-4111-8111-111111111111"
	bob = "22222222-2222-4222-8222-222222222222"

	carol = "33333333-3333-4333-8333-333333333333"
)

func password(t *testing.T, l *guestlogin.Logins, login string) string {
	t.Helper()
	u, err := url.Parse(l.URL(login).Reveal())
	if err != nil {
		t.Fatal(err)
	}
	p, _ := u.User.Password()
	return p
}

type queues struct{ declared, deleted []string }

func (q *queues) DeclareGuestQueues(_ context.Context, names ...string) error {
	q.declared = append(q.declared, names...)
	return nil
}

func (q *queues) DeleteQueues(_ context.Context, names ...string) error {
	q.deleted = append(q.deleted, names...)
	return nil
}

func TestLoginsLiveWithTheirInstances(t *testing.T) {
	key := bytes.Repeat([]byte{7}, 32)
	l := guestlogin.New(key, guestlogin.Place{Exchange: "trove"}, "/run/bus.sock")
	q := &queues{}
	var kicked []string
	bus := guestlogin.NewBus(l, q, func(login string) { kicked = append(kicked, login) })

	name := guestlogin.Name(ann)
	p := password(t, l, name)
	if _, err := l.Login(name, p); !errors.Is(err, broker.ErrRefused) {
		t.Errorf("an instance that is not there: %v", err)
	}
	first, err := bus.EnsureGuest(t.Context(), ann)
	if err != nil {
		t.Fatal(err)
	}
	again, err := bus.EnsureGuest(t.Context(), ann)
	if err != nil || again != first {
		t.Errorf("a second time another URL, error %v", err)
	}
	if other := guestlogin.New(key, guestlogin.Place{Exchange: "trove"}, "/run/bus.sock"); other.URL(name).Reveal() != first {
		t.Error("after a restart another URL")
	}
	if _, err := l.Login(name, p); err != nil {
		t.Errorf("its own login: %v", err)
	}
	for _, wrong := range []struct{ login, password string }{
		{name, ""}, {name, p + "x"}, {guestlogin.Name(bob), p}, {guestlogin.ControlPlane, p},
		{guestlogin.Name(bob), password(t, l, guestlogin.Name(bob))}, {"someone", password(t, l, "someone")},
	} {
		if _, err := l.Login(wrong.login, wrong.password); !errors.Is(err, broker.ErrRefused) {
			t.Errorf("login %s was let in: %v", wrong.login, err)
		}
	}
	if err := bus.RemoveGuest(t.Context(), ann, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Login(name, p); !errors.Is(err, broker.ErrRefused) {
		t.Errorf("after its instance is gone: %v", err)
	}
	want := []string{"guestagent." + ann, "guestagent." + ann + "." + ann}
	if !slices.Equal(q.deleted, want) || !slices.Equal(q.declared[:2], want) || !slices.Equal(kicked, []string{name}) {
		t.Errorf("declared %v, deleted %v, kicked %v", q.declared, q.deleted, kicked)
	}
	if _, err := bus.EnsureGuest(t.Context(), "a.*"); err == nil {
		t.Error("an id that is a pattern was taken")
	}
}

func TestPermissions(t *testing.T) {
	l := guestlogin.New(bytes.Repeat([]byte{7}, 32), guestlogin.Place{Exchange: "trove"}, "/run/bus.sock")
	l.Restore(ann, bob)
	name := guestlogin.Name(ann)
	p, err := l.Login(name, password(t, l, name))
	if err != nil {
		t.Fatal(err)
	}
	if p.Configure != nil {
		t.Error("a guest may declare things")
	}
	for _, tc := range []struct {
		what string
		may  bool
		got  bool
	}{
		{"read its queue", true, p.Read.MatchString("guestagent." + ann)},
		{"read its server queue", true, p.Read.MatchString("guestagent." + ann + "." + ann)},
		{"read another's queue", false, p.Read.MatchString("guestagent." + bob)},
		{"read the conductor's queue", false, p.Read.MatchString("trove-conductor")},
		{"write to the bus", true, p.Write.MatchString("trove")},
		{"write to the default exchange", false, p.Write.MatchString("amq.default")},
		{"write to a fanout", false, p.Write.MatchString("taskmanager_fanout")},
		{"speak to the conductor", true, p.TopicWrite["trove"].MatchString("trove-conductor")},
		{"speak to the task manager", false, p.TopicWrite["trove"].MatchString("taskmanager")},
		{"speak to another guest", false, p.TopicWrite["trove"].MatchString("guestagent." + bob)},
		{"answer", true, p.TopicWrite["trove_reply"].MatchString(ann + ".reply_0123456789abcdef")},
		{"answer as another", false, p.TopicWrite["trove_reply"].MatchString(bob + ".reply_0123456789abcdef")},
		{"answer to what is no reply queue", false, p.TopicWrite["trove_reply"].MatchString(ann + ".taskmanager")},
	} {
		if tc.got != tc.may {
			t.Errorf("a guest may %s: %v", tc.what, tc.got)
		}
	}
}

// The sender is the message's user_id, which a guest may leave out.
func TestWhoSpeaksForWhom(t *testing.T) {
	for sender, want := range map[string]struct {
		instance string
		limited  bool
	}{
		guestlogin.Name(ann):    {ann, true},
		guestlogin.ControlPlane: {"", false},
		"":                      {"", true},
		"somebody":              {"", true},
	} {
		if id, limited := guestlogin.SpeaksFor(sender); id != want.instance || limited != want.limited {
			t.Errorf("%q: %q, %v", sender, id, limited)
		}
	}
}
