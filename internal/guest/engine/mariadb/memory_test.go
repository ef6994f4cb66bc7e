package mariadb

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestMemoryFits adds up what the server takes at once and with a few busy
// connections.
func TestMemoryFits(t *testing.T) {
	for _, mb := range []int{256, 512, 1024, 2048, 4096, 65536} {
		settings := map[string]int{}
		for line := range strings.Lines(memory(mb)) {
			var name string
			var n int
			if k, v, ok := strings.Cut(strings.TrimSpace(line), " = "); ok {
				name = k
				if json.Unmarshal([]byte(v), &n) == nil {
					settings[name] = n
				}
			}
		}
		pool := settings["innodb_buffer_pool_size"]
		total := pool + settings["innodb_log_buffer_size"] + settings["key_buffer_size"] + settings["aria_pagecache_buffer_size"]
		if pool < mb*mib/5 || total > mb*mib*3/4 || pool%(8*mib) != 0 {
			t.Errorf("of %d MiB the buffer pool takes %d, all buffers %d", mb, pool/mib, total/mib)
		}
		if settings["innodb_flush_log_at_trx_commit"] != 1 {
			t.Errorf("commits are not durable")
		}
	}
}
