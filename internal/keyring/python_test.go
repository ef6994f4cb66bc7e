package keyring

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/rpc/amqp/rabbittest"
	"github.com/gotrove/gotrove/internal/rpc/seal"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
)

const python = "/usr/bin/python3"

// Calls and casts, there and back, with trove's own serializers on a RabbitMQ.
func TestPython(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a RabbitMQ and python3-trove")
	}
	t.Parallel()
	if out, err := exec.Command(python, "-c", "import trove.common.rpc.secure_serializer").CombinedOutput(); err != nil {
		t.Fatalf("install Debian's package python3-trove: %v: %s", err, out)
	}
	server := rabbittest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))

	const exchange, master = "trove", "emYjgHFqfXNB1NGehAFIUeoyw4V4XwWHEaKP"
	c := config(seal.Original, master)
	c.TaskManagerTopic = "py-taskmanager"
	s := &rows{}
	r := ring(t, c, s, nil)
	stored := r.MakeKey()
	key := inClear(t, r, stored)
	s.set(ann, stored, "") // ours
	s.set(bob, stored, "") // Python's

	conn, err := amqp.New(amqp.Config{URL: server.URL(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	type told struct {
		Who       string
		Args      map[string]any
		RequestID string
	}
	came := make(chan told, 10)
	serve := func(who, topic string, open rpc.Opener) *rpc.Server {
		h := rpc.HandlerFunc(func(ctx context.Context, in *rpc.Incoming) (any, error) {
			switch in.Method {
			case "nothing":
				return nil, nil
			case "fail":
				return nil, trove.Errorf(trove.KindGuest, "no")
			}
			args := map[string]any{}
			for k, v := range in.Args {
				var value any
				if err := json.Unmarshal(v, &value); err != nil {
					return nil, err
				}
				args[k] = value
			}
			if !in.Sealed {
				t.Errorf("%s got a request in clear", who)
			}
			came <- told{who, args, rpc.ContextFrom(ctx).RequestID}
			return map[string]any{"echo": args}, nil
		})
		return rpc.NewServer(conn, h, rpc.ServerOptions{Exchange: exchange, Topic: topic, Server: "go", Open: open, Log: log})
	}
	servers := []*rpc.Server{
		serve("taskmanager", "go-taskmanager", r.TaskManager()),
		serve("conductor", "go-conductor", r.Conductor()),
		serve("guest", guest.Topic(ann), agent(t, ann, key)),
	}
	for _, s := range servers {
		if err := s.Ready(ctx); err != nil {
			t.Fatal(err)
		}
	}

	peer := exec.CommandContext(ctx, python, "testdata/peer.py")
	peer.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	var stderr bytes.Buffer
	peer.Stderr = &stderr
	in, err := peer.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := peer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := peer.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan map[string]any, 20)
	go func() {
		defer close(lines)
		for l := bufio.NewScanner(out); l.Scan(); {
			var line map[string]any
			if json.Unmarshal(l.Bytes(), &line) == nil {
				lines <- line
			}
		}
	}()
	next := func() map[string]any {
		t.Helper()
		select {
		case l, ok := <-lines:
			if ok {
				return l
			}
		case <-ctx.Done():
		}
		t.Fatalf("the peer says no more: %s", stderr.String())
		return nil
	}
	if err := json.NewEncoder(in).Encode(map[string]string{"url": "rabbit://" + strings.TrimPrefix(server.URL(), "amqp://"), "exchange": exchange,
		"instance_id": ann, "py_instance_id": bob, "instance_key": key.Reveal(), "master_key": master, "encrypted_key": stored,
		"task_key": c.TaskManager[0].Reveal()}); err != nil {
		t.Fatal(err)
	}
	if l := next(); l["ready"] != true {
		t.Fatalf("peer: %v", l)
	}

	// From Python.
	values := map[string]any{"text": "grüß€/", "number": 1.5, "none": nil, "list": []any{map[string]any{"_password": "s3cret"}}, "digits": "123"}
	got := map[string]told{}
	for range 3 {
		select {
		case one := <-came:
			got[one.Who] = one
		case <-ctx.Done():
			t.Fatalf("only %v came from Python; it says %s", got, stderr.String())
		}
	}
	for _, who := range []string{"taskmanager", "conductor", "guest"} {
		if d := cmp.Diff(told{who, values, "req-py"}, got[who]); d != "" {
			t.Errorf("to our %s: %s", who, d)
		}
	}
	for _, want := range []map[string]any{{"answer": map[string]any{"echo": values}}, {"answer": nil}} {
		if d := cmp.Diff(want, next()); d != "" {
			t.Errorf("the answer of our agent: %s", d)
		}
	}
	if l := next(); l["raised"] == nil {
		t.Errorf("our agent's failure: %v", l)
	}

	// To Python.
	client := rpc.NewClient(conn, rpc.ClientOptions{Exchange: exchange, Seal: r, Log: log})
	agents := rpc.NewClient(conn, rpc.ClientOptions{Exchange: exchange, Seal: agent(t, ann, key), Log: log})
	asking := rpc.WithContext(ctx, rpc.Context{RequestID: "req-go", User: "jo"})
	for _, m := range []struct {
		who   string
		by    *rpc.Client
		topic string
	}{{"taskmanager", client, "py-taskmanager"}, {"conductor", agents, "py-conductor"}, {"guest", client, guest.Topic(bob)}} {
		if err := m.by.Cast(asking, rpc.Message{Topic: m.topic, Method: "echo", Version: "1.0", Args: values}); err != nil {
			t.Fatal(err)
		}
		want := map[string]any{"got": m.who, "args": values, "request_id": "req-go", "user": "jo"}
		if d := cmp.Diff(want, next()); d != "" {
			t.Errorf("to Python's %s: %s", m.who, d)
		}
	}
	var answer any
	if err := client.Call(asking, rpc.Message{Topic: guest.Topic(bob), Method: "echo", Version: "1.0", Args: values}, &answer); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]any{"echo": values}, answer); d != "" {
		t.Errorf("the answer of Python's agent: %s", d)
	}
	answer = "unchanged"
	if err := client.Call(asking, rpc.Message{Topic: guest.Topic(bob), Method: "nothing", Version: "1.0"}, &answer); err != nil || answer != nil {
		t.Errorf("nothing is %v, %v", answer, err)
	}
	if err := client.Call(asking, rpc.Message{Topic: guest.Topic(bob), Method: "fail", Version: "1.0"}, nil); err == nil || !strings.Contains(err.Error(), "no") {
		t.Errorf("the failure of Python's agent: %v", err)
	}

	if err := in.Close(); err != nil {
		t.Error(err)
	}
	for range lines { // what is left
	}
	if err := peer.Wait(); err != nil {
		t.Errorf("peer: %v: %s", err, stderr.String())
	}
	for _, s := range servers {
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	}
	for _, c := range []interface{ Close(context.Context) error }{agents, client, conn} {
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
	}
}
