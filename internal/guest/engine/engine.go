// Package engine says what the agent needs of a database engine. The engines
// are in packages beside it; one conformance suite (enginetest) holds for every
// engine with every runtime.
//
// An engine follows list, compare, act for everything it changes, so that each
// call may be made again. It runs nothing itself: it says what to run, and talks
// to the server by its socket.
package engine

import (
	"context"

	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/trove"
)

// Settings are what an engine must know of its instance.
type Settings struct {
	InstanceID  string
	DataDir     string // the volume: <volume>/data
	SecretsDir  string // <volume>/conf.d, 0700: os_admin.cnf and the like
	ConfigDir   string // generated configuration, base and overrides
	RunDir      string // sockets; a short path
	LogDir      string
	TemplateDir string // shared by the instances of this machine; empty: none
	Address     string // where clients connect; the engine listens there only
	Port        int    // 0: the engine's standard port
	MemoryMB    int    // of the flavor
	BinDir      string // where the server's programs are; empty: found by the engine
	Version     string // datastore version number

	// Tools are the engine's programs where they are not those of this machine:
	// of the image that its server is run from.
	Tools runtime.Tools
	// Listen is where the server listens if that is not Address: in a network of
	// its own, everywhere.
	Listen string
}

// ListenAddress is where the server listens.
func (s Settings) ListenAddress() string {
	if s.Listen != "" {
		return s.Listen
	}
	return s.Address
}

// Engine is one database engine of one instance.
type Engine interface {
	// Manager is the datastore manager's name: mariadb, postgresql.
	Manager() string
	// Initialise makes the data directory with its administrator's account,
	// from a template where there is one, and writes the configuration. A
	// directory already initialised is left alone but for the configuration.
	// A half-made one is made again. It never touches what it cannot prove to
	// be its own or empty.
	Initialise(ctx context.Context) error
	// Initialised reports whether Initialise has ended once.
	Initialised() (bool, error)
	// Configure writes the configuration: base from the flavor, overrides of
	// configuration groups on top.
	Configure(ctx context.Context, overrides map[string]any) error
	// Command is what to run.
	Command() (runtime.Spec, error)
	// Ready runs a real query. nil: the engine serves.
	Ready(ctx context.Context) error
	// Started is called when Ready first succeeded after a start: it makes the
	// administrator's account and the like what they should be.
	Started(ctx context.Context) error
	// Prepared is called when a new instance has all it was to be made with:
	// what was held ready for that and not used goes.
	Prepared(ctx context.Context) error
	// LogTail gives the end of the server's log, for a cause people can read.
	LogTail() string
	// Close lets go of connections.
	Close() error

	Accounts
}

// Accounts manages what is inside an engine. Reserved names (the engine's own
// databases and users, ours) are never listed and are refused with
// KindBadRequest; what is not there is KindNotFound.
type Accounts interface {
	Databases(ctx context.Context) ([]trove.Database, error) // by name
	CreateDatabase(ctx context.Context, d trove.Database) error
	DropDatabase(ctx context.Context, name string) error

	Users(ctx context.Context) ([]trove.User, error) // by name and host, with their databases, without passwords
	User(ctx context.Context, name, host string) (trove.User, error)
	CreateUser(ctx context.Context, u trove.User) error // sets password and grants of one that is there
	AlterUser(ctx context.Context, name, host string, a trove.UserAttributes) error
	DropUser(ctx context.Context, name, host string) error
	Grant(ctx context.Context, name, host string, databases []string) error
	Revoke(ctx context.Context, name, host, database string) error

	// EnableRoot lets the engine's root connect from everywhere with password.
	EnableRoot(ctx context.Context, password string) (trove.User, error)
	DisableRoot(ctx context.Context) error
	RootEnabled(ctx context.Context) (bool, error)
}
