// Package guest is what the control plane asks of a guest agent. Each agent
// has a topic of its own.
package guest

import (
	"cmp"
	"context"
	"encoding/json"
	"time"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpcapi"
	"github.com/gotrove/gotrove/internal/trove"
)

// Version of the API an agent speaks.
const Version = "1.3"

// Each message asks for the version it came with: agents may be older than those
// who ask them.
const (
	v10 = "1.0"
	v11 = "1.1"
	v13 = "1.3"
)

// Topic is the topic, and with the id again the server queue, of an agent.
func Topic(instanceID string) string { return "guestagent." + instanceID }

// Queues are the names of the queues of an instance's agent.
func Queues(instanceID string) []string {
	return []string{Topic(instanceID), Topic(instanceID) + "." + instanceID}
}

// Prepare makes an engine ready on a fresh instance. Doing it twice, or again
// after it was cut off, ends in the same state.
type Prepare struct {
	Packages       []string          `json:"packages"`
	Databases      []rpcapi.Database `json:"databases"`
	MemoryMB       int               `json:"memory_mb"`
	Users          []rpcapi.User     `json:"users"`
	DevicePath     *string           `json:"device_path"`
	MountPoint     *string           `json:"mount_point"`
	BackupInfo     json.RawMessage   `json:"backup_info"`
	ConfigContents string            `json:"config_contents"`
	RootPassword   *string           `json:"root_password"`
	Overrides      map[string]any    `json:"overrides"`
	ClusterConfig  json.RawMessage   `json:"cluster_config"`
	Snapshot       json.RawMessage   `json:"snapshot"`
	Modules        json.RawMessage   `json:"modules"`
	DSVersion      string            `json:"ds_version"`
}

// NewMemory is what an engine is started with on a server of another size. An
// agent of ours makes the configuration itself, of the memory it finds.
type NewMemory struct {
	ConfigContents string `json:"config_contents"` // the engine's main configuration file
	DSVersion      string `json:"ds_version"`      // name of the datastore version
}

// Device names an instance's volume as its server sees it. An agent of ours
// knows both itself.
type Device struct {
	DevicePath string `json:"device_path"`
	MountPoint string `json:"mount_point"`
	// Online: the file system stays mounted while it grows.
	Online bool `json:"online"`
}

// List asks for a page of users or databases. Limit 0 means all.
type List struct {
	Limit         *int    `json:"limit"`
	Marker        *string `json:"marker"`
	IncludeMarker bool    `json:"include_marker"`
}

// Account names a user.
type Account struct {
	Username string `json:"username"`
	Hostname string `json:"hostname"`
}

// Attributes is a change to a user on the wire; nil members stay.
type Attributes struct {
	Name     *string `json:"name,omitempty"`
	Password *string `json:"password,omitempty"`
	Host     *string `json:"host,omitempty"`
}

// PasswordChange is one user's new password.
type PasswordChange struct {
	Name     string `json:"name"`
	Host     string `json:"host"`
	Password string `json:"password"`
}

// FilesystemStats tells the use of an instance's volume.
type FilesystemStats struct {
	BlockSize   int64            `json:"block_size"`
	TotalBlocks int64            `json:"total_blocks"`
	FreeBlocks  int64            `json:"free_blocks"`
	AvailBlocks int64            `json:"avail_blocks"`
	Total       float64          `json:"total"` // GB
	Free        int64            `json:"free"`  // bytes
	Used        float64          `json:"used"`  // GB
	Extra       map[string]int64 `json:"mgr_extra_info"`
}

// Page is a page of a list and the marker of the next one, nil at the end. On
// the wire it is a list of two.
type Page[T any] struct {
	Items []T
	Next  *string
}

// MarshalJSON gives [items, next].
func (p Page[T]) MarshalJSON() ([]byte, error) {
	items := p.Items
	if items == nil {
		items = []T{}
	}
	return json.Marshal([]any{items, p.Next})
}

// UnmarshalJSON reads [items, next].
func (p *Page[T]) UnmarshalJSON(b []byte) error {
	pair := []any{&p.Items, &p.Next}
	return json.Unmarshal(b, &pair)
}

