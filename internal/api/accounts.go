package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/api/view"
	"github.com/gotrove/gotrove/internal/outbox"
	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpcapi"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
)

// serving refuses, by KindUnprocessable, an instance whose engine cannot be
// asked now, or at all.
func serving(i *trove.Instance) error {
	if _, known := namesOf(i.Version.Manager); !known {
		return trove.Errorf(trove.KindUnprocessable,
			"Users, databases and root of instance %s cannot be managed: its datastore is not MySQL, MariaDB or PostgreSQL.", i.ID)
	}
	if i.Task == trove.TaskBuilding || i.Task == trove.TaskDeleting {
		return notReady(i)
	}
	if !i.Service.Serving() {
		return trove.Errorf(trove.KindUnprocessable, "Instance %s is not ready: its database service is %s.", i.ID, i.Service.Description)
	}
	return nil
}

// guestError makes of a failed call to a guest agent what the caller may see:
// one of the guest's own is always a bad request (contract: REST API 1.6), but
// for a thing that is not there, and a bus that is away.
func guestError(err error) error {
	switch trove.KindOf(err) {
	case trove.KindNotFound, trove.KindUnavailable:
		return err
	case trove.KindGuestTimeout:
		return &trove.Error{Kind: trove.KindGuestTimeout, Err: err,
			Message: "The guest agent of the instance did not answer in time.",
			Action:  "Look at the instance's operating_status and try again."}
	case trove.KindBadRequest, trove.KindForbidden, trove.KindConflict, trove.KindUnprocessable,
		trove.KindNotImplemented, trove.KindOverLimit, trove.KindGuest:
		return &trove.Error{Kind: trove.KindGuest, Err: err,
			Message: "An error occurred communicating with the guest: " + err.Error()}
	}
	// What went wrong inside the agent may tell too much.
	return &trove.Error{Kind: trove.KindGuest, Err: err,
		Message: "An error occurred communicating with the guest.", Action: "See its log."}
}

// names gives the naming rules of the request's instance, whose manager
// serving has found known.
func (q *request) names() engineNames {
	n, _ := namesOf(q.instance.Version.Manager)
	return n
}

// cast writes a message for the instance's guest agent, to be published until
// the agent has said that it handled it.
func (s *Server) cast(q *request, m rpc.Message) (response, error) {
	row, err := outbox.Row(q.Context(), m, q.instance.ID, s.config.GuestDeadline)
	if err != nil {
		return response{}, err
	}
	if err := s.store.InsertOutbox(q.Context(), row); err != nil {
		return response{}, err
	}
	return accepted()
}

// settleLook is how often settle looks for what another process wrote.
const settleLook = 50 * time.Millisecond

// settle waits until the instance's agent has handled what was cast to it
// before, so that who made a database finds it in the list, and in what depends
// on it. An agent that is slow or away is not waited for longer than configured.
func (s *Server) settle(ctx context.Context, instanceID string) error {
	changed, unsubscribe := s.store.OutboxChanged()
	defer unsubscribe()
	ctx, cancel := context.WithTimeout(ctx, s.config.SettleTimeout)
	defer cancel()
	look := time.NewTicker(settleLook)
	defer look.Stop()
	for {
		pending, err := s.store.GuestPending(ctx, instanceID)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case !pending:
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-look.C:
		}
	}
}

// guestPage is the page that a request asks for, in the guest's words.
func (q *request) guestPage(parse func(string) string) (guest.List, error) {
	p, err := q.page()
	if err != nil {
		return guest.List{}, err
	}
	l := guest.List{Limit: &p.limit}
	if p.marker != "" {
		marker := parse(p.marker)
		l.Marker = &marker
	}
	return l, nil
}

// everything asks a guest for a whole list.
func everything() guest.List {
	all := 0
	return guest.List{Limit: &all}
}

func next(marker *string) string {
	if marker == nil {
		return ""
	}
	return *marker
}

