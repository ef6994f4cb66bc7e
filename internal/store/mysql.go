package store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/pressly/goose/v3"

	"github.com/gotrove/gotrove/internal/trove"
)

// Numbers of MySQL's errors that we know.
const (
	mysqlTooManyConnections = 1040
	mysqlNoSuchTable        = 1146
	mysqlLockTimeout        = 1205
	mysqlDeadlock           = 1213
	mysqlDuplicate          = 1062
	mysqlTooManyStatements  = 1461
	mysqlReprepare          = 1615
)

// flavor is which of MySQL's descendants a server is.
type flavor struct {
	mariadb bool
	major   int
	minor   int
}

var versionPattern = regexp.MustCompile(`(\d+)\.(\d+)\.(\d+)`)

// parseFlavor reads VERSION(). MariaDB may put 5.5.5- before its own.
func parseFlavor(version string) (flavor, error) {
	f := flavor{mariadb: strings.Contains(strings.ToLower(version), "mariadb")}
	m := versionPattern.FindStringSubmatch(strings.TrimPrefix(version, "5.5.5-"))
	if m == nil {
		return f, trove.Errorf(trove.KindUnavailable, "The database server's version %q cannot be read.", clip(version, 64))
	}
	f.major, _ = strconv.Atoi(m[1])
	f.minor, _ = strconv.Atoi(m[2])
	if f.mariadb && (f.major < 10 || f.major == 10 && f.minor < 5) || !f.mariadb && f.major < 8 {
		return f, trove.Errorf(trove.KindUnavailable, "The database server is %s; MariaDB 10.5 or MySQL 8.0 or newer is needed.", clip(version, 64)).
			WithAction("Upgrade the database server.")
	}
	return f, nil
}

// exact is the collation under which texts are equal only if they are the same,
// without regard to nothing: neither case nor spaces at the end.
func (f flavor) exact() string {
	if f.mariadb {
		return "utf8mb4_nopad_bin"
	}
	return "utf8mb4_0900_bin"
}

// openMySQL opens the pool of connections. Its first connection finds out what
// the server is.
func openMySQL(ctx context.Context, t target, p Pool, log *slog.Logger) (*sql.DB, flavor, error) {
	c := mysql.NewConfig()
	c.User, c.Passwd, c.DBName, c.Net, c.Addr = t.user, t.password.Reveal(), t.database, "tcp", t.address()
	if t.socket() != "" {
		c.Net = "unix"
	}
	c.ClientFoundRows, c.ParseTime, c.InterpolateParams, c.Loc = true, true, true, time.UTC
	c.Timeout = dialTimeout
	c.Logger = &mysql.NopLogger{} // what it tells comes back as errors
	var err error
	if c.TLS, err = mysqlTLS(t, log); err != nil {
		return nil, flavor{}, err
	}
	probe, err := mysql.NewConnector(c)
	if err != nil {
		return nil, flavor{}, badURL("the driver cannot use it")
	}
	db := sql.OpenDB(probe)
	defer db.Close()
	var version string
	if err := db.QueryRowContext(ctx, "SELECT VERSION()").Scan(&version); err != nil {
		return nil, flavor{}, err
	}
	f, err := parseFlavor(version)
	if err != nil {
		return nil, f, err
	}
	// READ COMMITTED: docs/decisions/0014. The modes are strict, or a text too
	// long would be cut without a word. What waits for a lock or sits in a
	// transaction gives up, or a process that is cut off would stop the others.
	isolation := "transaction_isolation"
	c.Params = map[string]string{
		"time_zone": "'+00:00'", "sql_mode": "'TRADITIONAL'",
		"innodb_lock_wait_timeout": strconv.Itoa(int(lockTimeout / time.Second)),
		"wait_timeout":             strconv.Itoa(int(idleTimeout/time.Second) * 3),
	}
	if f.mariadb {
		isolation = "tx_isolation"
		c.Params["idle_transaction_timeout"] = strconv.Itoa(int(callTimeout/time.Second) + 5)
	}
	c.Params[isolation] = "'READ-COMMITTED'"
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, f, badURL("the driver cannot use it")
	}
	db2 := sql.OpenDB(patient{connector, mysqlFull})
	p.apply(db2)
	return db2, f, nil
}

