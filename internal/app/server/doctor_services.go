package server

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/identity/keystone"
	"github.com/gotrove/gotrove/internal/keyring"
	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// Bounds within a check.
const (
	hostWait  = 5 * time.Second
	alarmWait = 3 * time.Second
)

// checkDatabase looks at the database of record.
func (d *doctor) checkDatabase(ctx context.Context, r *report) {
	config, err := d.c.Database.config()
	if err != nil {
		r.broken(err, "")
		return
	}
	if config.URL.IsZero() {
		r.fail("set [database] connection, such as mysql+pymysql://trove:password@host/trove", "[database] connection is not set")
		return
	}
	config.Log, config.Clock, config.Pool.Retries = d.log, d.clock, 0
	s, err := store.Open(ctx, config)
	if err != nil {
		r.broken(err, "look whether the database server runs, and at [database] connection")
		return
	}
	defer s.Close()
	about, err := s.Diagnose(ctx)
	if err != nil {
		r.broken(err, "")
		return
	}
	r.ok("%s %s answers", about.Engine, about.Version)
	r.checkClock("the database's", about.Ahead, about.Spread)
	checkSettings(r, about)
	if err := s.CheckSchema(ctx); err != nil {
		r.broken(err, "")
		return
	}
	r.ok("its schema is new enough")
	refused, err := s.Refused(ctx)
	switch {
	case err != nil:
		r.broken(err, "")
	case len(refused) > 0:
		r.fail("grant the login of [database] connection SELECT, INSERT, UPDATE and DELETE on all tables of the database", "refused to the services' login: %s", listed(refused, 4))
	default:
		r.ok("the login may read and write all tables")
	}
	if err := s.MayMigrate(ctx); err != nil {
		r.warn("run db_sync with a login that may, or grant this one CREATE, ALTER, INDEX, REFERENCES and DROP", "the login may not change the schema, which only trove-manage db_sync needs")
	}
	d.checkMaster(ctx, r, s)
}

// checkMaster looks whether our keys open what the database holds.
func (d *doctor) checkMaster(ctx context.Context, r *report, s *store.Store) {
	k, err := d.c.Secure.keys(ctx, d.log)
	if err != nil {
		return // told by the check of keys
	}
	ring, err := keyring.New(k, s, d.log, d.clock)
	if err == nil {
		err = ring.Check(ctx, s)
	}
	if err != nil {
		r.broken(err, "set [DEFAULT] inst_rpc_key_encr_key to the key that the other hosts have")
		return
	}
	r.ok("the keys open what it holds")
}

// checkSettings judges a server's settings.
func checkSettings(r *report, d store.Diagnosis) {
	is := func(name string, values ...string) bool {
		v, ok := d.Settings[name]
		for _, want := range values {
			if ok && strings.EqualFold(v, want) {
				return true
			}
		}
		return false
	}
	set := d.Settings
	switch {
	case is("read_only", "ON", "1"), is("default_transaction_read_only", "on"), is("in_hot_standby", "on"):
		r.fail("name the primary in [database] connection", "the server takes no writes")
	}
	if v, ok := set["innodb_flush_log_at_trx_commit"]; ok && v != "1" {
		r.warn("set innodb_flush_log_at_trx_commit = 1", "the server's innodb_flush_log_at_trx_commit is %s: what it confirmed may be lost when its machine fails", v)
	}
	for _, name := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		if is(name, "off") {
			r.warn("set "+name+" = on", "the server's %s is off: what it confirmed may be lost when its machine fails", name)
		}
	}
	if d.Collation != "" && !strings.HasPrefix(d.Collation, "utf8") {
		r.warn("ALTER TABLE … CONVERT TO CHARACTER SET utf8mb4", "the tables are in %s: names in other scripts cannot be stored", d.Collation)
	}
	if v, ok := set["server_encoding"]; ok && v != "UTF8" {
		r.fail("make the database with ENCODING 'UTF8'", "the database's encoding is %s: names in other scripts cannot be stored", v)
	}
	for _, name := range []string{"tx_isolation", "transaction_isolation", "default_transaction_isolation"} {
		if is(name, "READ-UNCOMMITTED", "read uncommitted") {
			r.warn("set it to READ-COMMITTED or stronger", "the server's %s is %s; ours is set for each connection", name, set[name])
		}
	}
	if d.Storage != "" && !strings.EqualFold(d.Storage, "InnoDB") {
		r.fail("ALTER TABLE … ENGINE = InnoDB", "the tables are of the engine %s, which has no transactions", d.Storage)
	}
}

