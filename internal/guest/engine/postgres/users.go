package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// rootName is the superuser that a user of the service may ask for.
const rootName = "root"

// randomPassword is worth 190 bits: nobody knows it, nobody guesses it.
const randomPassword = 32

// reservedUsers are never listed and refused; so is every name with pg_, which
// PostgreSQL keeps to itself.
var reservedUsers = []string{superuser, rootName, "os_admin"}

func reservedUser(name string) bool {
	return slices.Contains(reservedUsers, name) || strings.HasPrefix(name, "pg_")
}

func checkUser(name, host string) error {
	if host != "" && host != trove.AnyHost {
		return trove.Errorf(trove.KindBadRequest, "A PostgreSQL user has no host; %q cannot be one.", host).
			WithAction("Leave the host out, or give %s.", trove.AnyHost)
	}
	return checkName("user", name, reservedUser)
}

func checkPassword(password string) error {
	switch {
	case password == "":
		return trove.Errorf(trove.KindBadRequest, "A user needs a password.")
	case strings.ContainsRune(password, 0), !utf8.ValidString(password):
		return trove.Errorf(trove.KindBadRequest, "The password holds characters that PostgreSQL does not take.")
	}
	return nil
}

func noUser(name string) error { return trove.Errorf(trove.KindNotFound, "There is no user %q.", name) }

// granted gives who may connect to which database, by an own grant.
const granted = `
	SELECT a.grantee, d.datname
	FROM pg_database d, aclexplode(d.datacl) a
	WHERE a.privilege_type = 'CONNECT' AND NOT d.datistemplate AND d.datname <> ALL ($1)`

// Users lists users by name.
func (e *Engine) Users(ctx context.Context) ([]trove.User, error) { return e.users(ctx, nil) }