// mysqlOptions are the options of a URL that PyMySQL and MySQLdb know. Those
// with true have an effect here.
var mysqlOptions = map[string]bool{
	"unix_socket": true, "ssl_ca": true, "ssl_cert": true, "ssl_key": true, "ssl_verify_cert": true, "ssl_verify_identity": true,
	"ssl_check_hostname": true, "charset": false, "use_unicode": false, "ssl": false, "connect_timeout": false, "read_timeout": false,
	"write_timeout": false, "binary_prefix": false, "autocommit": false, "init_command": false, "sql_mode": false,
}

// mysqlTLS is TLS as PyMySQL's options ask for it; without any there is none.
// With a ca the server's name is checked as well, unless ssl_verify_identity is
// false.
func mysqlTLS(t target, log *slog.Logger) (*tls.Config, error) {
	for name := range t.options {
		if !mysqlOptions[name] && name != "charset" {
			log.Warn("an option of [database] connection has no effect", "option", name)
		}
	}
	ca, cert := t.options["ssl_ca"], t.options["ssl_cert"]
	verify, identity := truth(t.options["ssl_verify_cert"]), truth(t.options["ssl_verify_identity"])
	if !identity.set {
		identity = truth(t.options["ssl_check_hostname"])
	}
	if ca == "" && cert == "" && !verify.on && !identity.on {
		return nil, nil //nolint:nilnil // no TLS
	}
	host := t.host
	if host == "" {
		host = "127.0.0.1"
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, trove.Errorf(trove.KindBadRequest, "[database] connection: ssl_ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, trove.Errorf(trove.KindBadRequest, "[database] connection: ssl_ca: %s holds no certificate", ca)
		}
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, t.options["ssl_key"])
		if err != nil {
			return nil, trove.Errorf(trove.KindBadRequest, "[database] connection: ssl_cert and ssl_key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	switch {
	case verify.set && !verify.on, ca == "" && !verify.on && !identity.on:
		c.InsecureSkipVerify = true // as asked: encrypted, with whomever
	case identity.set && !identity.on:
		c.InsecureSkipVerify = true
		c.VerifyConnection = func(state tls.ConnectionState) error { return verifyChain(state, c.RootCAs) }
	}
	return c, nil
}

// verifyChain checks a certificate, but not whose it is.
func verifyChain(state tls.ConnectionState, roots *x509.CertPool) error {
	o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, c := range state.PeerCertificates[1:] {
		o.Intermediates.AddCert(c)
	}
	_, err := state.PeerCertificates[0].Verify(o)
	return err
}

type setting struct{ set, on bool }

func truth(s string) setting {
	switch strings.ToLower(s) {
	case "":
		return setting{}
	case "true", "1", "yes", "on":
		return setting{true, true}
	}
	return setting{set: true}
}

func mysqlDialect(f flavor) *dialect {
	return &dialect{
		migrations: "migrations/mysql",
		goose:      goose.DialectMySQL,
		exact:      f.exact(),
		bind:       func(q string) string { return q },
		keep:       true,
		nowMicros:  "CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)",
		nowSeconds: "UTC_TIMESTAMP()",
		bigint:     "CAST(? AS SIGNED)",
		forUpdate:  " FOR UPDATE",
		byIndex:    func(index string) string { return " FORCE INDEX (" + index + ")" },
		quote:      func(name string) string { return "`" + name + "`" },
		onConflict: func(keys, set []string) string {
			if len(set) == 0 {
				return "ON DUPLICATE KEY UPDATE `" + keys[0] + "` = `" + keys[0] + "`"
			}
			var ss []string
			for _, c := range set {
				ss = append(ss, "`"+c+"` = VALUES(`"+c+"`)")
			}
			return "ON DUPLICATE KEY UPDATE " + strings.Join(ss, ", ")
		},
		duplicate:   func(err error) bool { return mysqlCode(err, mysqlDuplicate) },
		verdict:     mysqlVerdict,
		explain:     explainMySQL,
		tableExists: "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?",
		lock:        "SELECT GET_LOCK(CONCAT(LEFT(DATABASE(), 32), '.gotrove'), ?)",
		lockWait:    func(d time.Duration) any { return int(d / time.Second) },
	}
}

func mysqlCode(err error, codes ...uint16) bool {
	e, ok := errors.AsType[*mysql.MySQLError](err)
	return ok && slices.Contains(codes, e.Number)
}

// mysqlGone are errors that a server sends when it goes away.
var mysqlGone = []uint16{1053, 1047, 1077, 1079, 1158, 1159, 1160, 1161, 1317, 1927, 3169, 4031}

func mysqlVerdict(err error) verdict {
	switch {
	case mysqlCode(err, mysqlLockTimeout, mysqlDeadlock, mysqlReprepare):
		return again
	case mysqlCode(err, mysqlReadOnly...):
		return demoted
	case mysqlCode(err, mysqlGone...), connectionLost(err):
		return lost
	}
	return final
}

// mysqlReadOnly are errors of a server that takes no writes.
var mysqlReadOnly = []uint16{1290, 1792, 1836}

// mysqlFull tells a server that has no connection left, for anybody or for us.
func mysqlFull(err error) bool { return mysqlCode(err, mysqlTooManyConnections, 1203, 1226) }

// connectionLost tells errors of a connection that ended or could not be made.
func connectionLost(err error) bool {
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, mysql.ErrInvalidConn) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

func explainMySQL(err error) *explanation {
	e, ok := errors.AsType[*mysql.MySQLError](err)
	if !ok {
		if connectionLost(err) {
			return away()
		}
		return nil
	}
	switch e.Number {
	case mysqlDuplicate:
		return &explanation{trove.KindConflict, "There is one like it already.", ""}
	case 1216, 1217, 1451, 1452:
		return &explanation{trove.KindBadRequest, "It refers to something that does not exist.", ""}
	case 1267, 1300, 1366, 3988:
		return &explanation{trove.KindBadRequest, "The text has characters that the database cannot hold.",
			"Convert the database's tables to utf8mb4, or leave such characters out."}
	case 1406:
		return &explanation{trove.KindBadRequest, "A text is too long for the database.", ""}
	case mysqlLockTimeout, mysqlDeadlock, mysqlReprepare:
		return &explanation{trove.KindUnavailable, "The database is busy.", "Try again."}
	case 1044, 1045, 1142, 1143, 1227, 1370, 1698:
		return &explanation{trove.KindUnavailable, "The database refuses the login, or a right that is needed.",
			"Grant the user of [database] connection all rights on the database."}
	case 1049:
		return &explanation{trove.KindUnavailable, "There is no database of this name.", "Create it."}
	case mysqlNoSuchTable, 1054:
		return &explanation{trove.KindUnavailable, "The database has not the schema that is needed.", "Run trove-manage db_sync."}
	case 1021, 1114, 3:
		return &explanation{trove.KindUnavailable, "The database cannot be written: its disk is full.", "Make room on the database server's disk."}
	case mysqlTooManyConnections, 1203, 1226:
		return &explanation{trove.KindUnavailable, "The database has too many connections.",
			"Raise its max_connections, or lower [database] max_overflow."}
	}
	if slices.Contains(mysqlReadOnly, e.Number) {
		return onlyRead()
	}
	if slices.Contains(mysqlGone, e.Number) {
		return away()
	}
	return nil
}

func onlyRead() *explanation {
	return &explanation{trove.KindUnavailable, "The database can only be read.", "Connect to the server that takes writes."}
}

func away() *explanation {
	return &explanation{trove.KindUnavailable, "The database cannot be reached.", "Look whether the database server runs, and try again."}
}
