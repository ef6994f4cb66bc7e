package mysql

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/go-sql-driver/mysql"

	"github.com/gotrove/gotrove/internal/trove"
)

// Character set and collation of a database that is given none: those of the
// original.
const (
	defaultCharset   = "utf8mb3"
	defaultCollation = "utf8mb3_general_ci"
)

// account is a user's key.
type account struct{ name, host string }

// grant is a row of mysql.db: pattern is as it is stored.
type grant struct {
	account
	pattern string
}

// exec runs a statement. Values go in by the driver. What the server says of
// one that holds a password is not passed on, for it may quote it.
func (e *Engine) exec(ctx context.Context, what, statement string, args ...any) error {
	db, err := e.open()
	if err != nil {
		return err
	}
	if _, err = db.ExecContext(ctx, statement, args...); err != nil {
		return refused(what, err)
	}
	return nil
}

// Error numbers we tell apart.
const (
	errParse            = 1064
	errNoThread         = 1094
	errNoGrant          = 1141
	errUnknownCharset   = 1115
	errCollationCharset = 1253
	errUnknownCollation = 1273
	errTooLong          = 1470
	errPasswordPolicy   = 1819
)

func refused(what string, err error) error {
	m, ok := errors.AsType[*mysql.MySQLError](err)
	if !ok {
		return trove.Errorf(trove.KindUnavailable, "%s: %w", what, err)
	}
	switch m.Number {
	case errUnknownCharset, errCollationCharset, errUnknownCollation, errTooLong, errPasswordPolicy:
		return trove.Errorf(trove.KindBadRequest, "%s: %w", what, err)
	case errParse: // it quotes the statement
		return trove.Errorf(trove.KindGuest, "%s: the server does not understand it (error %d)", what, m.Number)
	}
	return trove.Errorf(trove.KindGuest, "%s: %w", what, err)
}

// rows calls scan for each row of a query.
func (e *Engine) rows(ctx context.Context, what, query string, scan func(func(...any) error) error, args ...any) error {
	db, err := e.open()
	if err != nil {
		return err
	}
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return refused(what, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows.Scan); err != nil {
			return refused(what, err)
		}
	}
	if err := rows.Err(); err != nil {
		return refused(what, err)
	}
	return nil
}

// Databases lists the databases by name.
func (e *Engine) Databases(ctx context.Context) ([]trove.Database, error) {
	var all []trove.Database
	err := e.rows(ctx, "list databases",
		"SELECT SCHEMA_NAME, DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA",
		func(scan func(...any) error) error {
			var d trove.Database
			if err := scan(&d.Name, &d.CharacterSet, &d.Collation); err != nil {
				return err
			}
			if !oneOf(reservedDatabases, d.Name) {
				all = append(all, d)
			}
			return nil
		})
	slices.SortFunc(all, func(a, b trove.Database) int { return cmp.Compare(a.Name, b.Name) })
	return all, err
}

func (e *Engine) database(ctx context.Context, name string) (d trove.Database, ok bool, err error) {
	all, err := e.Databases(ctx)
	if err != nil {
		return trove.Database{}, false, err
	}
	n := slices.IndexFunc(all, func(d trove.Database) bool { return d.Name == name })
	if n < 0 {
		return trove.Database{}, false, nil
	}
	return all[n], true, nil
}

// CreateDatabase makes a database. One that is there gets the character set
// and collation it is given, if any.
func (e *Engine) CreateDatabase(ctx context.Context, d trove.Database) error {
	if err := errors.Join(checkDatabase(d.Name), checkCharset("character_set", d.CharacterSet), checkCharset("collate", d.Collation)); err != nil {
		return err
	}
	have, there, err := e.database(ctx, d.Name)
	if err != nil {
		return err
	}
	if there && (d.CharacterSet == "" || d.CharacterSet == have.CharacterSet) && (d.Collation == "" || d.Collation == have.Collation) {
		return nil
	}
	if d.CharacterSet == "" && d.Collation == "" {
		d.CharacterSet, d.Collation = defaultCharset, defaultCollation
	}
	statement := "CREATE DATABASE IF NOT EXISTS "
	if there {
		statement = "ALTER DATABASE "
	}
	statement += quoteName(d.Name)
	if d.CharacterSet != "" {
		statement += " CHARACTER SET " + quoteName(d.CharacterSet)
	}
	if d.Collation != "" {
		statement += " COLLATE " + quoteName(d.Collation)
	}
	return e.exec(ctx, "create database "+d.Name, statement)
}

