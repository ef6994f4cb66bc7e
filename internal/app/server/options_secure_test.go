package server

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gotrove/gotrove/internal/keyring"
	"github.com/gotrove/gotrove/internal/rpc/seal"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

func TestKeysOfOptions(t *testing.T) {
	t.Parallel()
	const a, b, c, d = "aaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbb", "cccccccccccccccccccc", "dddddddddddddddddddd"
	for name, tc := range map[string]struct {
		o             secureOptions
		wrong         string // of the error
		warned        string
		tasks, master string // in order
	}{
		"both":                  {o: options(true, a, b), tasks: a, master: b},
		"with second ones":      {o: secureOptions{Enable: true, TaskManagerKey: secret.New(a), MasterKey: secret.New(b), SecondTaskManagerKey: secret.New(c), SecondMasterKey: secret.New(d)}, tasks: a + c, master: b + d},
		"none":                  {o: options(true, "", ""), wrong: "taskmanager_rpc_encr_key"},
		"one":                   {o: options(true, a, ""), wrong: "inst_rpc_key_encr_key"},
		"everybody's":           {o: options(true, keyring.PublicTaskManagerKey, b), wrong: "taskmanager_rpc_encr_key"},
		"everybody's master":    {o: options(true, a, keyring.PublicMasterKey), wrong: "inst_rpc_key_encr_key"},
		"allowed":               {o: allowed(options(true, "", "")), tasks: keyring.PublicTaskManagerKey, master: keyring.PublicMasterKey, warned: "EVERYBODY"},
		"allowed and not used":  {o: allowed(options(true, a, b)), tasks: a, master: b},
		"off":                   {o: options(false, "", ""), warned: "not sealed"},
		"off, keys in the rows": {o: options(false, a, b), master: b, warned: "not sealed"},
		"a way there is not":    {o: secureOptions{Seal: "v3"}, wrong: "rpc_seal"},
	} {
		if tc.o.Seal == "" {
			tc.o.Seal = sealAuthenticated
		}
		var log bytes.Buffer
		got, err := tc.o.keys(t.Context(), slog.New(slog.NewTextHandler(&log, nil)))
		if tc.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), tc.wrong) || tc.wrong != "rpc_seal" && !strings.Contains(trove.ActionOf(err), "openssl rand") {
				t.Errorf("%s: %v (%s)", name, err, trove.ActionOf(err))
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		text := func(keys []secret.String) (s string) {
			for _, k := range keys {
				s += k.Reveal()
			}
			return s
		}
		if text(got.TaskManager) != tc.tasks || text(got.Master) != tc.master || got.NewKeys != tc.o.Enable || got.NewForm != seal.Authenticated {
			t.Errorf("%s: %s, %s, %+v", name, text(got.TaskManager), text(got.Master), got)
		}
		if !strings.Contains(log.String(), tc.warned) || tc.warned == "" && log.Len() > 0 {
			t.Errorf("%s: warned %s", name, log.String())
		}
		for _, word := range []string{a, b} {
			if strings.Contains(log.String(), word) {
				t.Errorf("%s: a key in the log", name)
			}
		}
	}
}

func options(enable bool, task, master string) secureOptions {
	return secureOptions{Enable: enable, TaskManagerKey: secret.New(task), MasterKey: secret.New(master)}
}

func allowed(o secureOptions) secureOptions {
	o.AllowDefaultKeys = true
	return o
}

// A standalone makes its own keys once, for its owner only.
func TestKeysOfAStandalone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keys.conf")
	var first, again, configured secureOptions
	for _, o := range []*secureOptions{&first, &again} {
		if err := o.makeUp(path); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	if first != again || first.MasterKey.IsZero() || !strings.HasPrefix(first.TaskManagerKey.Reveal(), seal.AuthenticatedPrefix) {
		t.Error("the keys are not those of the first time")
	}
	configured.MasterKey = secret.New("configured")
	if err := configured.makeUp(path); err != nil || configured.MasterKey.Reveal() != "configured" || configured.TaskManagerKey != first.TaskManagerKey {
		t.Errorf("what is configured does not count: %v", err)
	}
	if err := os.WriteFile(path, []byte("[DEFAULT]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var damaged secureOptions
	if err := damaged.makeUp(path); err == nil {
		t.Error("a damaged file is taken")
	}
}
