package trove_test

import (
	"regexp"
	"testing"

	"github.com/gotrove/gotrove/internal/trove"
)

func TestNewID(t *testing.T) {
	uuid := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	seen := map[string]bool{}
	for range 1000 {
		id := trove.NewID()
		if !uuid.MatchString(id) || seen[id] {
			t.Fatalf("%s is no UUID, or not new", id)
		}
		seen[id] = true
	}
}