// readDatabases reads and checks databases to be made; field says where they
// stand in the body.
func readDatabases(names engineNames, field string, list []object) ([]trove.Database, error) {
	var dbs []trove.Database
	seen := map[string]bool{}
	for i, o := range list {
		d := trove.Database{Name: o.text("name"), CharacterSet: o.text("character_set"), Collation: o.text("collate")}
		if err := names.checkDatabase(fmt.Sprintf("%s[%d]['name']", field, i), d.Name); err != nil {
			return nil, err
		}
		if seen[d.Name] {
			return nil, trove.Errorf(trove.KindBadRequest, "Databases with the same name are not allowed: %s.", d.Name)
		}
		seen[d.Name] = true
		dbs = append(dbs, d)
	}
	return dbs, nil
}

// account identifies a user.
type account struct{ name, host string }

func (a account) String() string { return a.name + "@" + a.host }

// readUsers reads and checks users with their passwords.
func readUsers(names engineNames, field string, list []object) ([]trove.User, error) {
	var users []trove.User
	seen := map[account]bool{}
	for i, o := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		u := trove.User{Name: o.text("name"), Password: o.text("password"), Host: o.text("host")}
		if err := names.checkUser(at+"['name']", u.Name); err != nil {
			return nil, err
		}
		if err := names.checkHost(at+"['host']", u.Host); err != nil {
			return nil, err
		}
		if err := checkPassword(at+"['password']", u.Password); err != nil {
			return nil, err
		}
		if u.Host == "" {
			u.Host = trove.AnyHost
		}
		for j, d := range o.objects("databases") {
			db := d.text("name")
			if err := names.checkDatabase(fmt.Sprintf("%s['databases'][%d]['name']", at, j), db); err != nil {
				return nil, err
			}
			if !slices.Contains(u.Databases, db) {
				u.Databases = append(u.Databases, db)
			}
		}
		key := account{u.Name, u.Host}
		if seen[key] {
			return nil, trove.Errorf(trove.KindBadRequest, "Users with the same name and host are not allowed: %s.", key)
		}
		seen[key] = true
		users = append(users, u)
	}
	return users, nil
}

// checkPassword refuses what no engine takes; the agent would find out after the
// caller was told that all is well.
func checkPassword(field, password string) error {
	if strings.ContainsRune(password, 0) {
		return trove.Errorf(trove.KindBadRequest, "Validation error: %s holds a zero character", field)
	}
	return nil
}

func (s *Server) listDatabases(q *request) (response, error) {
	l, err := q.guestPage(func(m string) string { return m })
	if err != nil {
		return response{}, err
	}
	page, err := s.guest.ListDatabases(q.Context(), q.instance.ID, l)
	if err != nil {
		return response{}, guestError(err)
	}
	names := q.names()
	shown := []view.DatabaseName{}
	for _, d := range page.Items {
		if !names.reservedDatabase(d.Name) {
			shown = append(shown, view.DatabaseName{Name: d.Name})
		}
	}
	return ok(q.listed("databases", shown, next(page.Next)))
}

// databaseSet is the names of all databases of the instance.
func (s *Server) databaseSet(q *request) (map[string]bool, error) {
	page, err := s.guest.ListDatabases(q.Context(), q.instance.ID, everything())
	if err != nil {
		return nil, guestError(err)
	}
	set := make(map[string]bool, len(page.Items))
	for _, d := range page.Items {
		set[d.Name] = true
	}
	return set, nil
}

func (s *Server) createDatabases(q *request) (response, error) {
	dbs, err := readDatabases(q.names(), "databases", q.body.objects("databases"))
	if err != nil {
		return response{}, err
	}
	if len(dbs) == 0 {
		return accepted()
	}
	there, err := s.databaseSet(q)
	if err != nil {
		return response{}, err
	}
	for _, d := range dbs {
		if there[d.Name] {
			return response{}, trove.Errorf(trove.KindBadRequest, "A database with the name \"%s\" already exists.", d.Name)
		}
	}
	return s.cast(q, guest.CreateDatabasesMessage(q.instance.ID, dbs))
}

