package upgrade_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpcapi"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/rpcapi/taskmanager"
	"github.com/gotrove/gotrove/internal/trove"
)

var record = flag.String("record", "", "write what this release says into testdata/release-`NAME`, which must not be there")

// exchange is a request as a release sent it, what its receiver was asked for by
// it, and what that answered.
type exchange struct {
	Method  string                     `json:"method"`
	Version string                     `json:"version"`
	Args    map[string]json.RawMessage `json:"args"`
	Want    []any                      `json:"want"`
	Answer  json.RawMessage            `json:"answer,omitempty"` // of a call
	Got     any                        `json:"got,omitempty"`    // what the caller made of the answer
}

// told keeps what a receiver was asked for.
type told struct{ last []any }

func (h *told) note(args ...any) error { h.last = args; return nil }

// bus carries one request to a handler, or answers it with answer.
type bus struct {
	handler rpc.Handler
	sent    exchange
	answer  json.RawMessage
}

func (b *bus) Cast(ctx context.Context, m rpc.Message) error { return b.Call(ctx, m, nil) }

func (b *bus) Call(ctx context.Context, m rpc.Message, result any) error {
	b.sent = exchange{Method: m.Method, Version: m.Version, Args: map[string]json.RawMessage{}}
	for k, v := range m.Args {
		var err error
		if b.sent.Args[k], err = json.Marshal(v); err != nil {
			return err
		}
	}
	answer := b.answer
	if answer == nil {
		out, err := b.handler.Handle(ctx, &rpc.Incoming{Method: m.Method, Version: m.Version, Args: b.sent.Args})
		if err != nil || result == nil {
			return err
		}
		if answer, err = json.Marshal(out); err != nil {
			return err
		}
		b.sent.Answer = answer
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(answer, result)
}

// side is one API: its handler, and everything that is sent to it today. What a
// send returns is what its caller makes of the answer, nil if there is none.
type side struct {
	handler func(*told) rpc.Handler
	sends   []func(context.Context, rpc.Caller) (any, error)
}

func sides() map[string]side {
	return map[string]side{
		"taskmanager": {func(h *told) rpc.Handler { return taskmanager.Handler(h) }, taskmanagerSends()},
		"guest":       {func(h *told) rpc.Handler { return guest.Handler(answering{h}) }, guestSends()},
	}
}

// TestOlderReleases: while services are upgraded one after the other, and agents
// long after them, each end hears an older one. What releases said, recorded when
// they were new, is understood, requests and answers. Files are added at a
// release, by -record, and never changed.
func TestOlderReleases(t *testing.T) {
	for name, s := range sides() {
		t.Run(name, func(t *testing.T) {
			if *record != "" {
				s.record(t, filepath.Join("testdata", "release-"+*record, name+".jsonl"))
			}
			files, err := filepath.Glob("testdata/release-*/" + name + ".jsonl")
			if err != nil || len(files) == 0 {
				t.Fatal(files, err)
			}
			for _, file := range files {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				for line := range bytes.Lines(text) {
					var e exchange
					if err := json.Unmarshal(line, &e); err != nil {
						t.Fatal(err)
					}
					s.understood(t, file, e)
				}
			}
		})
	}
}

func (s side) understood(t *testing.T, file string, e exchange) {
	h := &told{}
	if _, err := s.handler(h).Handle(t.Context(), &rpc.Incoming{Method: e.Method, Version: e.Version, Args: e.Args}); err != nil {
		t.Errorf("%s: %s: %v", file, e.Method, err)
	}
	if d := cmp.Diff(plain(t, e.Want), plain(t, h.last)); d != "" {
		t.Errorf("%s: %s asks for something else: %s", file, e.Method, d)
	}
	if e.Answer == nil {
		return
	}
	for _, send := range s.sends {
		b := &bus{handler: s.handler(&told{}), answer: e.Answer}
		got, err := send(t.Context(), b)
		if b.sent.Method != e.Method {
			continue
		}
		if d := cmp.Diff(e.Got, plain(t, got)); err != nil || d != "" {
			t.Errorf("%s: the answer to %s is understood otherwise: %v %s", file, e.Method, err, d)
		}
		return
	}
}

func (s side) record(t *testing.T, file string) {
	if _, err := os.Stat(file); err == nil {
		t.Fatalf("%s is there", file)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, send := range s.sends {
		h := &told{}
		b := &bus{handler: s.handler(h)}
		got, err := send(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		b.sent.Want, b.sent.Got = h.last, got
		line, err := json.Marshal(b.sent)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(append(line, '\n'))
	}
	if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// plain is v as JSON has it.
func plain(t *testing.T, v any) (out any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// casts are messages that nobody answers.
func casts(messages ...rpc.Message) (sends []func(context.Context, rpc.Caller) (any, error)) {
	for _, m := range messages {
		sends = append(sends, func(ctx context.Context, c rpc.Caller) (any, error) { return nil, c.Cast(ctx, m) })
	}
	return sends
}

func pointer[T any](v T) *T { return &v }

func taskmanagerSends() []func(context.Context, rpc.Caller) (any, error) {
	small, large := rpcapi.Flavor{ID: "1", Name: "small", RAM: 512, VCPUs: 1, Disk: 1}, rpcapi.Flavor{ID: "2", Name: "large", RAM: 1024, VCPUs: 2, Disk: 2}
	return casts(
		taskmanager.CreateInstance{InstanceID: "i1", Name: "n", Flavor: small, ImageID: "image", DatastoreManager: "mysql", DSVersion: "8.4.2",
			Databases: []rpcapi.Database{{Name: "shop", CharacterSet: pointer("utf8mb4")}},
			Users:     []rpcapi.User{{Name: "ann", Password: pointer("pw"), Host: "%", Databases: []rpcapi.Database{{Name: "shop"}}}},
			Packages:  pointer("p"), VolumeSize: pointer(2), BackupID: pointer("b"), AvailabilityZone: pointer("nova"), RootPassword: pointer("r"),
			NICs: []taskmanager.NIC{{NetworkID: "net", SubnetID: "sub", IPAddress: "10.0.0.4"}}, Overrides: map[string]any{"max_connections": 5},
			SlaveOfID: pointer("s"), VolumeType: pointer("lvm"), Locality: pointer("affinity"),
			Access: &taskmanager.Access{IsPublic: true, AllowedCIDRs: []string{"10.0.0.0/8"}}}.Message("taskmanager"),
		taskmanager.CreateInstance{InstanceID: "i1", Name: "n", Flavor: small}.Message("taskmanager"),
		taskmanager.DeleteMessage("taskmanager", "i1"), taskmanager.RestartMessage("taskmanager", "i1"),
		taskmanager.ResizeFlavor{InstanceID: "i1", OldFlavor: small, NewFlavor: large}.Message("taskmanager"),
		taskmanager.ResizeVolume{InstanceID: "i1", NewSize: 3}.Message("taskmanager"),
		taskmanager.UpdateAccess{InstanceID: "i1", Access: taskmanager.Access{AllowedCIDRs: []string{"10.0.0.0/8"}}}.Message("taskmanager"),
		taskmanager.RotateMessage("taskmanager", "i1"))
}

func (h *told) CreateInstance(_ context.Context, _ string, r taskmanager.CreateInstance) error {
	return h.note("create", r)
}
func (h *told) DeleteInstance(_ context.Context, _ string, r taskmanager.Instance) error {
	return h.note("delete", r)
}
func (h *told) Restart(_ context.Context, _ string, r taskmanager.Instance) error {
	return h.note("restart", r)
}
func (h *told) ResizeFlavor(_ context.Context, _ string, r taskmanager.ResizeFlavor) error {
	return h.note("resize flavor", r)
}
func (h *told) ResizeVolume(_ context.Context, _ string, r taskmanager.ResizeVolume) error {
	return h.note("resize volume", r)
}
func (h *told) UpdateAccess(_ context.Context, _ string, r taskmanager.UpdateAccess) error {
	return h.note("update access", r)
}
func (h *told) RotateCredentials(_ context.Context, _ string, r taskmanager.Instance) error {
	return h.note("rotate", r)
}

func guestSends() []func(context.Context, rpc.Caller) (any, error) {
	type send = func(context.Context, rpc.Caller) (any, error)
	call := func(f func(context.Context, *guest.Client) (any, error)) send {
		return func(ctx context.Context, c rpc.Caller) (any, error) { return f(ctx, guest.NewClient(c, 1e9, 1e9)) }
	}
	memory := guest.NewMemory{ConfigContents: "[mysqld]", DSVersion: "8.4"}
	device := guest.Device{DevicePath: "/dev/vdb", MountPoint: "/var/lib/mysql", Online: true}
	page := guest.List{Limit: pointer(2), Marker: pointer("m"), IncludeMarker: true}
	ann := trove.User{Name: "ann", Password: "pw", Host: "%", Databases: []string{"shop"}}
	return append(casts(
		guest.PrepareMessage("i1", guest.Prepare{Packages: []string{"p"}, Databases: []rpcapi.Database{{Name: "shop"}}, MemoryMB: 512,
			Users: rpcapi.Users([]trove.User{ann}), DevicePath: pointer("/dev/vdb"), MountPoint: pointer("/var/lib/mysql"), ConfigContents: "[mysqld]",
			RootPassword: pointer("r"), Overrides: map[string]any{"max_connections": 5}, DSVersion: "8.4"}),
		guest.PrepareMessage("i1", guest.Prepare{}),
		guest.RotateMessage("i1", guest.Credentials{Generation: 2, Login: "l", Password: "p", Key: "k"}),
		guest.CreateDatabasesMessage("i1", []trove.Database{{Name: "shop", CharacterSet: "utf8mb4"}}), guest.DeleteDatabaseMessage("i1", "shop"),
		guest.CreateUsersMessage("i1", []trove.User{ann}), guest.DeleteUserMessage("i1", ann),
		guest.ChangePasswordsMessage("i1", []guest.PasswordChange{{Name: "ann", Host: "%", Password: "new"}}),
		guest.UpdateAttributesMessage("i1", "ann", "%", guest.Attributes{Name: pointer("bob"), Password: pointer("new"), Host: pointer("10.0.0.1")}),
	),
		call(func(ctx context.Context, c *guest.Client) (any, error) { return nil, c.Restart(ctx, "i1", "") }),
		call(func(ctx context.Context, c *guest.Client) (any, error) { return nil, c.StopDB(ctx, "i1") }),
		call(func(ctx context.Context, c *guest.Client) (any, error) { return nil, c.StartDB(ctx, "i1", "", memory) }),
		call(func(ctx context.Context, c *guest.Client) (any, error) { return nil, c.MountVolume(ctx, "i1", device) }),
		call(func(ctx context.Context, c *guest.Client) (any, error) {
			return nil, c.UnmountVolume(ctx, "i1", device)
		}),
		call(func(ctx context.Context, c *guest.Client) (any, error) { return nil, c.ResizeFS(ctx, "i1", device) }),
		call(func(ctx context.Context, c *guest.Client) (any, error) { return nil, c.Ping(ctx, "i1") }),
		call(func(ctx context.Context, c *guest.Client) (any, error) { return c.FilesystemStats(ctx, "i1") }),
		call(func(ctx context.Context, c *guest.Client) (any, error) { return c.ListDatabases(ctx, "i1", page) }),
		call(func(ctx context.Context, c *guest.Client) (any, error) { return c.ListUsers(ctx, "i1", page) }),
		call(func(ctx context.Context, c *guest.Client) (any, error) { return c.GetUser(ctx, "i1", "ann", "%") }),
		call(func(ctx context.Context, c *guest.Client) (any, error) { return c.ListAccess(ctx, "i1", "ann", "%") }),
		call(func(ctx context.Context, c *guest.Client) (any, error) {
			return nil, c.GrantAccess(ctx, "i1", "ann", "%", []string{"shop"})
		}),
		call(func(ctx context.Context, c *guest.Client) (any, error) {
			return nil, c.RevokeAccess(ctx, "i1", "ann", "%", "shop")
		}),
		call(func(ctx context.Context, c *guest.Client) (any, error) { return c.EnableRoot(ctx, "i1", "") }),
		call(func(ctx context.Context, c *guest.Client) (any, error) { return c.EnableRoot(ctx, "i1", "r") }),
		call(func(ctx context.Context, c *guest.Client) (any, error) { return nil, c.DisableRoot(ctx, "i1") }),
	)
}

// answering is told's guest side: it answers with something of everything.
type answering struct{ h *told }

var shop = rpcapi.Database{Name: "shop", Collation: pointer("utf8mb4_bin")}

func (a answering) Prepare(_ context.Context, p guest.Prepare) error { return a.h.note("prepare", p) }
func (a answering) Restart(context.Context, string) error            { return a.h.note("restart") }
func (a answering) StopDB(context.Context) error                     { return a.h.note("stop") }
func (a answering) StartDB(_ context.Context, _ string, m guest.NewMemory) error {
	return a.h.note("start", m)
}
func (a answering) ResetConfiguration(_ context.Context, m guest.NewMemory) error {
	return a.h.note("reset", m)
}
func (a answering) MountVolume(_ context.Context, d guest.Device) error { return a.h.note("mount", d) }
func (a answering) UnmountVolume(_ context.Context, d guest.Device) error {
	return a.h.note("unmount", d)
}
func (a answering) ResizeFS(_ context.Context, d guest.Device) error { return a.h.note("grow", d) }
func (a answering) Ping(context.Context) (bool, error)               { return true, a.h.note("ping") }
func (a answering) RotateCredentials(_ context.Context, c guest.Credentials) error {
	return a.h.note("rotate", c)
}
func (a answering) FilesystemStats(context.Context) (guest.FilesystemStats, error) {
	return guest.FilesystemStats{BlockSize: 4096, TotalBlocks: 100, FreeBlocks: 60, AvailBlocks: 50, Total: 0.5, Free: 245760, Used: 0.2,
		Extra: map[string]int64{"wal_size": 7}}, a.h.note("stats")
}
func (a answering) CreateDatabases(_ context.Context, dbs []trove.Database) error {
	return a.h.note("create databases", dbs)
}
func (a answering) DeleteDatabase(_ context.Context, name string) error {
	return a.h.note("delete database", name)
}
func (a answering) ListDatabases(_ context.Context, l guest.List) (guest.Page[rpcapi.Database], error) {
	return guest.Page[rpcapi.Database]{Items: []rpcapi.Database{shop}, Next: pointer("shop")}, a.h.note("list databases", l)
}
func (a answering) CreateUsers(_ context.Context, users []trove.User) error {
	return a.h.note("create users", users)
}
func (a answering) DeleteUser(_ context.Context, name, host string) error {
	return a.h.note("delete user", name, host)
}
func (a answering) user() rpcapi.User {
	return rpcapi.User{Name: "ann", Host: "%", Databases: []rpcapi.Database{shop}, IsRoot: true}
}
func (a answering) GetUser(_ context.Context, name, host string) (*rpcapi.User, error) {
	return pointer(a.user()), a.h.note("get user", name, host)
}
func (a answering) ListUsers(_ context.Context, l guest.List) (guest.Page[rpcapi.User], error) {
	return guest.Page[rpcapi.User]{Items: []rpcapi.User{a.user()}}, a.h.note("list users", l)
}
func (a answering) ChangePasswords(_ context.Context, changes []guest.PasswordChange) error {
	return a.h.note("passwords", changes)
}
func (a answering) UpdateAttributes(_ context.Context, name, host string, c guest.Attributes) error {
	return a.h.note("attributes", name, host, c)
}
func (a answering) ListAccess(_ context.Context, name, host string) ([]rpcapi.Database, error) {
	return []rpcapi.Database{shop}, a.h.note("list access", name, host)
}
func (a answering) GrantAccess(_ context.Context, name, host string, databases []string) error {
	return a.h.note("grant", name, host, databases)
}
func (a answering) RevokeAccess(_ context.Context, name, host, database string) error {
	return a.h.note("revoke", name, host, database)
}
func (a answering) EnableRoot(_ context.Context, password string) (rpcapi.User, error) {
	return rpcapi.User{Name: "root", Password: pointer("r"), Host: "%"}, a.h.note("enable root", password)
}
func (a answering) DisableRoot(context.Context) error { return a.h.note("disable root") }
func (a answering) IsRootEnabled(context.Context) (bool, error) {
	return true, a.h.note("is root enabled")
}
