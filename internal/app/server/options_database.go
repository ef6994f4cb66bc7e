package server

import (
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/store"
)

// databaseOptions is the group [database], with oslo.db's names and defaults.
type databaseOptions struct {
	Connection           secret.String `conf:"database.connection"`
	ConnectionParameters string        `conf:"database.connection_parameters" default:""`

	// Together they bound the connections: those without work are closed by age.
	MaxPoolSize int           `conf:"database.max_pool_size" default:"5"`
	MaxOverflow int           `conf:"database.max_overflow" default:"50"`
	Recycle     time.Duration `conf:"database.connection_recycle_time" default:"3600"`
	// MaxRetries and RetryInterval are of the start only.
	MaxRetries    int           `conf:"database.max_retries" default:"10"`
	RetryInterval time.Duration `conf:"database.retry_interval" default:"10"`

	// What follows has no effect: see noEffect.
	Backend            string        `conf:"database.backend" default:"sqlalchemy"`
	SlaveConnection    secret.String `conf:"database.slave_connection"`
	SQLiteSynchronous  bool          `conf:"database.sqlite_synchronous" default:"true"`
	SQLMode            string        `conf:"database.mysql_sql_mode" default:"TRADITIONAL"`
	EnableNDB          bool          `conf:"database.mysql_enable_ndb" default:"false"`
	WsrepSyncWait      string        `conf:"database.mysql_wsrep_sync_wait" default:""`
	ConnectionDebug    int           `conf:"database.connection_debug" default:"0"`
	ConnectionTrace    bool          `conf:"database.connection_trace" default:"false"`
	PoolTimeout        string        `conf:"database.pool_timeout" default:""`
	UseDBReconnect     bool          `conf:"database.use_db_reconnect" default:"false"`
	DBRetryInterval    int           `conf:"database.db_retry_interval" default:"1"`
	DBIncRetryInterval bool          `conf:"database.db_inc_retry_interval" default:"true"`
	DBMaxRetryInterval int           `conf:"database.db_max_retry_interval" default:"10"`
	DBMaxRetries       int           `conf:"database.db_max_retries" default:"20"`
	MinPoolSize        int           `conf:"database.min_pool_size" default:"1"`
	UseTpool           bool          `conf:"database.use_tpool" default:"false"`
	SynchronousReader  bool          `conf:"database.synchronous_reader" default:"true"`
	AsyncioConnection  secret.String `conf:"database.asyncio_connection"`
}

// noEffect are those that are accepted and change nothing, by their names in
// [database], with the reason.
func (databaseOptions) noEffect() map[string]string {
	retries := "a transaction that others are in the way of, or whose connection is lost, is always repeated, for seconds"
	return map[string]string{
		"backend":               "the drivers are built in",
		"slave_connection":      "every statement goes to connection",
		"synchronous_reader":    "every statement goes to connection",
		"asyncio_connection":    "every statement goes to connection",
		"sqlite_synchronous":    "every commit is on the disk before it is reported",
		"mysql_sql_mode":        "it is always TRADITIONAL: a text too long must be an error",
		"mysql_enable_ndb":      "NDB is not supported",
		"mysql_wsrep_sync_wait": "set it on the server",
		"connection_debug":      "statements that fail are logged, values never",
		"connection_trace":      "statements that fail are logged, values never",
		"pool_timeout":          "a call waits at most 30 s, for a connection too",
		"use_db_reconnect":      retries, "db_retry_interval": retries, "db_inc_retry_interval": retries,
		"db_max_retry_interval": retries, "db_max_retries": retries,
		"min_pool_size": "connections are made when they are needed",
		"use_tpool":     "there are no green threads",
	}
}

// config says where the database of record is.
func (o *databaseOptions) config() (store.Config, error) {
	url := o.Connection.Reveal()
	if o.ConnectionParameters != "" && url != "" {
		between := "?"
		if strings.Contains(url, "?") {
			between = "&"
		}
		url += between + o.ConnectionParameters
	}
	most := o.MaxPoolSize + o.MaxOverflow
	if o.MaxPoolSize <= 0 || o.MaxOverflow < 0 { // as SQLAlchemy has it
		most = -1
	}
	return store.Config{URL: secret.New(url), Pool: store.Pool{Most: most, Recycle: o.Recycle,
		Retries: o.MaxRetries, Interval: o.RetryInterval}}, nil
}
