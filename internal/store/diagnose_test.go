package store_test

import (
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/store"
)

func TestDiagnose(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, open func() *store.Store) {
		s := open()
		d, err := s.Diagnose(t.Context())
		if err != nil || d.Engine == "" || d.Version == "" {
			t.Errorf("%+v, %v", d, err)
		}
		if d.Ahead.Abs() > d.Spread+time.Second {
			t.Errorf("the clock is %v ahead, give or take %v", d.Ahead, d.Spread)
		}
		if d.Engine == "mysql" && (d.Storage != "InnoDB" || !strings.HasPrefix(d.Collation, "utf8mb4")) {
			t.Errorf("%+v", d)
		}
		if refused, err := s.Refused(t.Context()); err != nil || len(refused) > 0 {
			t.Errorf("refused: %q, %v", refused, err)
		}
		for range 2 { // nothing is left of the first
			if err := s.MayMigrate(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}
