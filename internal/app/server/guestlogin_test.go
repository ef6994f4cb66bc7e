package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/guestlogin"
	"github.com/gotrove/gotrove/internal/lifecycle"
	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/rpc/amqp/rabbittest"
	"github.com/gotrove/gotrove/internal/rpcapi"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	rpctaskmanager "github.com/gotrove/gotrove/internal/rpcapi/taskmanager"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/taskmanager/flow"
	"github.com/gotrove/gotrove/internal/telemetry/health"
	"github.com/gotrove/gotrove/internal/trove"
)

// TestGuestsOnRabbitMQ makes, rotates and deletes an instance with a real agent
// and engine over a RabbitMQ, with a login for each guest, and with the
// operator's for all.
func TestGuestsOnRabbitMQ(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a RabbitMQ and an engine")
	}
	broker := rabbittest.StartWith(t, rabbittest.Options{Management: true,
		Logins: []rabbittest.Login{{Name: "allguests", Password: "p", Configure: ".*", Write: ".*", Read: ".*"}}})
	for name, tc := range map[string]struct {
		conf       string
		guestConf  string
		generation int
	}{
		"per_guest": {generation: 1, conf: "rabbit_management_url = http://" + rabbittest.AdminName + ":" + rabbittest.AdminPassword + "@" +
			strings.TrimPrefix(broker.ManagementURL(), "http://") + "\nguest_login_key = " + rand.Text() + rand.Text() + "\n"},
		"shared": {guestConf: "[DEFAULT]\ntransport_url = " + strings.Replace(broker.URLFor("allguests", "p"), "amqp://", "rabbit://", 1) +
			"\ncontrol_exchange = trove\n"},
	} {
		t.Run(name, func(t *testing.T) {
			p := guestsProcess(t, broker, tc.conf, tc.guestConf)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			id := p.create(t, ctx)
			until(t, ctx, "the instance serves", func() (bool, error) {
				i, err := p.store.Instance(ctx, id)
				if err == nil && i.Status() == trove.StatusError {
					t.Fatalf("%+v", i.Fault)
				}
				return err == nil && i.Status() == trove.StatusActive, err
			})
			c, err := p.store.GuestCredentials(ctx, id)
			if err != nil || c.Generation != tc.generation || c.Pending != 0 {
				t.Errorf("credentials %+v, %v", c, err)
			}
			if err := p.guests.Ping(ctx, id); err != nil {
				t.Error(err)
			}
			if tc.generation > 0 {
				p.rotateAndLook(t, ctx, broker, id)
			}
			if err := p.store.BeginDelete(ctx, id, nil); err != nil {
				t.Fatal(err)
			}
			if err := p.client.Cast(ctx, rpctaskmanager.DeleteMessage(rpctaskmanager.Topic, id)); err != nil {
				t.Fatal(err)
			}
			until(t, ctx, "the instance is gone", func() (bool, error) {
				_, err := p.store.Instance(ctx, id)
				if trove.IsKind(err, trove.KindNotFound) {
					return true, nil
				}
				return false, err
			})
			control, err := amqp091.Dial(broker.URL())
			if err != nil {
				t.Fatal(err)
			}
			defer control.Close()
			ch, err := control.Channel()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ch.QueueDeclarePassive(guest.Queues(id)[0], false, false, false, false, nil); err == nil {
				t.Error("the queue is still there")
			}
		})
	}
}

// testProcess is a task manager and a conductor in one.
type testProcess struct{ *process }

