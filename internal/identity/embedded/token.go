package embedded

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/trove"
)

// claims are what a token says. It carries them itself, signed, so that tokens
// survive a restart and need no store.
type claims struct {
	User    string   `json:"u"`
	Project string   `json:"p,omitempty"`
	Methods []string `json:"m"`
	Audit   []string `json:"a"` // the token's own id, and that of the one it came from
	Issued  int64    `json:"i"` // unix microseconds
	Expires int64    `json:"e"` // unix microseconds
}

const (
	tokenPrefix = "gt1."
	keyBytes    = 32
	maxToken    = 4096
	// One user's single revocations; past it all tokens that the user has are
	// revoked, so that the list stays bounded.
	maxRevoked = 1000
)

// loadKey reads the key that signs tokens, or makes one.
func loadKey(dir string) ([]byte, error) {
	path := filepath.Join(dir, keyFile)
	b, err := os.ReadFile(path)
	if err == nil && len(b) == keyBytes {
		return b, nil
	}
	if err == nil {
		return nil, trove.Errorf(trove.KindBadRequest, "%s is damaged: it must hold %d bytes", path, keyBytes).
			WithAction("Remove it: a new one is made, and everybody logs in again.")
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key := make([]byte, keyBytes)
	_, _ = rand.Read(key) // never fails
	return key, durable.WriteFile(path, key, 0o600)
}

func (s *Server) sign(payload string) string {
	m := hmac.New(sha256.New, s.key)
	m.Write([]byte(payload))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

func (s *Server) seal(c claims) (string, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	payload := tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
	return payload + "." + s.sign(payload), nil
}

// open checks a token: signature, time, revocation, and that its user still is
// there and has a role in its project.
func (s *Server) open(token string) (claims, error) {
	bad := func(why string) (claims, error) {
		return claims{}, &trove.Error{Kind: trove.KindUnauthorized, Message: "The token is not valid: " + why + "."}
	}
	cut := strings.LastIndexByte(token, '.')
	if len(token) > maxToken || cut < 0 || !strings.HasPrefix(token, tokenPrefix) {
		return bad("it was not made here")
	}
	if !hmac.Equal([]byte(token[cut+1:]), []byte(s.sign(token[:cut]))) {
		return bad("it was not made here")
	}
	var c claims
	b, err := base64.RawURLEncoding.DecodeString(token[len(tokenPrefix):cut])
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil || len(c.Audit) == 0 {
		return bad("it was not made here")
	}
	now := s.o.Now()
	if now.UnixMicro() >= c.Expires {
		return bad("it has expired")
	}
	if s.revoked.has(c) {
		return bad("it was revoked")
	}
	u, ok := s.dir.userByID(c.User)
	if !ok {
		return bad("its user is not there or disabled")
	}
	if c.Project != "" && len(s.dir.roles(u, c.Project)) == 0 {
		return bad("its user has no role in its project any more")
	}
	return c, nil
}

// revocations remembers what was revoked until it would have expired anyway.
type revocations struct {
	path string

	mu    sync.Mutex
	state map[string]*revoked // by user id
}

type revoked struct {
	Before int64            `json:"before,omitempty"` // tokens issued until then, unix microseconds
	Tokens map[string]int64 `json:"tokens,omitempty"` // audit id → expiry
}

func loadRevocations(dir string) (*revocations, error) {
	r := &revocations{path: filepath.Join(dir, revokedFile), state: map[string]*revoked{}}
	b, err := os.ReadFile(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r.state)
	}
	if err != nil {
		return nil, trove.Errorf(trove.KindBadRequest, "%s cannot be read: %w", r.path, err)
	}
	return r, nil
}

func (r *revocations) has(c claims) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.state[c.User]
	if u == nil {
		return false
	}
	_, there := u.Tokens[c.Audit[0]]
	return there || c.Issued <= u.Before
}

// add revokes a token. When it returns nil the token stays revoked, whatever
// happens.
func (r *revocations) add(c claims, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, u := range r.state {
		if u == nil {
			delete(r.state, id)
			continue
		}
		for t, expires := range u.Tokens {
			if expires <= now.UnixMicro() {
				delete(u.Tokens, t)
			}
		}
	}
	u := r.state[c.User]
	if u == nil {
		u = &revoked{}
		r.state[c.User] = u
	}
	if u.Tokens == nil {
		u.Tokens = map[string]int64{}
	}
	u.Tokens[c.Audit[0]] = c.Expires
	if len(u.Tokens) > maxRevoked {
		u.Tokens, u.Before = nil, now.UnixMicro()
	}
	b, err := json.Marshal(r.state)
	if err != nil {
		return err
	}
	return durable.WriteFile(r.path, b, 0o600)
}
