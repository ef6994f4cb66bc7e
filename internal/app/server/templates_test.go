package server

import (
	"slices"
	"testing"

	"github.com/gotrove/gotrove/internal/cloud/local"
)

func TestTemplateCommands(t *testing.T) {
	var got []string
	for _, command := range templateCommands([]found{
		{Manager: "mariadb", Version: "10.11.19"}, {Manager: "postgresql", Version: "9.6.1"}, {Manager: "postgresql", Version: "15.20"},
	}, "/bin/agent", "/t", &local.User{UID: 12, GID: 34}) {
		cmd := command(t.Context())
		got = append(got, cmd.Args[3]+" "+cmd.Args[5])
		if c := cmd.SysProcAttr.Credential; c.Uid != 12 || c.Gid != 34 {
			t.Errorf("it runs as %d:%d", c.Uid, c.Gid)
		}
	}
	if want := []string{"mariadb 10.11.19", "postgresql 15.20"}; !slices.Equal(got, want) {
		t.Errorf("templates of %q, not %q", got, want)
	}
}
