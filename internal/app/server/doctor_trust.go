package server

import (
	"crypto/tls"
	"crypto/x509"
	"os"
)

// trust is whom requests to Keystone and to the catalog's endpoints trust; a
// file that cannot be read was told by the check of the login.
func (o *keystoneOptions) trust() *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: o.Insecure} //nolint:gosec // the operator's wish
	if o.CAFile != "" {
		if pem, err := os.ReadFile(o.CAFile); err == nil {
			c.RootCAs = x509.NewCertPool()
			c.RootCAs.AppendCertsFromPEM(pem)
		}
	}
	return c
}
