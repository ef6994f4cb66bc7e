package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
)

// ErrOpen says that something could not be decrypted: it is damaged, forged or
// of another key. Which of these is not told, by text or type: whoever sends
// forgeries must learn nothing from what comes back.
var ErrOpen = errors.New("not sealed with this key, or damaged")

// CBC is the original's encryption (trove/common/crypto_utils.py): AES-256-CBC
// under the hex digits of the key's MD5, the IV in front, padded as in PKCS #7,
// in base64. It keeps what it encrypts from being read, but not from being
// changed or repeated; GCM does. It is safe for concurrent use.
type CBC struct{ block cipher.Block }

// NewCBC makes the cipher of a key, any text.
func NewCBC(key String) *CBC {
	sum := md5.Sum([]byte(key.value)) // the original's derivation: MD5's weakness does not matter here
	var text [2 * md5.Size]byte
	hex.Encode(text[:], sum[:])
	block, _ := aes.NewCipher(text[:]) // never fails for 32 bytes
	return &CBC{block}
}

// Encrypt gives plain in base64.
func (c *CBC) Encrypt(plain []byte) []byte {
	var iv [aes.BlockSize]byte
	_, _ = rand.Read(iv[:]) // never fails
	return c.encrypt(iv, plain)
}

func (c *CBC) encrypt(iv [aes.BlockSize]byte, plain []byte) []byte {
	pad := aes.BlockSize - len(plain)%aes.BlockSize
	n := aes.BlockSize + len(plain) + pad
	out := make([]byte, base64.StdEncoding.EncodedLen(n))
	raw := make([]byte, n)
	copy(raw, iv[:])
	copy(raw[aes.BlockSize:], plain)
	for i := n - pad; i < n; i++ {
		raw[i] = byte(pad)
	}
	cipher.NewCBCEncrypter(c.block, iv[:]).CryptBlocks(raw[aes.BlockSize:], raw[aes.BlockSize:])
	base64.StdEncoding.Encode(out, raw)
	return out
}

// Decrypt gives back what Encrypt got. A wrong key is noticed 255 times of 256
// only, so the caller must check that the result makes sense. The error is
// ErrOpen, the padding is looked at in constant time.
func (c *CBC) Decrypt(text []byte) ([]byte, error) {
	raw, err := decode(text)
	if err != nil || len(raw) < 2*aes.BlockSize || len(raw)%aes.BlockSize != 0 {
		return nil, ErrOpen
	}
	plain := raw[aes.BlockSize:]
	cipher.NewCBCDecrypter(c.block, raw[:aes.BlockSize]).CryptBlocks(plain, plain)
	pad := int(plain[len(plain)-1])
	good := subtle.ConstantTimeLessOrEq(1, pad) & subtle.ConstantTimeLessOrEq(pad, aes.BlockSize)
	for i := 1; i <= aes.BlockSize; i++ {
		// Of the last block only the padding must be right.
		is := subtle.ConstantTimeByteEq(plain[len(plain)-i], byte(pad))
		good &= is | subtle.ConstantTimeLessOrEq(pad+1, i)
	}
	if good != 1 {
		return nil, ErrOpen
	}
	return plain[:len(plain)-pad], nil
}

// GCM is authenticated encryption: AES-256-GCM under a key derived by HKDF,
// with a random nonce in front, in base64. One key may seal 2³² times. It is
// safe for concurrent use.
type GCM struct{ aead cipher.AEAD }

// NewGCM makes the cipher of a key for a purpose: what was sealed for one
// purpose cannot be opened for another. The key must have the entropy of a key;
// a password has not.
func NewGCM(key String, purpose string) *GCM {
	// None of these fails for such lengths.
	derived, _ := hkdf.Key(sha256.New, []byte(key.value), nil, "gotrove "+purpose, 32)
	block, _ := aes.NewCipher(derived)
	aead, _ := cipher.NewGCMWithRandomNonce(block)
	return &GCM{aead}
}

// Seal gives plain in base64, bound to a context: only Open with the same
// context opens it. The context is not part of what it gives.
func (g *GCM) Seal(plain, context []byte) []byte {
	raw := make([]byte, 0, len(plain)+g.aead.Overhead())
	raw = g.aead.Seal(raw, nil, plain, context)
	out := make([]byte, base64.StdEncoding.EncodedLen(len(raw)))
	base64.StdEncoding.Encode(out, raw)
	return out
}

// Open gives back what Seal got with the same context. The error is ErrOpen.
func (g *GCM) Open(text, context []byte) ([]byte, error) {
	raw, err := decode(text)
	if err != nil || len(raw) < g.aead.Overhead() {
		return nil, ErrOpen
	}
	plain, err := g.aead.Open(raw[:0], nil, raw, context)
	if err != nil {
		return nil, ErrOpen
	}
	return plain, nil
}

func decode(text []byte) ([]byte, error) {
	raw := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(raw, text)
	return raw[:n], err
}
