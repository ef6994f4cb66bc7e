// Package secret keeps secrets from being told: a string that prints as ***,
// passwords made at random, the hashing of passwords that are stored, and the
// two ciphers that messages and stored secrets are sealed with.
//
// It stores nothing and knows nobody's keys: those are in package keyring. Any
// package may import it; it imports nothing of ours.
package secret

import (
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"math/big"
)

// Mask is what a secret looks like wherever it is printed.
const Mask = "***"

// String is a string that no formatting, logging or encoding gives away. Only
// Reveal does.
type String struct{ value string }

// New makes a secret of s.
func New(s string) String { return String{value: s} }

// Reveal gives the secret itself.
func (s String) Reveal() string { return s.value }

// IsZero reports whether there is no secret.
func (s String) IsZero() bool { return s.value == "" }

// Equal compares in constant time.
func (s String) Equal(other string) bool {
	return subtle.ConstantTimeCompare([]byte(s.value), []byte(other)) == 1
}

// String prints the mask.
func (s String) String() string { return Mask }

// Format prints the mask for every verb, %#v and %q included.
func (s String) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(Mask)) }

// LogValue logs the mask.
func (s String) LogValue() slog.Value { return slog.StringValue(Mask) }

// MarshalText encodes the mask: a secret is stored by those who Reveal it.
func (s String) MarshalText() ([]byte, error) { return []byte(Mask), nil }

// UnmarshalText takes the secret as it is, so that configuration may hold one.
func (s *String) UnmarshalText(b []byte) error {
	s.value = string(b)
	return nil
}

// Alphabets for Password.
const (
	// Letters and digits, without those that look alike: for people to type.
	Readable = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
	// Letters and digits: safe in URLs, shells and SQL.
	Alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
)

// Password makes a random password of n characters of the alphabet, each with
// the same chance. 22 characters of Alphanumeric are worth 130 bits.
func Password(n int, alphabet string) String {
	letters := []rune(alphabet)
	size := big.NewInt(int64(len(letters)))
	out := make([]rune, n)
	for i := range out {
		// crypto/rand does not fail: it ends the program if the kernel has no
		// randomness, and so would any weaker answer have to.
		k, _ := rand.Int(rand.Reader, size)
		out[i] = letters[k.Int64()]
	}
	return New(string(out))
}
