package amqp

import (
	"context"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/rpc/amqp/rabbittest"
	"github.com/gotrove/gotrove/internal/trove"
)

// A broker that does not let a login in has answered, with whichever code: nobody
// must wait for it to think otherwise.
func TestAdmitted(t *testing.T) {
	s := rabbittest.StartWith(t, rabbittest.Options{VirtualHosts: []string{"other"}, Logins: []rabbittest.Login{{Name: "guest", Password: "secret"}}})
	for name, c := range map[string]struct {
		url  string
		want trove.Kind // of the error; 0: let in
	}{
		"let in":                {s.URLFor("guest", "secret"), 0},
		"wrong password":        {s.URLFor("guest", "wrong"), trove.KindUnauthorized},
		"no such login":         {s.URLFor("nobody", "secret"), trove.KindUnauthorized},
		"no right on the host":  {s.URLFor("guest", "secret") + "other", trove.KindUnauthorized}, // 530
		"no such virtual host":  {s.URLFor("guest", "secret") + "nowhere", trove.KindUnauthorized},
		"nobody listens at all": {"rabbit://guest:secret@127.0.0.1:1/", trove.KindUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, defaults(), c.url)
			limit := time.Minute
			if c.want == trove.KindUnavailable {
				limit = 100 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			switch err := conn.Admitted(ctx); {
			case c.want == 0 && err != nil, c.want != 0 && !trove.IsKind(err, c.want):
				t.Errorf("%v, want %v", err, c.want)
			case err != nil && strings.Contains(err.Error(), "secret"):
				t.Errorf("it tells the password: %v", err)
			}
		})
	}
	// A connection that was lost was let in, whatever the broker said at its end.
	if refused(&amqp091.Error{Code: amqp091.NotAllowed, Server: true}) {
		t.Error("a lost connection counts as refused")
	}
}
