package store

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseURL(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"mysql+pymysql://trove:secret@10.0.0.1/trove?charset=utf8":                    "mysql trove secret tcp 10.0.0.1:3306 trove",
		"mysql://trove:p%40ss%2Fw%3Ard%25@db.example:3307/trove":                      "mysql trove p@ss/w:rd% tcp db.example:3307 trove",
		"mysql+mysqldb://trove:a/b?c#d@db/trove":                                      "mysql trove a/b?c#d tcp db:3306 trove",
		"mysql+pymysql://trove:pa+ss@[fd00::1]:3306/trove":                            "mysql trove pa+ss tcp [fd00::1]:3306 trove",
		"mysql+pymysql://trove:x@[fd00::1]/trove":                                     "mysql trove x tcp [fd00::1]:3306 trove",
		"mariadb+mariadbconnector://trove@/trove?unix_socket=/run/mysqld/mysqld.sock": "mysql trove  unix /run/mysqld/mysqld.sock trove",
		"postgresql://trove:secret@db/trove":                                          "postgresql trove secret tcp db:5432 trove",
		"postgresql+psycopg2://trove:s@db:5433/trove?sslmode=verify-full":             "postgresql trove s tcp db:5433 trove",
		"postgresql+psycopg2://trove@/trove?host=/run/postgresql":                     "postgresql trove  unix /run/postgresql trove",
		"postgres://u:p@%2Frun%2Fpostgresql/trove":                                    "postgresql u p unix /run/postgresql trove",
		"sqlite:////var/lib/gotrove/trove.db":                                         "sqlite /var/lib/gotrove/trove.db",
	} {
		at, err := parseURL(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		network := "tcp"
		if at.socket() != "" {
			network = "unix"
		}
		got := fmt.Sprintf("%s %s %s %s %s %s", at.engine, at.user, at.password.Reveal(), network, at.address(), at.database)
		if at.engine == engineSQLite {
			got = fmt.Sprintf("%s %s", at.engine, at.path)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", in, d)
		}
		if secret := at.password.Reveal(); len(secret) > 1 && strings.Contains(fmt.Sprint(at, fmt.Sprintf("%+v", at)), secret) {
			t.Errorf("the password is in %v", at)
		}
	}
}

// An error never repeats what is in a URL: the password may be anywhere.
func TestParseURLErrors(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		"", "s3cret", "oracle://u:s3cret@h/d", "mysql://u:s3cret@h", "mysql://u:s3cret@h/", "mysql://u:s3cret@h:s3cret/d",
		"mysql://u:s3cret%@h/d", "mysql://u:s3cret@fd00::1/d", "sqlite://", "sqlite:///:memory:", "mysql://u:s3cret@h:1:2/d",
		"mysql://u:p@h/d?a=%s3cret", "mysql://u:p@h/%s3cret",
	} {
		_, err := parseURL(in)
		if err == nil {
			t.Errorf("%q is taken", in)
			continue
		}
		if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestMySQLTLS(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"": "none", "charset=utf8": "none", "ssl_verify_cert=true": "verified", "ssl_verify_identity=true": "verified",
		"ssl_verify_cert=true&ssl_verify_identity=false": "chain only",
	} {
		at, err := parseURL("mysql://u:p@db.example/d?" + query)
		if err != nil {
			t.Fatal(err)
		}
		c, err := mysqlTLS(at, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		got := "none"
		switch {
		case c == nil:
		case c.VerifyConnection != nil:
			got = "chain only"
		case c.InsecureSkipVerify:
			got = "encrypted only"
		case c.ServerName == "db.example":
			got = "verified"
		}
		if got != want {
			t.Errorf("%q: %s, want %s", query, got, want)
		}
	}
	at, _ := parseURL("mysql://u:p@db.example/d?ssl_ca=/nowhere/ca.pem")
	if _, err := mysqlTLS(at, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a missing certificate is no error")
	}
}

func TestFlavors(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]string{
		"10.11.19-MariaDB-0+deb12u1": "utf8mb4_nopad_bin", "5.5.5-10.5.1-MariaDB": "utf8mb4_nopad_bin", "11.8.2-MariaDB": "utf8mb4_nopad_bin",
		"8.0.36": "utf8mb4_0900_bin", "8.4.0-commercial": "utf8mb4_0900_bin", "10.4.30-MariaDB": "", "5.7.44-log": "", "what": "",
	} {
		f, err := parseFlavor(version)
		if (err == nil) != (want != "") || err == nil && f.exact() != want {
			t.Errorf("%s: %+v, %v", version, f, err)
		}
	}
}

func TestNumber(t *testing.T) {
	t.Parallel()
	if got := number(`SELECT '?', "a?" FROM t WHERE a = ? AND b IN (?, ?)`); got != `SELECT '?', "a?" FROM t WHERE a = $1 AND b IN ($2, $3)` {
		t.Error(got)
	}
}
