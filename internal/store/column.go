package store

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/gotrove/gotrove/internal/trove"
)

// field is a text on its way into a column. Not every engine checks the length,
// so we do.
type field struct {
	name  string // as the user knows it
	value string
	max   int // characters
}

// fits returns KindBadRequest naming the first field that its column cannot
// hold.
func fits(fields ...field) error {
	for _, f := range fields {
		if n := utf8.RuneCountInString(f.value); n > f.max {
			return trove.Errorf(trove.KindBadRequest, "The %s is %d characters long; at most %d are possible.", f.name, n, f.max)
		}
		if !utf8.ValidString(f.value) || strings.ContainsRune(f.value, 0) {
			return trove.Errorf(trove.KindBadRequest, "The %s is not valid text.", f.name)
		}
	}
	return nil
}

// clip makes text of our own fit a column of so many characters.
func clip(s string, most int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "")
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most-1]) + "…"
}

// null is s as a column that may be NULL holds it.
func null(s string) sql.NullString { return sql.NullString{String: s, Valid: s != ""} }

// list is a comma list, as the original keeps tags and packages.
func list(s string) []string {
	var out []string
	for v := range strings.SplitSeq(s, ",") {
		if v = strings.TrimSpace(v); v != "" {
			out = append(out, v)
		}
	}
	return out
}

type accessJSON struct {
	IsPublic     bool     `json:"is_public"`
	AllowedCIDRs []string `json:"allowed_cidrs,omitzero"` // shown as it was given: absent, or empty
}

// encodeAccess writes the access column; absent access is the text null.
func encodeAccess(a *trove.Access) (string, error) {
	if a == nil {
		return "null", nil
	}
	b, err := json.Marshal(accessJSON(*a))
	return string(b), err
}

// decodeAccess reads the access column. What cannot be read is as absent: it is
// shown, never decided on.
func decodeAccess(s string) *trove.Access {
	if s == "" || s == "null" {
		return nil
	}
	var j *accessJSON
	if json.Unmarshal([]byte(s), &j) != nil || j == nil {
		return nil
	}
	return &trove.Access{IsPublic: j.IsPublic, AllowedCIDRs: j.AllowedCIDRs}
}

type addressJSON struct {
	Address string            `json:"address"`
	Type    trove.AddressType `json:"type"`
	Network string            `json:"network,omitempty"`
}

func encodeAddresses(as []trove.Address) (string, error) {
	out := make([]addressJSON, len(as))
	for i, a := range as {
		out[i] = addressJSON(a)
	}
	b, err := json.Marshal(out)
	return string(b), err
}

func decodeAddresses(s string) ([]trove.Address, error) {
	if s == "" {
		return nil, nil
	}
	var in []addressJSON
	if err := json.Unmarshal([]byte(s), &in); err != nil {
		return nil, fmt.Errorf("column observed.addresses: %w", err)
	}
	var out []trove.Address
	for _, a := range in {
		out = append(out, trove.Address(a))
	}
	return out, nil
}