// checkBroker looks at every host of the transport URL.
func (d *doctor) checkBroker(ctx context.Context, r *report) {
	if d.c.TransportURL.IsZero() {
		r.fail("set [DEFAULT] transport_url = rabbit://login:password@host:5672/vhost", "[DEFAULT] transport_url is not set")
		return
	}
	if !d.checkHosts(ctx, r, "", d.c.TransportURL.Reveal(), &d.c.Rabbit) {
		return
	}
	rabbit := d.c.Rabbit
	config, err := rabbit.Config(d.c.TransportURL.Reveal())
	if err != nil {
		r.broken(err, "")
		return
	}
	d.onBus(ctx, r, config, func(ctx context.Context, conn *amqp.Conn) { d.checkBus(ctx, r, conn) })
}

// onBus runs f on a connection of its own.
func (d *doctor) onBus(ctx context.Context, r *report, config amqp.Config, f func(context.Context, *amqp.Conn)) bool {
	ctx, cancel := context.WithTimeout(ctx, hostWait)
	defer cancel()
	config.Name, config.Log = "trove-manage doctor", d.log
	conn, err := amqp.New(config)
	if err != nil {
		r.broken(err, "")
		return false
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hostWait)
		defer cancel()
		_ = conn.Close(ctx) // it has done its service
	}()
	if err := conn.Admitted(ctx); err != nil {
		r.broken(err, "look at host, port, TLS, login and virtual host of the transport_url, and whether the broker runs")
		return false
	}
	f(ctx, conn)
	return true
}

// checkHosts logs in at each host of a transport URL; it tells whether one at
// least took us. The hosts are tried one after the other within ctx.
func (d *doctor) checkHosts(ctx context.Context, r *report, whose, url string, options *amqp.Options) (reached bool) {
	hosts, err := amqp.Each(url)
	if err != nil {
		r.broken(err, "write transport_url as rabbit://login:password@host:5672/vhost")
		return false
	}
	for _, h := range hosts {
		o := *options
		config, err := o.Config(h.URL.Reveal())
		if err != nil {
			r.broken(err, "")
			continue
		}
		part := &report{check: r.check}
		if d.onBus(ctx, part, config, func(context.Context, *amqp.Conn) {}) {
			r.ok("%slogin at %s", whose, h.Name)
			reached = true
		}
		for _, f := range part.found {
			r.add(f.Status, f.Action, "%slogin at %s: %s", whose, h.Name, f.Message)
		}
	}
	return reached
}

// checkBus looks at what is on the bus already.
func (d *doctor) checkBus(ctx context.Context, r *report, conn *amqp.Conn) {
	program := map[string]string{d.c.TaskManagers: "trove-taskmanager", d.c.Conductors: "trove-conductor"}
	topics := []string{d.c.TaskManagers, d.c.Conductors}
	found := rpc.Mismatches(ctx, conn, d.c.ControlExchange, topics...)
	for _, err := range found {
		r.broken(err, "")
	}
	if len(found) == 0 {
		r.ok("exchange %q and queues are as we declare them, or not there yet", d.c.ControlExchange)
	}
	for _, topic := range topics {
		s, err := conn.Session(ctx)
		if err != nil {
			r.broken(err, "")
			return
		}
		var q amqp091.Queue
		err = s.Do(func(ch *amqp091.Channel) (err error) {
			q, err = ch.QueueDeclarePassive(topic, false, false, false, false, nil)
			return err
		})
		switch {
		case err != nil:
			r.ok("queue %s is not there yet: nobody has served it", topic)
		case q.Consumers == 0 && q.Messages > 0:
			r.warn("start "+program[topic], "%d messages wait in queue %s, and nobody takes them", q.Messages, topic)
		default:
			r.ok("queue %s has %d consumers and %d messages", topic, q.Consumers, q.Messages)
		}
	}
	d.checkAlarm(ctx, r, conn)
}

// checkAlarm publishes a message that no queue takes: a broker short of memory
// or disk stops us, and says so.
func (d *doctor) checkAlarm(ctx context.Context, r *report, conn *amqp.Conn) {
	ctx, cancel := context.WithTimeout(ctx, alarmWait)
	defer cancel()
	s, err := conn.Session(ctx)
	if err == nil {
		var sent *amqp.Sent
		sent, err = s.Send(ctx, amqp.Publishing{Exchange: amqp.Exchange{Name: d.c.ControlExchange}, Key: "gotrove.doctor." + trove.NewID(), ContentType: "text/plain"})
		if err == nil {
			err = sent.Wait(ctx)
		}
	}
	if blocked := conn.Check(); blocked != nil {
		err = blocked
	}
	if err != nil {
		r.broken(err, "free memory or disk of the broker: rabbitmqctl status tells which alarm there is")
		return
	}
	r.ok("the broker takes messages")
}

