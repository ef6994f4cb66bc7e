package secret_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/gotrove/gotrove/internal/secret"
)

func TestStringNeverTells(t *testing.T) {
	const word = "hunter2"
	type holder struct {
		P  secret.String
		PP *secret.String
	}
	s := secret.New(word)
	h := holder{P: s, PP: &s}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+verb+verb, s, &s, h)
	}
	fmt.Fprint(&out, errors.Join(fmt.Errorf("with %v", h)))
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "s", s, "h", h)
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "s", s, "h", h)
	if err := json.NewEncoder(&out).Encode(h); err != nil {
		t.Fatal(err)
	}
	for _, tell := range []string{word, fmt.Sprintf("%x", word)} {
		if strings.Contains(out.String(), tell) {
			t.Errorf("told in: %s", out.String())
		}
	}
	if s.Reveal() != word || !s.Equal(word) || s.Equal("other") {
		t.Error("Reveal or Equal is wrong")
	}
}

func TestPassword(t *testing.T) {
	seen := map[string]bool{}
	for range 50 {
		p := secret.Password(22, secret.Alphanumeric).Reveal()
		if len(p) != 22 || strings.Trim(p, secret.Alphanumeric) != "" || seen[p] {
			t.Fatalf("bad password %q", p)
		}
		seen[p] = true
	}
}

func TestHash(t *testing.T) {
	ctx := context.Background()
	h := secret.NewHasher(4)
	hash, err := h.Hash(ctx, secret.New("pä$$wörd"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("hash is %s", hash)
	}
	for password, want := range map[string]bool{"pä$$wörd": true, "pä$$wörD": false, "": false} {
		if ok, err := h.Verify(ctx, hash, secret.New(password)); ok != want || err != nil {
			t.Errorf("Verify(%q) = %v, %v; want %v", password, ok, err, want)
		}
	}
	if ok, err := h.Verify(ctx, "", secret.New("")); ok || err != nil {
		t.Errorf("empty hash: %v, %v", ok, err)
	}
	// Made by another implementation of argon2id (password "password", salt "somesalt").
	const known = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"
	if ok, err := h.Verify(ctx, known, secret.New("password")); !ok || err != nil {
		t.Errorf("known hash: %v, %v", ok, err)
	}
	for _, bad := range []string{"x", "$argon2id$v=19$m=99999999,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4", "$argon2i$v=19$m=1,t=1,p=1$c29tZXNhbHQ$AAAA"} {
		if _, err := h.Verify(ctx, bad, secret.New("p")); err == nil {
			t.Errorf("Verify took %q", bad)
		}
	}
}

func TestHasherIsBounded(t *testing.T) {
	h := secret.NewHasher(0)
	var wg sync.WaitGroup
	var mu sync.Mutex
	busy, done := 0, 0
	for range 20 {
		wg.Go(func() {
			_, err := h.Hash(context.Background(), secret.New("p"))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, secret.ErrBusy):
				busy++
			case err == nil:
				done++
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if done == 0 || busy == 0 {
		t.Errorf("%d done, %d refused; want some of each", done, busy)
	}
}