// DropDatabase removes a database with the rights on it, so that one of the
// same name starts without them.
func (e *Engine) DropDatabase(ctx context.Context, name string) error {
	if err := checkDatabase(name); err != nil {
		return err
	}
	_, there, err := e.database(ctx, name)
	if err != nil {
		return err
	}
	if there {
		if err := e.exec(ctx, "drop database "+name, "DROP DATABASE IF EXISTS "+quoteName(name)); err != nil {
			return err
		}
	}
	grants, err := e.grants(ctx)
	if err != nil {
		return err
	}
	for _, g := range grants {
		if grantedDatabase(g.pattern) == name {
			if err := e.revoke(ctx, g); err != nil {
				return err
			}
		}
	}
	if !there {
		return trove.Errorf(trove.KindNotFound, "database %s is not there", name)
	}
	return nil
}

func (e *Engine) grants(ctx context.Context) ([]grant, error) {
	var all []grant
	err := e.rows(ctx, "list grants", "SELECT User, Host, Db FROM mysql.db", func(scan func(...any) error) error {
		var g grant
		if err := scan(&g.name, &g.host, &g.pattern); err != nil {
			return err
		}
		all = append(all, g)
		return nil
	})
	return all, err
}

// Users lists the users by name and host.
func (e *Engine) Users(ctx context.Context) ([]trove.User, error) {
	grants, err := e.grants(ctx)
	if err != nil {
		return nil, err
	}
	databases := map[account][]string{}
	for _, g := range grants {
		if name := grantedDatabase(g.pattern); !oneOf(reservedDatabases, name) {
			databases[g.account] = append(databases[g.account], name)
		}
	}
	var all []trove.User
	err = e.rows(ctx, "list users", "SELECT User, Host FROM mysql.user WHERE "+e.d.NoRole, func(scan func(...any) error) error {
		var a account
		if err := scan(&a.name, &a.host); err != nil {
			return err
		}
		if a.name != "" && a.host != "localhost" && !oneOf(e.d.ReservedUsers, a.name) {
			slices.Sort(databases[a])
			all = append(all, trove.User{Name: a.name, Host: a.host, Databases: slices.Compact(databases[a])})
		}
		return nil
	})
	slices.SortFunc(all, func(a, b trove.User) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Host, b.Host))
	})
	return all, err
}

// find returns the user, or ok false.
func (e *Engine) find(ctx context.Context, a account) (u trove.User, ok bool, err error) {
	all, err := e.Users(ctx)
	if err != nil {
		return trove.User{}, false, err
	}
	n := slices.IndexFunc(all, func(u trove.User) bool { return u.Name == a.name && u.Host == a.host })
	if n < 0 {
		return trove.User{}, false, nil
	}
	return all[n], true, nil
}

// User returns one user with the databases it may use.
func (e *Engine) User(ctx context.Context, name, host string) (trove.User, error) {
	host, err := e.d.checkUser(name, host)
	if err != nil {
		return trove.User{}, err
	}
	u, ok, err := e.find(ctx, account{name, host})
	if err == nil && !ok {
		err = trove.Errorf(trove.KindNotFound, "user %s@%s is not there", name, host)
	}
	return u, err
}

// CreateUser makes a user. One that is there gets the password and exactly the
// grants it is given.
func (e *Engine) CreateUser(ctx context.Context, u trove.User) error {
	host, err := e.d.checkUser(u.Name, u.Host)
	if err := errors.Join(err, checkPassword(u.Password), checkDatabases(u.Databases)); err != nil {
		return err
	}
	a := account{u.Name, host}
	have, there, err := e.find(ctx, a)
	if err != nil {
		return err
	}
	statement := "CREATE USER ?@? IDENTIFIED BY ?"
	if there {
		statement = "ALTER USER ?@? IDENTIFIED BY ?"
	}
	if err := e.exec(ctx, "create user "+a.String(), statement, a.name, a.host, u.Password); err != nil {
		return err
	}
	for _, name := range missing(have.Databases, u.Databases) {
		if err := e.Revoke(ctx, a.name, a.host, name); err != nil && !trove.IsKind(err, trove.KindNotFound) {
			return err
		}
	}
	return e.grant(ctx, a, missing(u.Databases, have.Databases))
}

func (a account) String() string { return a.name + "@" + a.host }

