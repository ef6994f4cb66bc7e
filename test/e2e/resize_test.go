package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestResize gives an instance of each engine another flavor and a larger
// volume: its memory follows, and its data stay.
func TestResize(t *testing.T) {
	t.Parallel()
	s := newStandalone(t)
	memory := map[string]string{"mariadb": "SELECT @@innodb_buffer_pool_size", "postgresql": "SELECT setting::bigint * 8192 FROM pg_settings WHERE name = 'shared_buffers'"}
	for _, datastore := range datastores {
		t.Run(datastore, func(t *testing.T) {
			s.t = t
			id := s.create("resize-"+datastore, datastore, "pass").ID
			query := func(sql string) string {
				t.Helper()
				return s.trovectl("instance", "connect", id, "--user", "u", "--database", "d", "--password-file", s.secretFile("pass"), "--execute", sql)
			}
			query("CREATE TABLE t (n int)")
			query("INSERT INTO t VALUES (42)")
			before, err := strconv.Atoi(query(memory[datastore]))
			if err != nil {
				t.Fatal(err)
			}

			s.trovectl("instance", "resize", id, "--flavor", "db.small", "--wait")
			after, err := strconv.Atoi(query(memory[datastore]))
			if err != nil || after <= before {
				t.Errorf("the engine has %d bytes with db.tiny and %d with db.small: %v", before, after, err)
			}
			if got := query("SELECT n FROM t"); got != "42" {
				t.Errorf("after the flavor the table holds %q", got)
			}

			s.trovectl("instance", "resize", id, "--volume", "3", "--wait")
			if got := query("SELECT n FROM t"); got != "42" {
				t.Errorf("after the volume the table holds %q", got)
			}
			s.trovectl("instance", "access", id, "--allow", "127.0.0.0/8", "--wait")
			i, err := s.show(id)
			if err != nil {
				t.Fatal(err)
			}
			if err := i.serves(); err != nil {
				t.Error(err)
			}
			got := s.trovectl("instance", "show", id, "-f", "value", "-c", "Flavor", "-c", "Size (GiB)")
			if got != "2\n3" {
				t.Errorf("flavor and size are %q", got)
			}
			// The memory's limit is the new flavor's where the kernel lets us.
			for _, file := range []string{"/sys/fs/cgroup/memory/gotrove/" + id + "/memory.limit_in_bytes", "/sys/fs/cgroup/gotrove/" + id + "/memory.max"} {
				b, err := os.ReadFile(file)
				if err == nil && strings.TrimSpace(string(b)) != strconv.Itoa(1024<<20) {
					t.Errorf("%s holds %s", filepath.Base(file), b)
				}
			}

			s.trovectl("instance", "delete", id, "--wait")
			s.deleted = append(s.deleted, id)
			if err := s.gone(id); err != nil {
				t.Error(err)
			}
		})
	}
	s.t = t
	s.exactly()
	s.quota(0)
}
