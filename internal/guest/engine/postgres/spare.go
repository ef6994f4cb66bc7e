package postgres

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/gotrove/gotrove/internal/guest/runtime"
)

// A template holds a spare database, made as any other that asks for nothing of
// its own. The first such of prepare takes it by renaming it: to make one is to
// write 7 MB, and their log, and half of what the server does in a create.
// Nobody may connect to it, nobody is told of it, and prepare leaves none.
const (
	spareDatabase = "gotrove_spare"
	// spareSince is the major version whose statement gives it the oid of a
	// first database. Without a postmaster it had one of the system's own, which
	// dumps and upgrades leave out.
	spareSince = 15
	firstOID   = 16384
)

// makeSpare adds the spare database to a data directory of initdb's.
func makeSpare(ctx context.Context, by runtime.Tools, found Installation, dir string) error {
	if found.major < spareSince {
		return nil
	}
	statement := fmt.Sprintf("CREATE DATABASE %s STRATEGY file_copy ALLOW_CONNECTIONS false OID %d", spareDatabase, firstOID)
	_, err := by.Run(ctx, runtime.Tool{Dir: dir, Named: true, Env: []string{"LANG=C", "TZ=UTC"},
		Argv: []string{"/bin/sh", "-c", `printf '%s\n' "$1" | exec "$2" --single -F -D "$3" -c exit_on_error=true template1`,
			"sh", statement, filepath.Join(found.BinDir, "postgres"), dir}})
	if err != nil {
		return err
	}
	return dropForks(dir)
}

// takeSpare gives the spare database a name, all at once: it is there as it
// should be, or the spare is.
func (e *Engine) takeSpare(ctx context.Context, name string) error {
	pool, err := e.admin()
	if err != nil {
		return err
	}
	// Without arguments these are one message, and so one transaction.
	_, err = pool.Exec(ctx, "ALTER DATABASE "+spareDatabase+" ALLOW_CONNECTIONS true;"+
		"ALTER DATABASE "+spareDatabase+" RENAME TO "+ident(name)+";"+closeDatabase(name))
	return err
}

// Prepared drops the spare database, if nobody took it.
func (e *Engine) Prepared(ctx context.Context) error {
	there, err := e.hasDatabase(ctx, spareDatabase)
	if err != nil || !there {
		return err
	}
	pool, err := e.admin()
	if err != nil {
		return err
	}
	if _, err := pool.Exec(ctx, "DROP DATABASE IF EXISTS "+spareDatabase+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("drop the spare database: %w", err)
	}
	return nil
}
