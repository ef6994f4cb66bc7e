package api

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/gotrove/gotrove/internal/api/schema"
	"github.com/gotrove/gotrove/internal/identity"
	"github.com/gotrove/gotrove/internal/policy"
	"github.com/gotrove/gotrove/internal/rpcapi"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/rpcapi/taskmanager"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/telemetry/health"
	"github.com/gotrove/gotrove/internal/trove"
)

// Config is how the API behaves. The zero value of a field means its default.
type Config struct {
	// PublicEndpoint is the URL of the service as clients reach it, without
	// version and without a slash at the end; empty: as each request names it.
	PublicEndpoint string
	// AuthURI is told to clients without a valid token.
	AuthURI string
	// TrustForwarded believes X-Forwarded-Proto and X-Forwarded-Host; only
	// behind a proxy that sets them.
	TrustForwarded bool
	// CORSOrigins may use the API from a browser; none: CORS is off. "*" is any.
	CORSOrigins []string

	Region           string // of instances that name none; "RegionOne"
	DefaultDatastore string // name or id for instances that name none; empty: they must
	// NoVolumes says that instances have no volume of their own.
	NoVolumes     bool
	MaxVolumeSize int              // GiB for one instance; 10
	Quotas        trove.QuotaDelta // limits of projects that have none of their own

	PageSize        int           // items on a page, and the most that a limit gets; 20
	RatePerMinute   int           // requests per method and project; 200, negative: no limit
	RateBuckets     int           // projects and methods remembered; 65536
	MaxBody         int64         // bytes of a request's body; 1 MiB
	ReadTimeout     time.Duration // for a request's body; 30 s
	HeartbeatExpiry time.Duration // after which an agent counts as gone; 90 s
	UsageTimeout    time.Duration // for the guest's answer in a show; 800 ms, less what the request took before beyond an eighth of it
	GuestDeadline   time.Duration // for casts to a guest; 15 min
	SettleTimeout   time.Duration // for earlier casts to be handled, before a guest is asked; 3 s

	MaxStreams      int           // event streams at once; 256
	StreamHeartbeat time.Duration // between comments on a quiet stream; 15 s
	StreamPoll      time.Duration // between looks for what another process wrote; 450 ms

	TaskManagerTopic string // "taskmanager"
	ServiceType      string // of this service in rules of application credentials; "database"
}