func (s *Server) deleteDatabase(q *request) (response, error) {
	name := q.PathValue("database")
	if q.names().reservedDatabase(name) {
		return response{}, q.names().checkDatabase("database", name)
	}
	there, err := s.databaseSet(q)
	if err != nil {
		return response{}, err
	}
	if !there[name] {
		return response{}, trove.Errorf(trove.KindNotFound, "Database %s cannot be found on the instance.", shorten(name))
	}
	return s.cast(q, guest.DeleteDatabaseMessage(q.instance.ID, name))
}

func (s *Server) listUsers(q *request) (response, error) {
	l, err := q.guestPage(parseUserMarker)
	if err != nil {
		return response{}, err
	}
	page, err := s.guest.ListUsers(q.Context(), q.instance.ID, l)
	if err != nil {
		return response{}, guestError(err)
	}
	names := q.names()
	shown := []view.User{}
	for _, u := range rpcapi.ToUsers(page.Items) {
		if !names.reservedUser(u.Name) {
			shown = append(shown, view.NewUser(u))
		}
	}
	return ok(q.listed("users", shown, next(page.Next)))
}

// existing tells which of the users are there: one is asked for by name, for
// more the whole list is one call.
func (s *Server) existing(q *request, asked ...account) (map[account]bool, error) {
	there := map[account]bool{}
	if len(asked) == 1 {
		u, err := s.guest.GetUser(q.Context(), q.instance.ID, asked[0].name, asked[0].host)
		if trove.IsKind(err, trove.KindNotFound) {
			return there, nil
		}
		if err != nil {
			return nil, guestError(err)
		}
		there[asked[0]] = u != nil
		return there, nil
	}
	page, err := s.guest.ListUsers(q.Context(), q.instance.ID, everything())
	if err != nil {
		return nil, guestError(err)
	}
	for _, u := range rpcapi.ToUsers(page.Items) {
		there[account{u.Name, u.Host}] = true
	}
	return there, nil
}

func accountsOf(users []trove.User) []account {
	out := make([]account, 0, len(users))
	for _, u := range users {
		out = append(out, account{u.Name, u.Host})
	}
	return out
}

func noUser(a account) error {
	return trove.Errorf(trove.KindNotFound, "User %s cannot be found on the instance.", shorten(a.String()))
}

func (s *Server) createUsers(q *request) (response, error) {
	users, err := readUsers(q.names(), "users", q.body.objects("users"))
	if err != nil {
		return response{}, err
	}
	if len(users) == 0 {
		return accepted()
	}
	asked := accountsOf(users)
	there, err := s.existing(q, asked...)
	if err != nil {
		return response{}, err
	}
	for _, a := range asked {
		if there[a] {
			return response{}, trove.Errorf(trove.KindBadRequest, "A user with the name \"%s\" already exists on host \"%s\".", a.name, a.host)
		}
	}
	return s.cast(q, guest.CreateUsersMessage(q.instance.ID, users))
}

// changePasswords serves PUT …/users.
func (s *Server) changePasswords(q *request) (response, error) {
	users, err := readUsers(q.names(), "users", q.body.objects("users"))
	if err != nil {
		return response{}, err
	}
	if len(users) == 0 {
		return accepted()
	}
	asked := accountsOf(users)
	there, err := s.existing(q, asked...)
	if err != nil {
		return response{}, err
	}
	changes := make([]guest.PasswordChange, 0, len(users))
	for i, u := range users {
		if !there[asked[i]] {
			return response{}, noUser(asked[i])
		}
		changes = append(changes, guest.PasswordChange{Name: u.Name, Host: u.Host, Password: u.Password})
	}
	return s.cast(q, guest.ChangePasswordsMessage(q.instance.ID, changes))
}

// account is the user that the path names; it is not a reserved one.
func (q *request) account() (account, error) {
	name, host := parseAccount(q.PathValue("user"))
	if q.names().reservedUser(name) {
		return account{}, q.names().checkUser("user", name)
	}
	return account{name, host}, nil
}

// user asks the guest for the user that the path names.
func (s *Server) user(q *request) (trove.User, error) {
	a, err := q.account()
	if err != nil {
		return trove.User{}, err
	}
	u, err := s.guest.GetUser(q.Context(), q.instance.ID, a.name, a.host)
	switch {
	case trove.IsKind(err, trove.KindNotFound), err == nil && u == nil:
		return trove.User{}, noUser(a)
	case err != nil:
		return trove.User{}, guestError(err)
	}
	return u.ToUser(), nil
}