// users lists users, or the one of that name.
func (e *Engine) users(ctx context.Context, name *string) ([]trove.User, error) {
	pool, err := e.admin()
	if err != nil {
		return nil, err
	}
	rows, err := pool.Query(ctx, `
		SELECT r.rolname, coalesce(g.datname, '')
		FROM pg_roles r LEFT JOIN (`+granted+`) g ON g.grantee = r.oid
		WHERE r.rolcanlogin AND r.rolname <> ALL ($2) AND r.rolname !~ '^pg_' AND ($3::text IS NULL OR r.rolname = $3)
		ORDER BY r.rolname, g.datname`, reservedDatabases, reservedUsers, name)
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	var users []trove.User
	var role, database string
	_, err = pgx.ForEachRow(rows, []any{&role, &database}, func() error {
		if n := len(users); n == 0 || users[n-1].Name != role {
			users = append(users, trove.User{Name: role, Host: trove.AnyHost})
		}
		if database != "" {
			u := &users[len(users)-1]
			u.Databases = append(u.Databases, database)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	return users, nil
}

// User gives one user.
func (e *Engine) User(ctx context.Context, name, host string) (trove.User, error) {
	if err := checkUser(name, host); err != nil {
		return trove.User{}, err
	}
	users, err := e.users(ctx, &name)
	if err != nil {
		return trove.User{}, err
	}
	if len(users) == 0 {
		return trove.User{}, noUser(name)
	}
	return users[0], nil
}

// CreateUser makes the user what u says: its password and exactly its grants.
func (e *Engine) CreateUser(ctx context.Context, u trove.User) error {
	if err := checkUser(u.Name, u.Host); err != nil {
		return err
	}
	if err := checkPassword(u.Password); err != nil {
		return err
	}
	if err := e.checkDatabases(ctx, u.Databases); err != nil {
		return err
	}
	if err := e.setRole(ctx, u.Name, "LOGIN", u.Password); err != nil {
		return err
	}
	now, err := e.User(ctx, u.Name, u.Host)
	if err != nil {
		return err
	}
	for _, d := range now.Databases {
		if !slices.Contains(u.Databases, d) {
			if err := e.revoke(ctx, u.Name, d); err != nil {
				return err
			}
		}
	}
	return e.grant(ctx, u.Name, u.Databases)
}

// setRole creates a role or alters the one that is there.
func (e *Engine) setRole(ctx context.Context, name, options, password string) error {
	pool, err := e.admin()
	if err != nil {
		return err
	}
	there, err := e.hasRole(ctx, name)
	if err != nil {
		return err
	}
	literal, err := passwordLiteral(password)
	if err != nil {
		return err
	}
	verb := "CREATE"
	if there {
		verb = "ALTER"
	}
	if _, err := pool.Exec(ctx, verb+" ROLE "+ident(name)+" "+options+" PASSWORD"+literal); err != nil {
		return fmt.Errorf("%s user %q: %w", strings.ToLower(verb), name, refused(err))
	}
	return nil
}

func (e *Engine) hasRole(ctx context.Context, name string) (bool, error) {
	pool, err := e.admin()
	if err != nil {
		return false, err
	}
	var there bool
	err = pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", name).Scan(&there)
	return there, err
}

// AlterUser changes password and name, in this order, so that a change that
// was cut off can be asked for again.
func (e *Engine) AlterUser(ctx context.Context, name, host string, a trove.UserAttributes) error {
	if a.Host != nil {
		if err := checkUser(name, *a.Host); err != nil {
			return err
		}
	}
	if a.Password != nil {
		if err := checkPassword(*a.Password); err != nil {
			return err
		}
	}
	if _, err := e.User(ctx, name, host); err != nil {
		return err
	}
	rename := a.Name != nil && *a.Name != name
	if rename {
		if err := checkUser(*a.Name, ""); err != nil {
			return err
		}
		taken, err := e.hasRole(ctx, *a.Name)
		if err != nil {
			return err
		}
		if taken {
			return trove.Errorf(trove.KindBadRequest, "There is a user %q already.", *a.Name)
		}
	}
	if a.Password != nil {
		if err := e.setRole(ctx, name, "LOGIN", *a.Password); err != nil {
			return err
		}
	}
	if !rename {
		return nil
	}
	pool, err := e.admin()
	if err != nil {
		return err
	}
	if _, err := pool.Exec(ctx, "ALTER ROLE "+ident(name)+" RENAME TO "+ident(*a.Name)); err != nil {
		return fmt.Errorf("rename user %q: %w", name, refused(err))
	}
	return nil
}

// refused gives the names that SQL keeps to itself, as public, their kind.
func refused(err error) error {
	const reservedName = "42939"
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == reservedName {
		return trove.Errorf(trove.KindBadRequest, "%s", pg.Message)
	}
	return err
}

// DropUser drops a user and ends its sessions. What it owns becomes the
// administrator's: a user's end is no reason to lose data.
func (e *Engine) DropUser(ctx context.Context, name, host string) error {
	if _, err := e.User(ctx, name, host); err != nil {
		return err
	}
	pool, err := e.admin()
	if err != nil {
		return err
	}
	if err := e.setRole(ctx, name, "NOLOGIN", secret.Password(randomPassword, secret.Alphanumeric).Reveal()); err != nil {
		return err
	}
	if err := e.endSessions(ctx, name, nil); err != nil {
		return err
	}
	// Only databases where something depends on the role need a visit, and one
	// for what all share.
	rows, err := pool.Query(ctx, `
		SELECT datname FROM pg_database WHERE datallowconn AND (datname = 'postgres' OR oid IN (
			SELECT s.dbid FROM pg_shdepend s JOIN pg_roles r ON r.oid = s.refobjid
			WHERE s.refclassid = 'pg_authid'::regclass AND r.rolname = $1))`, name)
	if err != nil {
		return fmt.Errorf("find what user %q owns: %w", name, err)
	}
	where, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("find what user %q owns: %w", name, err)
	}
	for _, d := range where {
		err := e.in(ctx, d, func(c *pgx.Conn) error {
			for _, q := range []string{"REASSIGN OWNED BY " + ident(name) + " TO " + superuser, "DROP OWNED BY " + ident(name)} {
				if _, err := c.Exec(ctx, q); err != nil {
					return fmt.Errorf("take from user %q what it has in database %q: %w", name, d, err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if _, err := pool.Exec(ctx, "DROP ROLE "+ident(name)); err != nil {
		return fmt.Errorf("drop user %q: %w", name, err)
	}
	return nil
}

// endSessions ends a user's sessions, those in one database if it is given.
func (e *Engine) endSessions(ctx context.Context, name string, database *string) error {
	pool, err := e.admin()
	if err != nil {
		return err
	}
	_, err = pool.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE usename = $1 AND ($2::text IS NULL OR datname = $2)`, name, database)
	return err
}

// checkDatabases refuses names that are not databases to be granted.
func (e *Engine) checkDatabases(ctx context.Context, databases []string) error {
	for _, d := range databases {
		if err := checkDatabase(d); err != nil {
			return err
		}
		there, err := e.hasDatabase(ctx, d)
		if err != nil {
			return err
		}
		if !there {
			return noDatabase(d)
		}
	}
	return nil
}

// Grant lets a user use databases, all or none if one is not there.
func (e *Engine) Grant(ctx context.Context, name, host string, databases []string) error {
	if err := checkUser(name, host); err != nil {
		return err
	}
	for _, d := range databases {
		if err := checkDatabase(d); err != nil {
			return err
		}
	}
	if _, err := e.User(ctx, name, host); err != nil {
		return err
	}
	if err := e.checkDatabases(ctx, databases); err != nil {
		return err
	}
	return e.grant(ctx, name, databases)
}

func (e *Engine) grant(ctx context.Context, name string, databases []string) error {
	for _, d := range databases {
		err := e.inPublic(ctx, d, "GRANT ALL ON DATABASE "+ident(d)+" TO "+ident(name),
			"GRANT USAGE, CREATE ON SCHEMA public TO "+ident(name))
		if err != nil {
			return fmt.Errorf("grant database %q to %q: %w", d, name, err)
		}
	}
	return nil
}

// Revoke takes a database from a user and ends its sessions there.
func (e *Engine) Revoke(ctx context.Context, name, host, database string) error {
	if err := checkUser(name, host); err != nil {
		return err
	}
	if err := checkDatabase(database); err != nil {
		return err
	}
	u, err := e.User(ctx, name, host)
	if err != nil {
		return err
	}
	if !slices.Contains(u.Databases, database) {
		return trove.Errorf(trove.KindNotFound, "User %q has no access to a database %q.", name, database)
	}
	return e.revoke(ctx, name, database)
}

func (e *Engine) revoke(ctx context.Context, name, database string) error {
	err := e.inPublic(ctx, database, "REVOKE ALL ON DATABASE "+ident(database)+" FROM "+ident(name)+", PUBLIC",
		"REVOKE USAGE, CREATE ON SCHEMA public FROM "+ident(name))
	if err != nil {
		return fmt.Errorf("revoke database %q from %q: %w", database, name, err)
	}
	return e.endSessions(ctx, name, &database)
}

// inPublic runs a statement on a database and one on its schema public, in one
// transaction. A user may have dropped that schema: then only the first.
func (e *Engine) inPublic(ctx context.Context, database, first, second string) error {
	return e.in(ctx, database, func(c *pgx.Conn) error {
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, first); err != nil {
				return err
			}
			var public bool
			if err := tx.QueryRow(ctx, "SELECT to_regnamespace('public') IS NOT NULL").Scan(&public); err != nil || !public {
				return err
			}
			_, err := tx.Exec(ctx, second)
			return err
		})
	})
}

// EnableRoot makes root a superuser who may log in with this password.
func (e *Engine) EnableRoot(ctx context.Context, password string) (trove.User, error) {
	if err := checkPassword(password); err != nil {
		return trove.User{}, err
	}
	err := e.setRole(ctx, rootName, "SUPERUSER CREATEDB CREATEROLE INHERIT REPLICATION BYPASSRLS LOGIN", password)
	return trove.User{Name: rootName, Password: password, Host: trove.AnyHost}, err
}

// DisableRoot lets root log in no more and ends its sessions. What it owns it
// keeps, for when it is enabled again.
func (e *Engine) DisableRoot(ctx context.Context) error {
	there, err := e.hasRole(ctx, rootName)
	if err != nil || !there {
		return err
	}
	if err := e.setRole(ctx, rootName, "NOLOGIN", secret.Password(randomPassword, secret.Alphanumeric).Reveal()); err != nil {
		return err
	}
	return e.endSessions(ctx, rootName, nil)
}

// RootEnabled reports whether root may log in.
func (e *Engine) RootEnabled(ctx context.Context) (bool, error) {
	pool, err := e.admin()
	if err != nil {
		return false, err
	}
	var enabled bool
	err = pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1 AND rolcanlogin)", rootName).Scan(&enabled)
	return enabled, err
}