func (c Config) withDefaults() Config {
	set(&c.Region, "RegionOne")
	set(&c.MaxVolumeSize, 10)
	set(&c.PageSize, 20)
	set(&c.RatePerMinute, 200)
	set(&c.RateBuckets, 65536)
	set(&c.MaxBody, 1<<20)
	set(&c.ReadTimeout, 30*time.Second)
	set(&c.HeartbeatExpiry, 90*time.Second)
	set(&c.UsageTimeout, 800*time.Millisecond) // the whole answer within a second
	set(&c.GuestDeadline, 15*time.Minute)
	set(&c.SettleTimeout, 3*time.Second)
	set(&c.MaxStreams, 256)
	set(&c.StreamHeartbeat, 15*time.Second)
	set(&c.StreamPoll, 450*time.Millisecond)
	set(&c.TaskManagerTopic, taskmanager.Topic)
	set(&c.ServiceType, "database")
	quotas := trove.QuotaDelta{trove.ResourceInstances: 10, trove.ResourceRAM: trove.Unlimited,
		trove.ResourceVolumes: 40, trove.ResourceBackups: 50}
	maps.Copy(quotas, c.Quotas)
	c.Quotas = quotas
	return c
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Store is what the API needs of the database of record.
type Store interface {
	Ping(ctx context.Context) error

	CreateInstance(ctx context.Context, n store.NewInstance) error
	Instance(ctx context.Context, id string) (*trove.Instance, error)
	ListInstances(ctx context.Context, f store.InstanceFilter, p store.Page) ([]*trove.Instance, string, error)
	RenameInstance(ctx context.Context, id, name string) error
	BeginTask(ctx context.Context, id string, c store.TaskChange) error
	BeginDelete(ctx context.Context, id string, outbox []store.OutboxRow) error
	ResetStatus(ctx context.Context, id string) error

	Datastores(ctx context.Context) ([]trove.Datastore, error)
	Datastore(ctx context.Context, idOrName string) (trove.Datastore, error)
	Version(ctx context.Context, id string) (trove.DatastoreVersion, error)
	DeleteDatastore(ctx context.Context, id string) error
	VersionMetadata(ctx context.Context, versionID string) (map[string][]string, error)

	Quotas(ctx context.Context, tenant string, defaults trove.QuotaDelta) ([]trove.Quota, error)
	SetQuotas(ctx context.Context, tenant string, limits map[trove.Resource]int) error
	RootHistory(ctx context.Context, instanceID string) (trove.RootHistory, error)
	SetRoot(ctx context.Context, instanceID, user string, enabled bool) error

	InsertOutbox(ctx context.Context, rows ...store.OutboxRow) error
	GuestPending(ctx context.Context, instanceID string) (bool, error)
	OutboxChanged() (changed <-chan struct{}, cancel func())

	Operations(ctx context.Context, instanceID string, limit int) ([]trove.Operation, error)
	Events(ctx context.Context, instanceID string, after int64, limit int) ([]trove.OperationEvent, error)
	EventsAdded(instanceID string) (added <-chan struct{}, cancel func())
}

// Guest asks guest agents; each call has its own deadline.
type Guest interface {
	FilesystemStats(ctx context.Context, id string) (guest.FilesystemStats, error)
	ListDatabases(ctx context.Context, id string, l guest.List) (guest.Page[rpcapi.Database], error)
	ListUsers(ctx context.Context, id string, l guest.List) (guest.Page[rpcapi.User], error)
	GetUser(ctx context.Context, id, name, host string) (*rpcapi.User, error)
	ListAccess(ctx context.Context, id, name, host string) ([]rpcapi.Database, error)
	GrantAccess(ctx context.Context, id, name, host string, databases []string) error
	RevokeAccess(ctx context.Context, id, name, host, database string) error
	EnableRoot(ctx context.Context, id, password string) (trove.User, error)
	DisableRoot(ctx context.Context, id string) error
}

// Cloud is what the API must know of the place where instances run.
type Cloud interface {
	Flavors(ctx context.Context) ([]trove.Flavor, error)
	Flavor(ctx context.Context, id string) (trove.Flavor, error)
	CheckNICs(ctx context.Context, nics []trove.NIC) error
}

// TokenValidator tells who a token stands for. A token that is not valid is an
// error of KindUnauthorized or KindNotFound; another error means that it cannot
// be told now.
type TokenValidator interface {
	Validate(ctx context.Context, token string) (identity.Identity, error)
}

// Deps are what the API works with. Store, Guest, Cloud and Tokens are
// needed.
type Deps struct {
	Store  Store
	Guest  Guest
	Cloud  Cloud
	Tokens TokenValidator
	// Room refuses another instance of a datastore manager where what runs here
	// has no room for it; nil: there always is.
	Room func(manager string) error
	// Keys makes the RPC keys of new instances; nil: they have none.
	Keys   Keys
	Policy *policy.Enforcer // nil: the defaults
	// Health answers GET /healthcheck; nil: it tells whether the database answers.
	Health   http.Handler
	Observer Observer         // nil: nobody
	Audit    *slog.Logger     // gets a line for each call that changes something; nil: Log
	Log      *slog.Logger     // nil: slog.Default
	Clock    func() time.Time // nil: time.Now
}

// Keys makes keys that messages of an instance are sealed with.
type Keys interface {
	// MakeKey gives one as trove.Instance.EncryptedKey has it, empty for none.
	MakeKey() string
}

// noKeys makes none.
type noKeys struct{}

func (noKeys) MakeKey() string { return "" }

// Server is the API as an http.Handler.
type Server struct {
	config    Config
	store     Store
	guest     Guest
	cloud     Cloud
	tokens    TokenValidator
	room      func(manager string) error
	keys      Keys
	policy    *policy.Enforcer
	schemas   *schema.Set
	health    http.Handler
	observer  Observer
	auditLog  *slog.Logger
	log       *slog.Logger
	clock     func() time.Time
	challenge string // WWW-Authenticate
	rates     *rates
	usages    usages
	router    *router
	handler   http.Handler
	streams   chan struct{} // a place for each event stream
	ended     chan struct{} // closed by EndStreams
	endOnce   sync.Once
}

// New makes the API. It fails if a part of deps is missing or a schema of its
// own is wrong.
func New(c Config, deps Deps) (*Server, error) {
	if deps.Store == nil || deps.Guest == nil || deps.Cloud == nil || deps.Tokens == nil {
		return nil, errors.New("api: a store, guests, a cloud and tokens are needed")
	}
	schemas, err := schema.Load()
	if err != nil {
		return nil, err
	}
	c = c.withDefaults()
	s := &Server{
		config: c, store: deps.Store, guest: deps.Guest, cloud: deps.Cloud, tokens: deps.Tokens,
		room: deps.Room, keys: deps.Keys, policy: deps.Policy, schemas: schemas, log: deps.Log, clock: deps.Clock,
		challenge: `Keystone uri="` + c.AuthURI + `"`,
		rates:     newRates(c.RatePerMinute, c.RateBuckets),
		streams:   make(chan struct{}, c.MaxStreams),
		ended:     make(chan struct{}),
	}
	if s.keys == nil {
		s.keys = noKeys{}
	}
	if s.room == nil {
		s.room = func(string) error { return nil }
	}
	if s.policy == nil {
		s.policy = policy.New(nil)
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.clock == nil {
		s.clock = time.Now
	}
	if s.auditLog = deps.Audit; s.auditLog == nil {
		s.auditLog = s.log
	}
	if s.observer = deps.Observer; s.observer == nil {
		s.observer = noObserver{}
	}
	if s.health = deps.Health; s.health == nil {
		checker := health.New(s.clock, s.log)
		checker.Add(health.Check{Name: "database", Say: "The database does not answer.", Probe: s.store.Ping})
		checker.Started()
		s.health = checker.Handler(false)
	}
	s.router = newRouter(s.table())
	s.handler = s.pipeline()
	return s, nil
}

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// EndStreams ends the event streams and lets no new one begin, so that an
// http.Server can shut down: give it to RegisterOnShutdown.
func (s *Server) EndStreams() { s.endOnce.Do(func() { close(s.ended) }) }