func (s *Server) showUser(q *request) (response, error) {
	u, err := s.user(q)
	if err != nil {
		return response{}, err
	}
	return ok(map[string]view.User{"user": view.NewUser(u)})
}

func (s *Server) updateUser(q *request) (response, error) {
	u, err := s.user(q)
	if err != nil {
		return response{}, err
	}
	body := q.body.object("user")
	change := guest.Attributes{Name: body.textOrNil("name"), Password: body.textOrNil("password"), Host: body.textOrNil("host")}
	if change.Name == nil && change.Password == nil && change.Host == nil {
		return response{}, trove.Errorf(trove.KindBadRequest, "Validation error: user needs one of name, password and host")
	}
	if change.Password != nil {
		if err := checkPassword("user['password']", *change.Password); err != nil {
			return response{}, err
		}
	}
	target := account{u.Name, u.Host}
	if change.Name != nil {
		if err := q.names().checkUser("user['name']", *change.Name); err != nil {
			return response{}, err
		}
		target.name = *change.Name
	}
	if change.Host != nil {
		if err := q.names().checkHost("user['host']", *change.Host); err != nil {
			return response{}, err
		}
		target.host = *change.Host
	}
	if (target != account{u.Name, u.Host}) {
		there, err := s.existing(q, target)
		if err != nil {
			return response{}, err
		}
		if there[target] {
			return response{}, trove.Errorf(trove.KindBadRequest, "A user with the name \"%s\" already exists on host \"%s\".", target.name, target.host)
		}
	}
	return s.cast(q, guest.UpdateAttributesMessage(q.instance.ID, u.Name, u.Host, change))
}

func (s *Server) deleteUser(q *request) (response, error) {
	u, err := s.user(q)
	if err != nil {
		return response{}, err
	}
	return s.cast(q, guest.DeleteUserMessage(q.instance.ID, trove.User{Name: u.Name, Host: u.Host}))
}

func (s *Server) listAccess(q *request) (response, error) {
	u, err := s.user(q)
	if err != nil {
		return response{}, err
	}
	dbs, err := s.guest.ListAccess(q.Context(), q.instance.ID, u.Name, u.Host)
	if err != nil {
		return response{}, guestError(err)
	}
	shown := []view.DatabaseName{}
	for _, d := range dbs {
		shown = append(shown, view.DatabaseName{Name: d.Name})
	}
	return ok(map[string]any{"databases": shown})
}

func (s *Server) grantAccess(q *request) (response, error) {
	u, err := s.user(q)
	if err != nil {
		return response{}, err
	}
	var dbs []string
	for i, o := range q.body.objects("databases") {
		name := o.text("name")
		if err := q.names().checkDatabase(fmt.Sprintf("databases[%d]['name']", i), name); err != nil {
			return response{}, err
		}
		dbs = append(dbs, name)
	}
	if len(dbs) > 0 {
		if err := s.guest.GrantAccess(q.Context(), q.instance.ID, u.Name, u.Host, dbs); err != nil {
			return response{}, guestError(err)
		}
	}
	return accepted()
}

func (s *Server) revokeAccess(q *request) (response, error) {
	u, err := s.user(q)
	if err != nil {
		return response{}, err
	}
	db := q.PathValue("database")
	dbs, err := s.guest.ListAccess(q.Context(), q.instance.ID, u.Name, u.Host)
	if err != nil {
		return response{}, guestError(err)
	}
	if !slices.ContainsFunc(dbs, func(d rpcapi.Database) bool { return d.Name == db }) {
		return response{}, trove.Errorf(trove.KindNotFound, "Database %s cannot be found among those that user %s may use.",
			shorten(db), account{u.Name, u.Host})
	}
	if err := s.guest.RevokeAccess(q.Context(), q.instance.ID, u.Name, u.Host, db); err != nil {
		return response{}, guestError(err)
	}
	return accepted()
}