// checkManagement looks at the API that makes logins for guests.
func (d *doctor) checkManagement(ctx context.Context, r *report) {
	own, err := d.c.Guests.perGuest()
	if err != nil {
		r.broken(err, "")
		return
	}
	if !own {
		r.warn("set [gotrove] rabbit_management_url and guest_login_key", "guests share one login on the bus: whoever breaks into one database server can read and command all others")
		return
	}
	m, err := d.c.Guests.management(d.c.TransportURL)
	if err != nil {
		r.broken(err, "set [gotrove] rabbit_management_url = http://HOST:15672, rabbit_management_user and rabbit_management_password")
		return
	}
	defer m.Close()
	if err := m.Check(ctx); err != nil {
		r.broken(err, "look at [gotrove] rabbit_management_url and its login")
		return
	}
	r.ok("the management API lets us make logins")
}

// checkKeystone looks at where tokens are checked, and at the catalog.
func (d *doctor) checkKeystone(ctx context.Context, r *report) {
	o, err := d.c.Keystone.config(d.log)
	if err != nil {
		r.broken(err, "")
		return
	}
	v, err := keystone.New(o)
	if err != nil {
		r.broken(err, "set auth_url, username, password and project_name in [keystone_authtoken]")
		return
	}
	defer v.Close()
	self, err := v.Self(ctx)
	if err != nil {
		r.broken(err, "look whether Keystone runs, and at [keystone_authtoken] auth_url, interface and region_name")
		return
	}
	// Its own token anybody may check.
	if slices.Contains(self.Roles, "service") || slices.Contains(self.Roles, "admin") {
		r.ok("Keystone knows us as %s in project %s with the roles %s", self.UserName, self.ProjectName, strings.Join(self.Roles, ", "))
	} else {
		r.warn("openstack role add --user "+self.UserName+" --project "+self.ProjectName+" service",
			"the user %s of [keystone_authtoken] has neither the role service nor admin: Keystone's default policy lets it not check tokens", self.UserName)
	}
	d.checkPublicURI(ctx, r)
	if !d.c.Keystone.IncludeCatalog {
		r.skip("the catalog is not asked for")
		return
	}
	d.checkCatalog(ctx, r, self.Catalog)
}

// checkPublicURI asks Keystone where people are sent to, and its clock.
func (d *doctor) checkPublicURI(ctx context.Context, r *report) {
	answer, began, err := d.get(ctx, d.c.Keystone.publicURI())
	if err != nil {
		r.fail("set [keystone_authtoken] www_authenticate_uri to the URL of Keystone", "www_authenticate_uri: %v", err)
		return
	}
	r.ok("%s answers", d.c.Keystone.publicURI())
	// Its seconds are whole.
	if now, err := http.ParseTime(answer.Get("Date")); err == nil {
		r.checkClock("Keystone's", now.Sub(began), time.Second+d.clock().Sub(began))
	}
}

// get asks a URL and tells its headers and when it was asked. Any answer but a
// server's failure is one.
func (d *doctor) get(ctx context.Context, url string) (http.Header, time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, hostWait)
	defer cancel()
	began := d.clock()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, began, err
	}
	answer, err := d.client().Do(q)
	if err != nil {
		return nil, began, err
	}
	defer answer.Body.Close()
	if answer.StatusCode >= 500 {
		return nil, began, trove.Errorf(trove.KindUnavailable, "%s answers %s", url, answer.Status)
	}
	return answer.Header, began, nil
}

func (d *doctor) client() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{}).DialContext, DisableKeepAlives: true, TLSClientConfig: d.c.Keystone.trust()},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// checkCatalog looks for our own service in the catalog.
func (d *doctor) checkCatalog(ctx context.Context, r *report, catalog json.RawMessage) {
	var services []struct {
		Type      string `json:"type"`
		Endpoints []struct {
			Interface string `json:"interface"`
			Region    string `json:"region"`
			URL       string `json:"url"`
		} `json:"endpoints"`
	}
	if err := json.Unmarshal(catalog, &services); err != nil {
		r.fail("", "the catalog cannot be read")
		return
	}
	found := false
	for _, s := range services {
		if s.Type != d.c.Keystone.ServiceType {
			continue
		}
		for _, e := range s.Endpoints {
			if e.Interface != "public" {
				continue
			}
			found = true
			if e.Region != d.c.Region {
				r.warn("set [gotrove] region_name = "+e.Region+", if that is ours", "the catalog has the database service in region %s, and ours is %s", e.Region, d.c.Region)
			}
			if _, _, err := d.get(ctx, e.URL); err != nil {
				r.warn("start trove-api, or correct the endpoint: openstack endpoint list --service "+s.Type, "the catalog's endpoint %s does not answer: %v", e.URL, err)
				continue
			}
			r.ok("the catalog's endpoint %s answers", e.URL)
		}
	}
	if !found {
		r.fail(`openstack service create --name trove database; openstack endpoint create --region `+d.c.Region+` database public 'http://this.host:8779/v1.0/%(project_id)s'`,
			"the catalog has no public endpoint of type %s: no client will find us", d.c.Keystone.ServiceType)
	}
}
