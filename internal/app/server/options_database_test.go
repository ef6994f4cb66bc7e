package server

import (
	"reflect"
	"strings"
	"testing"

	"github.com/gotrove/gotrove/internal/secret"
)

// Every option without an effect exists, and those with one are used.
func TestDatabaseOptions(t *testing.T) {
	t.Parallel()
	var o databaseOptions
	names := map[string]bool{}
	for i := range reflect.TypeOf(o).NumField() {
		names[strings.TrimPrefix(reflect.TypeOf(o).Field(i).Tag.Get("conf"), "database.")] = true
	}
	for name := range o.noEffect() {
		if !names[name] {
			t.Errorf("there is no option %s", name)
		}
		delete(names, name)
	}
	if len(names) != 7 {
		t.Errorf("options with an effect: %v", names)
	}
	o = databaseOptions{Connection: secret.New("mysql://u:p@h/d?a=1"), ConnectionParameters: "b=2", MaxPoolSize: 3, MaxOverflow: 4}
	c, err := o.config()
	if err != nil || c.URL.Reveal() != "mysql://u:p@h/d?a=1&b=2" || c.Pool.Most != 7 {
		t.Errorf("%s %+v, %v", c.URL.Reveal(), c.Pool, err)
	}
	o.MaxOverflow = -1
	if c, _ = o.config(); c.Pool.Most != -1 {
		t.Errorf("%+v", c.Pool)
	}
}