// Credentials are the login and the key that an agent shall use from now on.
type Credentials struct {
	// Generation counts up; what is not newer than what the agent has is old.
	Generation int    `json:"generation"`
	Login      string `json:"login"`
	Password   string `json:"password"`
	Key        string `json:"rpc_encr_key"` // empty: messages are not sealed
}

// Agent is what a guest agent implements. An error of trove.KindNotFound or
// another kind reaches the caller as the Python exception of that kind.
type Agent interface {
	Prepare(ctx context.Context, p Prepare) error
	// Restart restarts the engine, once for each requestID, which may be empty.
	Restart(ctx context.Context, requestID string) error
	StopDB(ctx context.Context) error
	// StartDB starts the engine with a configuration for the memory there is
	// now, once for each requestID, which may be empty.
	StartDB(ctx context.Context, requestID string, m NewMemory) error
	// ResetConfiguration writes that configuration and starts nothing.
	ResetConfiguration(ctx context.Context, m NewMemory) error
	MountVolume(ctx context.Context, d Device) error
	UnmountVolume(ctx context.Context, d Device) error
	// ResizeFS makes the file system as large as the volume.
	ResizeFS(ctx context.Context, d Device) error
	Ping(ctx context.Context) (bool, error)
	// RotateCredentials is ours: agents of the original have a login that all
	// share, and are never asked.
	RotateCredentials(ctx context.Context, c Credentials) error
	FilesystemStats(ctx context.Context) (FilesystemStats, error)

	CreateDatabases(ctx context.Context, dbs []trove.Database) error
	DeleteDatabase(ctx context.Context, name string) error
	ListDatabases(ctx context.Context, l List) (Page[rpcapi.Database], error)

	CreateUsers(ctx context.Context, users []trove.User) error
	DeleteUser(ctx context.Context, name, host string) error
	GetUser(ctx context.Context, name, host string) (*rpcapi.User, error)
	ListUsers(ctx context.Context, l List) (Page[rpcapi.User], error)
	ChangePasswords(ctx context.Context, changes []PasswordChange) error
	UpdateAttributes(ctx context.Context, name, host string, a Attributes) error
	ListAccess(ctx context.Context, name, host string) ([]rpcapi.Database, error)
	GrantAccess(ctx context.Context, name, host string, databases []string) error
	RevokeAccess(ctx context.Context, name, host, database string) error

	EnableRoot(ctx context.Context, password string) (rpcapi.User, error) // "" makes one
	DisableRoot(ctx context.Context) error
	IsRootEnabled(ctx context.Context) (bool, error)
}

type none struct{}

