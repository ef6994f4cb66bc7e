package secret

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
)

// The vector of the original's encryption, and what its own code made.
func TestCBCIsTheOriginals(t *testing.T) {
	c := NewCBC(New("0123456789abcdefghijABCDEFGHIJ01"))
	iv := [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	const want = "AAECAwQFBgcICQoLDA0ODzrYfGBRdZSdHXTKW1g8PRk="
	if got := c.encrypt(iv, []byte(`{"a": 1}`)); string(got) != want {
		t.Errorf("encrypted is %s, want %s", got, want)
	}
	// openssl enc -aes-256-cbc -K $(printf %s KEY | md5sum | head -c 32 | xxd -p -c 64) -iv …
	for _, g := range goldenCBC {
		got, err := NewCBC(New(g.key)).Decrypt([]byte(g.text))
		if err != nil || string(got) != g.plain {
			t.Errorf("%s is %q, %v; want %q", g.text, got, err, g.plain)
		}
	}
	for n := range 50 {
		plain := bytes.Repeat([]byte{'x'}, n)
		got, err := c.Decrypt(c.Encrypt(plain))
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes: %q, %v", n, got, err)
		}
	}
	if bytes.Equal(c.Encrypt(nil), c.Encrypt(nil)) {
		t.Error("two encryptions are equal")
	}
}

// goldenCBC was made by openssl 3.0 (the first two) and by trove 18's
// crypto_utils.
var goldenCBC = []struct{ key, plain, text string }{
	{"emYjgHFqfXNB1NGehAFIUeoyw4V4XwWHEaKP", "Zm9vYmFyYmF6cXV4MDEyMzQ1Njc4OWFi", "8OHSw7Sllod4aVpLPC0eD45HttBzpW/g2O7fyVtmxDUEayAYP+qnHxn1irn3g50HfCAg9R12T0pxSoA7Yz+egQ=="},
	{"schlüssel", `{"name": "\u00fc", "n": [1, null]}`, "8OHSw7Sllod4aVpLPC0eD1rg9yMkr0u/w5wKlARl2mNSF9LQhrszww5Uw1spF+oY5SAz9Q9wucbWYmDgFQ4r6A=="},
	{"emYjgHFqfXNB1NGehAFIUeoyw4V4XwWHEaKP", `kF3sT9aBcDeFgHiJkLmNoPqRsTuVwXyZ`, "I1A+98BpSAaWcxLABJMkx5+hUA9+V6pex5VbokuRuV09NnDZ4ggK9DGYOxS5NHqOC4hO+V0y98qYyotwHBHa/A=="},
	{"x", `null`, "W8dhRXGdspy3Lznga0wAGmllpiTXaMwUfIPT/9IFVek="},
	{"x", ``, "JVJvlGTqwor1ffGLRzQ/c2QLqYYe3rnQC5CQvt9gtu0="},
}

func TestBadInputIsOneError(t *testing.T) {
	c, g := NewCBC(New("k")), NewGCM(New("k"), "p")
	for _, bad := range []string{"", "=", "AAAA", strings.Repeat("A", 24), strings.Repeat("A", 44) + "!", strings.Repeat("A", 64), strings.Repeat("AAAA", 5)} {
		if got, err := c.Decrypt([]byte(bad)); err != ErrOpen && err != nil {
			t.Errorf("CBC, %q: %q, %v", bad, got, err)
		}
		if got, err := g.Open([]byte(bad), nil); err != ErrOpen {
			t.Errorf("GCM, %q: %q, %v", bad, got, err)
		}
	}
	// Every padding that is not one, and every one that is.
	plain := make([]byte, 32)
	for last := range 256 {
		plain[31] = byte(last)
		raw := c.encrypt([16]byte{}, plain)
		// Cut the block of padding that encrypt added.
		cut, err := decode(raw)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Decrypt(encodeForTest(cut[:48]))
		if good := last == 1; good != (err == nil) || err != nil && err != ErrOpen {
			t.Errorf("padding %d: %v", last, err)
		}
	}
	plain[31], plain[30] = 2, 2
	cut, _ := decode(c.encrypt([16]byte{}, plain))
	if got, err := c.Decrypt(encodeForTest(cut[:48])); err != nil || len(got) != 30 {
		t.Errorf("padding of two: %d bytes, %v", len(got), err)
	}
}

func encodeForTest(raw []byte) []byte {
	var b bytes.Buffer
	e := base64.NewEncoder(base64.StdEncoding, &b)
	e.Write(raw)
	e.Close()
	return b.Bytes()
}

func TestGCM(t *testing.T) {
	g := NewGCM(New("key"), "test")
	text := g.Seal([]byte("plain"), []byte("context"))
	if got, err := NewGCM(New("key"), "test").Open(text, []byte("context")); err != nil || string(got) != "plain" {
		t.Fatalf("%q, %v", got, err)
	}
	changed := bytes.Clone(text)
	changed[len(changed)/2] ^= 1
	for name, open := range map[string]func() ([]byte, error){
		"another key":     func() ([]byte, error) { return NewGCM(New("kez"), "test").Open(text, []byte("context")) },
		"another purpose": func() ([]byte, error) { return NewGCM(New("key"), "tesu").Open(text, []byte("context")) },
		"another context": func() ([]byte, error) { return g.Open(text, []byte("contexu")) },
		"changed":         func() ([]byte, error) { return g.Open(changed, []byte("context")) },
		"cut":             func() ([]byte, error) { return g.Open(text[:len(text)-4], []byte("context")) },
	} {
		if got, err := open(); !errors.Is(err, ErrOpen) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func FuzzDecrypt(f *testing.F) {
	c, g := NewCBC(New("k")), NewGCM(New("k"), "p")
	f.Add(c.Encrypt([]byte("{}")))
	f.Add(g.Seal([]byte("{}"), nil))
	f.Fuzz(func(t *testing.T, text []byte) {
		if plain, err := c.Decrypt(text); err == nil && len(plain) >= len(text) || err != nil && err != ErrOpen {
			t.Errorf("CBC: %d bytes of %d, %v", len(plain), len(text), err)
		}
		if plain, err := g.Open(text, nil); err == nil && len(plain) >= len(text) || err != nil && err != ErrOpen {
			t.Errorf("GCM: %d bytes of %d, %v", len(plain), len(text), err)
		}
	})
}
