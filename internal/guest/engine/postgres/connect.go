package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	connectLimit = 10 * time.Second
	// poolSize lets a health check pass an operation that takes long.
	poolSize = 3
	poolIdle = time.Minute
	// poolLife makes the health check see what new clients see: a postmaster
	// that hangs leaves the connections there are alone.
	poolLife = 10 * time.Second
)

// admin is the pool of the superuser's connections to database postgres.
func (e *Engine) admin() (*pgxpool.Pool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pool != nil {
		return e.pool, nil
	}
	cfg, err := pgxpool.ParseConfig("")
	if err != nil {
		return nil, fmt.Errorf("configure connections: %w", err)
	}
	e.configure(cfg.ConnConfig, superuser)
	cfg.MaxConns, cfg.MinConns = poolSize, 0
	cfg.MaxConnIdleTime, cfg.MaxConnLifetime = poolIdle, poolLife
	// The server may have been restarted since a connection was last used.
	cfg.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return true }
	e.pool, err = pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		return nil, fmt.Errorf("configure connections: %w", err)
	}
	return e.pool, nil
}

// configure makes cfg the superuser's connection to a database over the
// socket, whatever the environment says.
func (e *Engine) configure(cfg *pgx.ConnConfig, database string) {
	cfg.Host, cfg.Port = e.set.RunDir, uint16(e.set.Port)
	cfg.User, cfg.Password, cfg.Database = superuser, "", database
	cfg.TLSConfig, cfg.Fallbacks = nil, nil
	cfg.ConnectTimeout = connectLimit
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	cfg.RuntimeParams = map[string]string{
		"application_name": "gotrove",
		// Whatever a configuration group asks to be logged, our statements may
		// hold passwords.
		"log_statement":                 "none",
		"log_min_error_statement":       "panic",
		"log_min_duration_statement":    "-1",
		"log_duration":                  "off",
		"search_path":                   "pg_catalog",
		"standard_conforming_strings":   "on",
		"client_encoding":               "UTF8",
		"role":                          "none",
		"default_transaction_read_only": "off",
	}
}

// in runs do with a connection of the superuser to a database.
func (e *Engine) in(ctx context.Context, database string, do func(*pgx.Conn) error) error {
	cfg, err := pgx.ParseConfig("")
	if err != nil {
		return fmt.Errorf("configure connections: %w", err)
	}
	e.configure(cfg, database)
	c, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("connect to database %q: %w", database, err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectLimit)
		defer cancel()
		_ = c.Close(closing) // the server ends it anyway
	}()
	return do(c)
}