// Handler serves a.
func Handler(a Agent) rpc.Handler {
	type databases struct {
		Databases []rpcapi.Database `json:"databases"`
	}
	type database struct {
		Database rpcapi.Database `json:"database"`
	}
	type users struct {
		Users []rpcapi.User `json:"users"`
	}
	type user struct {
		User rpcapi.User `json:"user"`
	}
	type passwords struct {
		Users []PasswordChange `json:"users"`
	}
	type attributes struct {
		Account
		Attributes Attributes `json:"user_attrs"`
	}
	type grant struct {
		Account
		Databases []string `json:"databases"`
	}
	type revoke struct {
		Account
		Database string `json:"database"`
	}
	type reset struct {
		Configuration NewMemory `json:"configuration"`
	}
	type root struct {
		Password string `json:"root_password"`
	}
	return rpc.Router{Version: Version, Methods: map[string]rpc.Method{
		"prepare": rpc.BindCast(a.Prepare),
		"restart": func(ctx context.Context, in *rpc.Incoming) (any, error) {
			return nil, a.Restart(ctx, cmp.Or(in.CallID, in.UniqueID))
		},
		"stop_db": rpc.BindCast(func(ctx context.Context, _ none) error { return a.StopDB(ctx) }),
		"start_db_with_conf_changes": func(ctx context.Context, in *rpc.Incoming) (any, error) {
			return rpc.BindCast(func(ctx context.Context, m NewMemory) error {
				return a.StartDB(ctx, cmp.Or(in.CallID, in.UniqueID), m)
			})(ctx, in)
		},
		"reset_configuration": rpc.BindCast(func(ctx context.Context, r reset) error {
			return a.ResetConfiguration(ctx, r.Configuration)
		}),
		"mount_volume":   rpc.BindCast(a.MountVolume),
		"unmount_volume": rpc.BindCast(a.UnmountVolume),
		"resize_fs":      rpc.BindCast(a.ResizeFS),
		"rpc_ping": rpc.Bind(func(ctx context.Context, _ none) (bool, error) {
			return a.Ping(ctx)
		}),
		"rotate_credentials": rpc.BindCast(a.RotateCredentials),
		"get_filesystem_stats": rpc.Bind(func(ctx context.Context, _ none) (FilesystemStats, error) {
			return a.FilesystemStats(ctx)
		}),
		"create_database": rpc.BindCast(func(ctx context.Context, r databases) error {
			return a.CreateDatabases(ctx, rpcapi.ToDatabases(r.Databases))
		}),
		"delete_database": rpc.BindCast(func(ctx context.Context, r database) error {
			return a.DeleteDatabase(ctx, r.Database.Name)
		}),
		"list_databases": rpc.Bind(a.ListDatabases),
		"create_user": rpc.BindCast(func(ctx context.Context, r users) error {
			return a.CreateUsers(ctx, rpcapi.ToUsers(r.Users))
		}),
		"delete_user": rpc.BindCast(func(ctx context.Context, r user) error {
			return a.DeleteUser(ctx, r.User.Name, r.User.ToUser().Host)
		}),
		"get_user": rpc.Bind(func(ctx context.Context, r Account) (*rpcapi.User, error) {
			return a.GetUser(ctx, r.Username, r.Hostname)
		}),
		"list_users": rpc.Bind(a.ListUsers),
		"change_passwords": rpc.BindCast(func(ctx context.Context, r passwords) error {
			return a.ChangePasswords(ctx, r.Users)
		}),
		"update_attributes": rpc.BindCast(func(ctx context.Context, r attributes) error {
			return a.UpdateAttributes(ctx, r.Username, r.Hostname, r.Attributes)
		}),
		"list_access": rpc.Bind(func(ctx context.Context, r Account) ([]rpcapi.Database, error) {
			return a.ListAccess(ctx, r.Username, r.Hostname)
		}),
		"grant_access": rpc.BindCast(func(ctx context.Context, r grant) error {
			return a.GrantAccess(ctx, r.Username, r.Hostname, r.Databases)
		}),
		"revoke_access": rpc.BindCast(func(ctx context.Context, r revoke) error {
			return a.RevokeAccess(ctx, r.Username, r.Hostname, r.Database)
		}),
		"enable_root": rpc.Bind(func(ctx context.Context, _ none) (rpcapi.User, error) {
			return a.EnableRoot(ctx, "")
		}),
		"enable_root_with_password": rpc.Bind(func(ctx context.Context, r root) (rpcapi.User, error) {
			return a.EnableRoot(ctx, r.Password)
		}),
		"disable_root": rpc.BindCast(func(ctx context.Context, _ none) error { return a.DisableRoot(ctx) }),
		"is_root_enabled": rpc.Bind(func(ctx context.Context, _ none) (bool, error) {
			return a.IsRootEnabled(ctx)
		}),
	}}
}

// Client calls guest agents.
type Client struct {
	rpc  rpc.Caller
	low  time.Duration // agent_call_low_timeout
	high time.Duration // agent_call_high_timeout
}

// NewClient calls agents with the two timeouts of the configuration.
func NewClient(c rpc.Caller, low, high time.Duration) *Client { return &Client{c, low, high} }

func (c *Client) call(ctx context.Context, timeout time.Duration, id, version, method string, args map[string]any, result any) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if args == nil {
		args = map[string]any{}
	}
	return c.rpc.Call(ctx, rpc.Message{Topic: Topic(id), Method: method, Version: version, Args: args}, result)
}

