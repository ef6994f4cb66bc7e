package rpc_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/rpc/amqp/rabbittest"
)

// declarations are the cases of TestDeclareAsPython: the options in the query
// of a transport URL.
var declarations = map[string]string{
	"default":     "",
	"durable":     "amqp_durable_queues=true",
	"auto-delete": "amqp_auto_delete=true",
	"ha":          "rabbit_ha_queues=true",
	"quorum":      "rabbit_quorum_queue=true",
	"limits":      "rabbit_quorum_queue=true&rabbit_quorum_delivery_limit=7&rabbit_quorum_max_memory_length=100&rabbit_quorum_max_memory_bytes=3000000000",
	"ttl":         "rabbit_transient_queues_ttl=77&amqp_durable_queues=true",
}

// virtualHosts are those that tests need for themselves.
func virtualHosts() []string {
	hosts := []string{"options"}
	for name := range declarations {
		hosts = append(hosts, "py-"+name, "go-"+name)
	}
	return hosts
}

// vhostURL is a transport URL of the shared RabbitMQ.
func vhostURL(t *testing.T, host, query string) string {
	t.Helper()
	rabbit.get(t)
	return "rabbit://" + rabbittest.AdminName + ":" + rabbittest.AdminPassword + "@" + rabbit.server.Addr() + "/" + host + "?" + query
}

// connectWith connects with the options in a transport URL.
func connectWith(t *testing.T, transportURL string, change func(*amqp.Config)) *amqp.Conn {
	t.Helper()
	o := amqp.Options{LoginMethod: "AMQPLAIN", Failover: "round-robin", TransientTTL: 1800, SSLHostName: true}
	cfg, err := o.Config(transportURL)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Log = logOf(t)
	if change != nil {
		change(&cfg)
	}
	c, err := amqp.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	closing(t, c)
	if err := c.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	return c
}

// managed gets a list of the management API of the shared RabbitMQ.
func managed(t *testing.T, path string, into any) {
	t.Helper()
	r, err := http.NewRequestWithContext(within(t), http.MethodGet, rabbit.server.ManagementURL()+"/api/"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth(rabbittest.AdminName, rabbittest.AdminPassword)
	r.Close = true
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", path, answer.Status)
	}
	if err := json.NewDecoder(answer.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}

var randomName = regexp.MustCompile(`[0-9a-f]{32}`)

// topology is all there is on a virtual host, in a form to be compared.
func topology(t *testing.T, host string) []string {
	t.Helper()
	var out []string
	for _, kind := range []string{"exchanges", "queues", "bindings"} {
		var list []map[string]any
		managed(t, kind+"/"+url.PathEscape(host), &list)
		for _, o := range list {
			keep := map[string]any{}
			for _, key := range []string{"name", "type", "durable", "auto_delete", "exclusive", "internal", "arguments",
				"source", "destination", "destination_type", "routing_key"} {
				if v, ok := o[key]; ok {
					keep[key] = v
				}
			}
			if name, _ := o["name"].(string); kind == "exchanges" && (name == "" || strings.HasPrefix(name, "amq.")) {
				continue
			}
			b, err := json.Marshal(keep)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, kind+" "+randomName.ReplaceAllString(string(b), "*"))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// What we declare is what Python's library declares with the same options, and
// each takes what the other made, both ways.
func TestDeclareAsPython(t *testing.T) {
	for name, query := range declarations {
		t.Run(name, func(t *testing.T) {
			const topic = "declared"
			// The misspelt names of the version at hand.
			pythonQuery := strings.ReplaceAll(query, "quorum_max", "quroum_max")
			python := func(host string) {
				t.Helper()
				c := peer(t, "declare", endpoint{tcpURL: "amqp://" + strings.TrimPrefix(vhostURL(t, host, pythonQuery), "rabbit://")}, topic)
				var stderr bytes.Buffer
				c.Stderr = &stderr
				if _, err := c.StdinPipe(); err != nil { // it runs while that is open
					t.Fatal(err)
				}
				stdout, err := c.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := c.Start(); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					_ = c.Process.Kill() // a clean end takes it seconds
					_ = c.Wait()
				})
				var told outcome
				line, err := bufio.NewReader(stdout).ReadBytes('\n')
				if err != nil || json.Unmarshal(line, &told) != nil || string(told.Result) != `"declared"` {
					_ = c.Process.Kill()
					t.Fatalf("Python on %s: %v %s\n%s", host, err, line, &stderr)
				}
			}
			ours := func(host string) {
				t.Helper()
				conn := connectWith(t, vhostURL(t, host, query), nil)
				newServer(t, conn, rpc.Router{Version: "1.3", Methods: map[string]rpc.Method{"echo": echoValue}},
					rpc.ServerOptions{Topic: topic, Server: "py-1", Fanout: true})
				client := rpc.NewClient(conn, rpc.ClientOptions{Exchange: exchange, Log: logOf(t)})
				closing(t, client)
				m := rpc.Message{Topic: topic, Method: "echo", Args: map[string]any{"value": 1}}
				if err := client.Call(within(t), m, nil); err != nil {
					t.Fatalf("Go on %s: %v", host, err)
				}
			}
			python("py-" + name)
			ours("go-" + name)
			if d := cmp.Diff(topology(t, "py-"+name), topology(t, "go-"+name)); d != "" {
				t.Errorf("-Python +Go:\n%s", d)
			}
			python("go-" + name)
			ours("py-" + name)
		})
	}
}

type valueArgs struct {
	Value json.RawMessage `json:"value"`
}

var echoValue = rpc.Bind(func(_ context.Context, a valueArgs) (json.RawMessage, error) { return a.Value, nil })
