package guest

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
)

func TestEngineLogsAreKeptShort(t *testing.T) {
	dir := t.TempDir()
	for name, size := range map[string]int{"long.log": maxLog + 1, "short.log": 10} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*logsEvery)
		defer cancel()
		watchLogs(ctx, dir, slog.New(slog.DiscardHandler))
	})
	for name, want := range map[string]int64{"long.log": 0, "long.log.1": maxLog / 2, "short.log": 10} {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil || st.Size() != want {
			t.Errorf("%s: %v, %v; want %d bytes", name, st, err, want)
		}
	}
}