// Prepare casts prepare; the heartbeats tell how it goes.
func (c *Client) Prepare(ctx context.Context, id string, p Prepare) error {
	return c.rpc.Cast(ctx, PrepareMessage(id, p))
}

// PrepareMessage makes the cast prepare.
func PrepareMessage(id string, p Prepare) rpc.Message {
	return cast(id, v11, "prepare", map[string]any{
		"packages": p.Packages, "databases": p.Databases, "memory_mb": p.MemoryMB, "users": p.Users,
		"device_path": p.DevicePath, "mount_point": p.MountPoint, "backup_info": p.BackupInfo,
		"config_contents": p.ConfigContents, "root_password": p.RootPassword, "overrides": p.Overrides,
		"cluster_config": p.ClusterConfig, "snapshot": p.Snapshot, "modules": p.Modules, "ds_version": p.DSVersion,
	})
}

// RotateMessage makes the cast rotate_credentials. The agent's next messages are
// under the new login and key.
func RotateMessage(id string, c Credentials) rpc.Message {
	return cast(id, v13, "rotate_credentials", map[string]any{
		"generation": c.Generation, "login": c.Login, "password": c.Password, "rpc_encr_key": c.Key})
}

// Restart restarts the engine and returns when it answers queries. An agent of
// ours that has carried out a restart of this requestID, 32 hexadecimal digits,
// answers as it did then and restarts nothing; one of the original restarts.
func (c *Client) Restart(ctx context.Context, id, requestID string) error {
	ctx, cancel := context.WithTimeout(ctx, c.high)
	defer cancel()
	return c.rpc.Call(ctx, rpc.Message{Topic: Topic(id), Method: "restart", Version: v10, Args: map[string]any{}, CallID: requestID}, nil)
}

// StopDB stops the engine cleanly.
func (c *Client) StopDB(ctx context.Context, id string) error {
	return c.call(ctx, c.high, id, v11, "stop_db", nil, nil)
}

// StartDB starts the engine with a configuration for the memory there is, and
// returns when it answers queries; requestID is as for Restart.
func (c *Client) StartDB(ctx context.Context, id, requestID string, m NewMemory) error {
	ctx, cancel := context.WithTimeout(ctx, c.high)
	defer cancel()
	return c.rpc.Call(ctx, rpc.Message{Topic: Topic(id), Method: "start_db_with_conf_changes", Version: v11,
		Args: map[string]any{"config_contents": m.ConfigContents, "ds_version": m.DSVersion}, CallID: requestID}, nil)
}

// MountVolume mounts the volume. What is mounted already stays so.
func (c *Client) MountVolume(ctx context.Context, id string, d Device) error {
	return c.call(ctx, c.high, id, v10, "mount_volume", map[string]any{"device_path": d.DevicePath, "mount_point": d.MountPoint}, nil)
}

// UnmountVolume unmounts the volume, so that it can be detached.
func (c *Client) UnmountVolume(ctx context.Context, id string, d Device) error {
	return c.call(ctx, c.high, id, v10, "unmount_volume", map[string]any{"device_path": d.DevicePath, "mount_point": d.MountPoint}, nil)
}

// ResizeFS makes the file system as large as the volume.
func (c *Client) ResizeFS(ctx context.Context, id string, d Device) error {
	return c.call(ctx, c.high, id, v11, "resize_fs",
		map[string]any{"device_path": d.DevicePath, "mount_point": d.MountPoint, "online": d.Online}, nil)
}

// Ping asks whether the agent answers.
func (c *Client) Ping(ctx context.Context, id string) error {
	return c.call(ctx, c.low, id, v10, "rpc_ping", nil, nil)
}

// FilesystemStats asks for the use of the volume.
func (c *Client) FilesystemStats(ctx context.Context, id string) (FilesystemStats, error) {
	var s FilesystemStats
	err := c.call(ctx, c.low, id, v10, "get_filesystem_stats", map[string]any{"fs_path": nil}, &s)
	return s, err
}

