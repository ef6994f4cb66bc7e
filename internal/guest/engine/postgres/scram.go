package postgres

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
)

const (
	scramIterations = 4096 // PostgreSQL's default
	scramSalt       = 16
)

// passwordLiteral is what follows PASSWORD in a statement. It is the SCRAM
// verifier (RFC 5803), so that the server never sees the password; but for a
// password outside ASCII, which the server must prepare as its clients will.
func passwordLiteral(password string) (string, error) {
	for _, r := range password {
		if r < ' ' || r > '~' {
			return quoteLiteral(password), nil
		}
	}
	salt := make([]byte, scramSalt)
	_, _ = rand.Read(salt) // never fails
	v, err := scramVerifier(password, salt)
	return quoteLiteral(v), err
}

func scramVerifier(password string, salt []byte) (string, error) {
	salted, err := pbkdf2.Key(sha256.New, password, salt, scramIterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("derive a verifier: %w", err)
	}
	mac := func(message string) []byte {
		h := hmac.New(sha256.New, salted)
		h.Write([]byte(message))
		return h.Sum(nil)
	}
	stored := sha256.Sum256(mac("Client Key"))
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", scramIterations, encode(salt), encode(stored[:]), encode(mac("Server Key"))), nil
}

// quoteLiteral writes a string constant that means the same whatever
// standard_conforming_strings is.
func quoteLiteral(s string) string {
	return " E'" + strings.NewReplacer(`\`, `\\`, "'", "''").Replace(s) + "'"
}