// missing is what is in list and not in from.
func missing(list, from []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(from, s) && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// AlterUser changes password, then name and host.
func (e *Engine) AlterUser(ctx context.Context, name, host string, change trove.UserAttributes) error {
	u, err := e.User(ctx, name, host)
	if err != nil {
		return err
	}
	from := account{u.Name, u.Host}
	to := from
	if change.Name != nil {
		to.name = *change.Name
	}
	if change.Host != nil {
		to.host = *change.Host
	}
	if to.host, err = e.d.checkUser(to.name, to.host); err != nil {
		return err
	}
	if to != from {
		_, taken, err := e.find(ctx, to)
		if err != nil {
			return err
		}
		if taken {
			return trove.Errorf(trove.KindBadRequest, "user %s is there already", to)
		}
	}
	if change.Password != nil {
		if err := checkPassword(*change.Password); err != nil {
			return err
		}
		if err := e.exec(ctx, "set the password of "+from.String(), "ALTER USER ?@? IDENTIFIED BY ?", from.name, from.host, *change.Password); err != nil {
			return err
		}
	}
	if to == from {
		return nil
	}
	return e.exec(ctx, "rename user "+from.String(), "RENAME USER ?@? TO ?@?", from.name, from.host, to.name, to.host)
}

// DropUser removes a user. Its connections end, unless another host's user of
// the same name may own them.
func (e *Engine) DropUser(ctx context.Context, name, host string) error {
	u, err := e.User(ctx, name, host)
	if err != nil {
		return err
	}
	if err := e.exec(ctx, "drop user "+name, "DROP USER ?@?", u.Name, u.Host); err != nil {
		return err
	}
	rest, err := e.Users(ctx)
	if err != nil || slices.ContainsFunc(rest, func(r trove.User) bool { return r.Name == u.Name }) {
		return err
	}
	return e.disconnect(ctx, u.Name)
}

// disconnect ends the connections of every user of a name.
func (e *Engine) disconnect(ctx context.Context, name string) error {
	what := "end connections of " + name
	if e.d.KillUser != "" {
		return e.exec(ctx, what, e.d.KillUser+quoteName(name))
	}
	var ids []int64
	if err := e.rows(ctx, what, "SELECT ID FROM information_schema.PROCESSLIST WHERE USER = ?", func(scan func(...any) error) error {
		var id int64
		err := scan(&id)
		ids = append(ids, id)
		return err
	}, name); err != nil {
		return err
	}
	for _, id := range ids {
		err := e.exec(ctx, what, "KILL CONNECTION ?", id)
		if m, ok := errors.AsType[*mysql.MySQLError](err); err != nil && !(ok && m.Number == errNoThread) { // it has ended itself
			return err
		}
	}
	return nil
}

// Grant gives a user all rights on databases, which need not be there yet.
func (e *Engine) Grant(ctx context.Context, name, host string, databases []string) error {
	if err := checkDatabases(databases); err != nil {
		return err
	}
	u, err := e.User(ctx, name, host)
	if err != nil {
		return err
	}
	return e.grant(ctx, account{u.Name, u.Host}, missing(databases, u.Databases))
}

func (e *Engine) grant(ctx context.Context, a account, databases []string) error {
	for _, name := range databases {
		statement := "GRANT ALL PRIVILEGES ON " + quoteName(grantPattern(name)) + ".* TO ?@?"
		if err := e.exec(ctx, "grant "+name+" to "+a.String(), statement, a.name, a.host); err != nil {
			return err
		}
	}
	return nil
}

// Revoke takes all rights on a database from a user.
func (e *Engine) Revoke(ctx context.Context, name, host, database string) error {
	if err := checkDatabase(database); err != nil {
		return err
	}
	u, err := e.User(ctx, name, host)
	if err != nil {
		return err
	}
	grants, err := e.grants(ctx)
	if err != nil {
		return err
	}
	revoked := false
	for _, g := range grants {
		if g.account == (account{u.Name, u.Host}) && grantedDatabase(g.pattern) == database {
			if err := e.revoke(ctx, g); err != nil {
				return err
			}
			revoked = true
		}
	}
	if !revoked {
		return trove.Errorf(trove.KindNotFound, "user %s@%s has no rights on database %s", u.Name, u.Host, database)
	}
	return nil
}

// revoke takes back a grant by the pattern it was given with, which may have
// been another one than ours.
func (e *Engine) revoke(ctx context.Context, g grant) error {
	// The right to pass rights on is none of ALL; with ALL the row goes.
	for _, rights := range []string{"GRANT OPTION", "ALL PRIVILEGES"} {
		statement := "REVOKE " + rights + " ON " + quoteName(g.pattern) + ".* FROM ?@?"
		err := e.exec(ctx, "revoke "+g.pattern+" from "+g.account.String(), statement, g.name, g.host)
		if m, ok := errors.AsType[*mysql.MySQLError](err); err != nil && !(ok && m.Number == errNoGrant) { // MySQL says so of a right that was not given
			return err
		}
	}
	return nil
}
