package mysql

import (
	"context"

	"github.com/gotrove/gotrove/internal/trove"
)

// rootUser is the superuser people may ask for. It is there and not locked
// exactly while it is enabled, so the server itself keeps the truth.
const rootUser = "root"

// EnableRoot makes root@% with all rights and the password. It is unlocked
// last: nobody gets in with an earlier password.
func (e *Engine) EnableRoot(ctx context.Context, password string) (trove.User, error) {
	if err := checkPassword(password); err != nil {
		return trove.User{}, err
	}
	const what = "enable root"
	for _, s := range []struct {
		statement string
		args      []any
	}{
		{"CREATE USER IF NOT EXISTS ?@? IDENTIFIED BY ? ACCOUNT LOCK", []any{rootUser, trove.AnyHost, newPassword()}},
		{"GRANT ALL PRIVILEGES ON *.* TO ?@? WITH GRANT OPTION", []any{rootUser, trove.AnyHost}},
		{"ALTER USER ?@? IDENTIFIED BY ? ACCOUNT UNLOCK", []any{rootUser, trove.AnyHost, password}},
	} {
		if err := e.exec(ctx, what, s.statement, s.args...); err != nil {
			return trove.User{}, err
		}
	}
	return trove.User{Name: rootUser, Host: trove.AnyHost, Password: password}, nil
}

// DisableRoot gives root a password nobody knows, locks it and ends its
// connections. The user stays, with what it owns.
func (e *Engine) DisableRoot(ctx context.Context) error {
	_, there, err := e.root(ctx)
	if err != nil || !there {
		return err
	}
	if err := e.exec(ctx, "disable root", "ALTER USER ?@? IDENTIFIED BY ? ACCOUNT LOCK", rootUser, trove.AnyHost, newPassword()); err != nil {
		return err
	}
	return e.disconnect(ctx, rootUser)
}

// RootEnabled reports whether root may connect from other machines.
func (e *Engine) RootEnabled(ctx context.Context) (bool, error) {
	locked, there, err := e.root(ctx)
	return there && !locked, err
}

func (e *Engine) root(ctx context.Context) (locked, there bool, err error) {
	err = e.rows(ctx, "look for root",
		e.d.RootLocked+" WHERE User = ? AND Host = ?",
		func(scan func(...any) error) error {
			there = true
			return scan(&locked)
		}, rootUser, trove.AnyHost)
	return locked, there, err
}