// ListDatabases asks for a page of databases.
func (c *Client) ListDatabases(ctx context.Context, id string, l List) (Page[rpcapi.Database], error) {
	var p Page[rpcapi.Database]
	err := c.call(ctx, c.low, id, v10, "list_databases", l.args(), &p)
	return p, err
}

// ListUsers asks for a page of users.
func (c *Client) ListUsers(ctx context.Context, id string, l List) (Page[rpcapi.User], error) {
	var p Page[rpcapi.User]
	err := c.call(ctx, c.high, id, v10, "list_users", l.args(), &p)
	return p, err
}

func (l List) args() map[string]any {
	return map[string]any{"limit": l.Limit, "marker": l.Marker, "include_marker": l.IncludeMarker}
}

// GetUser asks for one user; nil if there is none.
func (c *Client) GetUser(ctx context.Context, id, name, host string) (*rpcapi.User, error) {
	var u *rpcapi.User
	err := c.call(ctx, c.low, id, v10, "get_user", map[string]any{"username": name, "hostname": host}, &u)
	return u, err
}

// ListAccess asks which databases a user may use.
func (c *Client) ListAccess(ctx context.Context, id, name, host string) ([]rpcapi.Database, error) {
	var dbs []rpcapi.Database
	err := c.call(ctx, c.low, id, v10, "list_access", map[string]any{"username": name, "hostname": host}, &dbs)
	return dbs, err
}

// GrantAccess lets a user use databases.
func (c *Client) GrantAccess(ctx context.Context, id, name, host string, databases []string) error {
	return c.call(ctx, c.low, id, v10, "grant_access",
		map[string]any{"username": name, "hostname": host, "databases": databases}, nil)
}

// RevokeAccess takes a database from a user.
func (c *Client) RevokeAccess(ctx context.Context, id, name, host, database string) error {
	return c.call(ctx, c.low, id, v10, "revoke_access",
		map[string]any{"username": name, "hostname": host, "database": database}, nil)
}

// EnableRoot enables root with a password, or with one the agent makes if it
// is empty.
func (c *Client) EnableRoot(ctx context.Context, id, password string) (trove.User, error) {
	method, args := "enable_root", map[string]any(nil)
	if password != "" {
		method, args = "enable_root_with_password", map[string]any{"root_password": password}
	}
	var u rpcapi.User
	err := c.call(ctx, c.high, id, v10, method, args, &u)
	return u.ToUser(), err
}

// DisableRoot takes root's password away.
func (c *Client) DisableRoot(ctx context.Context, id string) error {
	return c.call(ctx, c.high, id, v10, "disable_root", nil, nil)
}

// CreateDatabasesMessage makes the cast create_database.
func CreateDatabasesMessage(id string, dbs []trove.Database) rpc.Message {
	return cast(id, v10, "create_database", map[string]any{"databases": rpcapi.Databases(dbs)})
}

// DeleteDatabaseMessage makes the cast delete_database.
func DeleteDatabaseMessage(id, name string) rpc.Message {
	return cast(id, v10, "delete_database", map[string]any{"database": rpcapi.Database{Name: name}})
}

// CreateUsersMessage makes the cast create_user.
func CreateUsersMessage(id string, users []trove.User) rpc.Message {
	return cast(id, v10, "create_user", map[string]any{"users": rpcapi.Users(users)})
}

// DeleteUserMessage makes the cast delete_user.
func DeleteUserMessage(id string, u trove.User) rpc.Message {
	return cast(id, v10, "delete_user", map[string]any{"user": rpcapi.Users([]trove.User{u})[0]})
}

// ChangePasswordsMessage makes the cast change_passwords.
func ChangePasswordsMessage(id string, changes []PasswordChange) rpc.Message {
	return cast(id, v10, "change_passwords", map[string]any{"users": changes})
}

// UpdateAttributesMessage makes the cast update_attributes.
func UpdateAttributesMessage(id, name, host string, a Attributes) rpc.Message {
	return cast(id, v10, "update_attributes",
		map[string]any{"username": name, "hostname": host, "user_attrs": a})
}

func cast(id, version, method string, args map[string]any) rpc.Message {
	return rpc.Message{Topic: Topic(id), Method: method, Version: version, Args: args}
}
