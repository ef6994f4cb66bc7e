package secret

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

// ErrBusy means that too many passwords wait to be checked.
var ErrBusy = errors.New("too many passwords are being checked")

const (
	hashMemory = 19 << 10 // KiB
	hashTime   = 2
	hashLanes  = 1
	hashSalt   = 16
	hashKey    = 32

	// What a stored hash may ask of us at most, whoever wrote the file.
	maxHashMemory = 256 << 10
	maxHashTime   = 16
)

// Hasher hashes passwords with argon2id, one at a time: a hash costs 19 MiB,
// and a flood of logins must not cost more. Share one per process.
type Hasher struct {
	turn  chan struct{}
	queue chan struct{}
}

// NewHasher makes a hasher on which at most queue callers wait; the next get
// ErrBusy at once.
func NewHasher(queue int) *Hasher {
	return &Hasher{turn: make(chan struct{}, 1), queue: make(chan struct{}, queue+1)}
}

// do runs f when it is its turn.
func (h *Hasher) do(ctx context.Context, f func()) error {
	select {
	case h.queue <- struct{}{}:
		defer func() { <-h.queue }()
	default:
		return ErrBusy
	}
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	f()
	return nil
}

// Hash gives the password's hash as a PHC string.
func (h *Hasher) Hash(ctx context.Context, password String) (string, error) {
	salt := make([]byte, hashSalt)
	_, _ = rand.Read(salt) // never fails
	var key []byte
	err := h.do(ctx, func() {
		key = argon2.IDKey([]byte(password.value), salt, hashTime, hashMemory, hashLanes, hashKey)
	})
	if err != nil {
		return "", err
	}
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, hashMemory, hashTime, hashLanes,
		b64.EncodeToString(salt), b64.EncodeToString(key)), nil
}

// Verify reports whether password has the hash, a PHC string of argon2id. An
// empty hash costs as much as any other and never matches: verify it for users
// who do not exist, so that the time taken tells nothing.
func (h *Hasher) Verify(ctx context.Context, hash string, password String) (bool, error) {
	p := phc{memory: hashMemory, time: hashTime, lanes: hashLanes, salt: make([]byte, hashSalt), key: make([]byte, hashKey)}
	if hash != "" {
		var err error
		if p, err = parsePHC(hash); err != nil {
			return false, err
		}
	}
	var key []byte
	err := h.do(ctx, func() {
		key = argon2.IDKey([]byte(password.value), p.salt, p.time, p.memory, p.lanes, uint32(len(p.key)))
	})
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(key, p.key) == 1 && hash != "", nil
}

type phc struct {
	memory, time uint32
	lanes        uint8
	salt, key    []byte
}

func parsePHC(s string) (phc, error) {
	bad := errors.New("not an argon2id hash in PHC form")
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return phc{}, bad
	}
	var p phc
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.memory, &p.time, &p.lanes); n != 3 || err != nil {
		return phc{}, bad
	}
	if p.memory == 0 || p.memory > maxHashMemory || p.time == 0 || p.time > maxHashTime || p.lanes == 0 {
		return phc{}, errors.New("argon2id hash asks for more memory or time than is allowed")
	}
	var err1, err2 error
	p.salt, err1 = base64.RawStdEncoding.DecodeString(parts[4])
	p.key, err2 = base64.RawStdEncoding.DecodeString(parts[5])
	if err1 != nil || err2 != nil || len(p.salt) < 8 || len(p.key) < 16 || len(p.key) > 64 {
		return phc{}, bad
	}
	return p, nil
}