func guestsProcess(t *testing.T, broker *rabbittest.Server, conf, guestConf string) testProcess {
	t.Helper()
	if found, err := exec.LookPath("mariadbd"); err != nil && found == "" {
		if _, err := os.Stat("/usr/sbin/mariadbd"); err != nil {
			t.Skip("MariaDB is not installed")
		}
	}
	dir, err := os.MkdirTemp("", "gl") // short, and open to the engines' user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	agent := filepath.Join(dir, "trove-guestagent")
	if out, err := exec.Command("go", "build", "-o", agent, "github.com/gotrove/gotrove/cmd/trove-guestagent").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	guests := filepath.Join(dir, "guests.conf")
	text := "[DEFAULT]\ntransport_url = " + strings.Replace(broker.URL(), "amqp://", "rabbit://", 1) + "\ncontrol_exchange = trove\nguest_config = " + guests +
		"\ntaskmanager_rpc_encr_key = " + rand.Text() + "\ninst_rpc_key_encr_key = " + rand.Text() +
		"\n[database]\nconnection = sqlite:///" + filepath.Join(dir, "trove.db") +
		"\n[gotrove]\ncloud = local\nengine_user = nobody\ndata_dir = " + filepath.Join(dir, "data") + "\nrun_dir = " + filepath.Join(dir, "run") +
		"\nloopback_range = 127.77.0.0/16\nguest_agent = " + agent + "\n" + conf
	for path, text := range map[string]string{filepath.Join(dir, "trove.conf"): text, guests: guestConf} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, _, err := LoadConfig(osloconf.Sources{Files: []string{filepath.Join(dir, "trove.conf")}}, false)
	if err != nil {
		t.Fatal(err)
	}
	config, err := c.Database.config()
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), config)
	if err == nil {
		err = s.Migrate(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	p := testProcess{&process{name: "test", c: c, log: log, clock: time.Now, health: health.New(nil, log)}}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	p.group = lifecycle.New(ctx, log)
	t.Cleanup(func() {
		if err := p.stop(context.Background()); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(out.String())
			logs, _ := filepath.Glob(filepath.Join(dir, "data", "instances", "*", "console.log"))
			for _, l := range logs {
				b, _ := os.ReadFile(l)
				t.Logf("%s", b)
			}
		}
		if strings.Contains(out.String(), "p@") || strings.Contains(out.String(), rabbittest.AdminPassword) {
			t.Error("the log tells a password")
		}
	})
	if _, err := startTaskManagerRole(ctx, p.process); err != nil {
		t.Fatal(err)
	}
	senders, err := p.senders()
	if err != nil {
		t.Fatal(err)
	}
	p.startConductor(senders)
	return p
}

// create does what the API does.
func (p testProcess) create(t *testing.T, ctx context.Context) string {
	t.Helper()
	stores, err := p.store.Datastores(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range stores {
		for _, v := range d.Versions {
			if v.Manager != "mariadb" || !v.Active {
				continue
			}
			id, password := trove.NewID(), "s3cret-Passw0rd"
			if err := p.store.CreateInstance(ctx, store.NewInstance{
				Instance: &trove.Instance{ID: id, Name: "name", TenantID: "t", FlavorID: "1", VolumeSize: 1, Task: trove.TaskBuilding,
					Version: trove.DatastoreVersion{ID: v.ID}, EncryptedKey: p.keys.MakeKey()},
				Limits: trove.QuotaDelta{}}); err != nil {
				t.Fatal(err)
			}
			m := rpctaskmanager.CreateInstance{InstanceID: id, Name: "name", Flavor: rpcapi.Flavor{ID: "1", RAM: 512}, DatastoreManager: "mariadb",
				DSVersion: v.Name, RootPassword: &password}.Message(rpctaskmanager.Topic)
			m.UniqueID, m.Mandatory = trove.NewID(), true
			until(t, ctx, "the task manager listens", func() (bool, error) {
				err := p.client.Cast(ctx, m)
				if trove.IsKind(err, trove.KindUnavailable) {
					return false, nil
				}
				return err == nil, err
			})
			return id
		}
	}
	t.Fatal("no version of MariaDB is known")
	return ""
}

// rotateAndLook has the credentials rotated again, and looks who is let in.
func (p testProcess) rotateAndLook(t *testing.T, ctx context.Context, broker *rabbittest.Server, id string) {
	t.Helper()
	before, err := p.store.Instance(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.client.Cast(ctx, rpctaskmanager.RotateMessage(rpctaskmanager.Topic, id)); err != nil {
		t.Fatal(err)
	}
	until(t, ctx, "the second rotation is done", func() (bool, error) {
		ops, err := p.store.Operations(ctx, id, 1)
		return len(ops) == 1 && ops[0].Kind == flow.KindRotate && ops[0].State == trove.OperationDone, err
	})
	after, err := p.store.Instance(ctx, id)
	if err != nil || after.EncryptedKey == before.EncryptedKey || after.EncryptedKey == "" {
		t.Errorf("the key was not replaced: %v", err)
	}
	if err := p.guests.Ping(ctx, id); err != nil {
		t.Error(err)
	}
	passwords, err := guestlogin.NewPasswords([]byte(p.c.Guests.Key.Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	for g, may := range []bool{false, false, true} {
		login := guest.Login(id, g)
		conn, err := amqp091.DialConfig(broker.URLFor(login, passwords.Of(login).Reveal()), amqp091.Config{Vhost: "/",
			Dial: func(network, addr string) (net.Conn, error) { return net.DialTimeout(network, addr, 30*time.Second) }})
		if err == nil {
			conn.Close()
		}
		if (err == nil) != may {
			t.Errorf("login of generation %d: %v", g, err)
		}
	}
}

func until(t *testing.T, ctx context.Context, what string, is func() (bool, error)) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := is()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not in time", what)
		}
	}
}
