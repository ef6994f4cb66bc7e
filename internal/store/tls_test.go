package store_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/store/dbtest"
	"github.com/gotrove/gotrove/internal/trove"
)

// certify makes an authority and a certificate of it for 127.0.0.1, and for
// nothing else.
func certify(t *testing.T) (ca, cert, key []byte) {
	t.Helper()
	sign := func(parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, []byte) {
		own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "of a test"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true}
		if parent == nil {
			c.IsCA, c.KeyUsage, parent, by = true, x509.KeyUsageCertSign, c, own
		} else {
			c.IPAddresses, c.ExtKeyUsage = []net.IP{net.IPv4(127, 0, 0, 1)}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &own.PublicKey, by)
		must(t, err)
		c, err = x509.ParseCertificate(der)
		must(t, err)
		return c, own, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	authority, by, ca := sign(nil, nil)
	_, own, cert := sign(authority, by)
	der, err := x509.MarshalPKCS8PrivateKey(own)
	must(t, err)
	return ca, cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// TestTLS: the database server is who its certificate says, or nothing is told it.
func TestTLS(t *testing.T) {
	t.Parallel()
	for e, o := range map[dbtest.Engine]struct{ full, chain, none string }{
		dbtest.MariaDB:    {"ssl_verify_cert=true&ssl_verify_identity=true&ssl_ca=", "ssl_verify_cert=true&ssl_verify_identity=false&ssl_ca=", "charset=utf8"},
		dbtest.PostgreSQL: {"sslmode=verify-full&sslrootcert=", "sslmode=verify-ca&sslrootcert=", "sslmode=disable"},
	} {
		t.Run(string(e), func(t *testing.T) {
			t.Parallel()
			ctx := within(t)
			server := dbtest.Start(t, e)
			url := server.Database(t)
			named := strings.Replace(url, "127.0.0.1", "localhost", 1)
			ca, cert, key := certify(t)
			other, _, _ := certify(t)
			dir := t.TempDir()
			right, wrong := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "other.pem")
			must(t, os.WriteFile(right, ca, 0o600))
			must(t, os.WriteFile(wrong, other, 0o600))
			try := func(what, url string, want bool) {
				t.Helper()
				s, err := store.Open(ctx, configOf(url))
				if err == nil {
					must(t, s.Close())
				}
				if want && err != nil || !want && !trove.IsKind(err, trove.KindUnavailable) {
					t.Errorf("%s: %v", what, err)
				}
			}
			try("TLS is asked for and the server has none", url+"?"+o.full+right, false)
			must(t, server.RequireTLS(ctx, cert, key))
			try("all is right", url+"?"+o.full+right, true)
			try("another authority", url+"?"+o.full+wrong, false)
			try("another name", named+"?"+o.full+right, false)
			try("another name, which nobody looks at", named+"?"+o.chain+right, true)
			try("another authority, and nobody looks at the name", named+"?"+o.chain+wrong, false)
			try("plaintext", url+"?"+o.none, false)
		})
	}
}
