package server

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestAgentIsInstalledWhenItChanged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := &Config{DataDir: filepath.Join(dir, "data"), GuestAgent: filepath.Join(dir, "agent")}
	if _, err := installAgent(c); err == nil {
		t.Error("an agent that is not there was installed")
	}
	block := bytes.Repeat([]byte("x"), 32<<10)
	var before os.FileInfo
	for _, step := range []struct {
		name    string
		is      []byte
		renewed bool
	}{
		{"first", block, true}, {"again", block, false}, {"one more byte", append(bytes.Clone(block), 'y'), true},
		{"another byte", append(bytes.Clone(block), 'z'), true}, {"shorter", block, true}, {"two blocks", append(block, block...), true},
		{"two blocks again", append(block, block...), false}, {"empty", nil, true}, {"empty again", nil, false},
	} {
		if err := os.WriteFile(c.GuestAgent, step.is, 0o600); err != nil {
			t.Fatal(err)
		}
		path, err := installAgent(c)
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		got, err := os.ReadFile(path)
		st, err2 := os.Stat(path)
		if err != nil || err2 != nil || !bytes.Equal(got, step.is) || st.Mode() != 0o755 {
			t.Errorf("%s: %d bytes, %v, %v, %v", step.name, len(got), st.Mode(), err, err2)
		}
		if renewed := !os.SameFile(before, st); before != nil && renewed != step.renewed {
			t.Errorf("%s: renewed: %t", step.name, renewed)
		}
		before = st
	}
}
