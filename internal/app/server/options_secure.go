package server

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"

	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/keyring"
	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/rpc/seal"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// secureOptions say what messages on the bus are sealed with (docs/operator/keys.md).
type secureOptions struct {
	Enable         bool          `conf:"DEFAULT.enable_secure_rpc_messaging" default:"true"`
	TaskManagerKey secret.String `conf:"DEFAULT.taskmanager_rpc_encr_key"`
	MasterKey      secret.String `conf:"DEFAULT.inst_rpc_key_encr_key"`

	// The second keys are accepted beside those, while a key is being replaced.
	SecondTaskManagerKey secret.String `conf:"gotrove.second_taskmanager_rpc_encr_key"`
	SecondMasterKey      secret.String `conf:"gotrove.second_inst_rpc_key_encr_key"`

	AllowDefaultKeys bool   `conf:"gotrove.allow_default_keys" default:"false"`
	Seal             string `conf:"gotrove.rpc_seal" default:"v2"`
}

// Values of [gotrove] rpc_seal: how messages of new instances are sealed.
const (
	sealAuthenticated = "v2"
	sealOriginal      = "original" // agents or services in Python understand it
)

// keys checks the options, and warns of what is not safe.
func (o *secureOptions) keys(ctx context.Context, log *slog.Logger) (keyring.Config, error) {
	c := keyring.Config{NewKeys: o.Enable}
	switch o.Seal {
	case sealAuthenticated:
		c.NewForm = seal.Authenticated
	case sealOriginal:
		c.NewForm = seal.Original
	default:
		return c, trove.Errorf(trove.KindBadRequest, "[gotrove] rpc_seal: %q is neither %s nor %s", o.Seal, sealAuthenticated, sealOriginal)
	}
	tasks, master := o.TaskManagerKey, o.MasterKey
	if o.Enable {
		for _, k := range []struct {
			key            *secret.String
			option, public string
		}{
			{&tasks, "taskmanager_rpc_encr_key", keyring.PublicTaskManagerKey},
			{&master, "inst_rpc_key_encr_key", keyring.PublicMasterKey},
		} {
			switch {
			case !k.key.IsZero() && !k.key.Equal(k.public):
				continue
			case !o.AllowDefaultKeys:
				return c, trove.Errorf(trove.KindBadRequest, "[DEFAULT] %s is not set, or is the default that everybody knows", k.option).
					WithAction(`put a line from this command into trove.conf, the same on every host: echo "%s = $(openssl rand -hex 32)" (or set [gotrove] allow_default_keys = true where nothing matters)`, k.option)
			}
			log.WarnContext(ctx, "THE DEFAULT KEY THAT EVERYBODY KNOWS IS IN USE: whoever reaches the message bus or the database reads all passwords",
				"option", k.option, "allowed_by", "[gotrove] allow_default_keys")
			*k.key = secret.New(k.public)
		}
		c.TaskManager = given(tasks, o.SecondTaskManagerKey)
	} else {
		log.WarnContext(ctx, "messages on the bus are not sealed: whoever reads the bus reads all passwords", "option", "enable_secure_rpc_messaging")
	}
	c.Master = given(master, o.SecondMasterKey)
	return c, nil
}

func given(keys ...secret.String) (out []secret.String) {
	for _, k := range keys {
		if !k.IsZero() {
			out = append(out, k)
		}
	}
	return out
}

// makeUp gives a standalone keys of its own, kept in path, where none are
// configured.
func (o *secureOptions) makeUp(path string) error {
	if !o.TaskManagerKey.IsZero() && !o.MasterKey.IsZero() {
		return nil
	}
	var kept struct {
		TaskManagerKey secret.String `conf:"DEFAULT.taskmanager_rpc_encr_key"`
		MasterKey      secret.String `conf:"DEFAULT.inst_rpc_key_encr_key"`
	}
	switch _, err := os.Stat(path); {
	case err == nil:
		if _, err := osloconf.Load(osloconf.Sources{Files: []string{path}}, &kept); err != nil {
			return err
		}
		if kept.TaskManagerKey.IsZero() || kept.MasterKey.IsZero() {
			return trove.Errorf(trove.KindInternal, "%s is damaged: a key is missing", path)
		}
	case errors.Is(err, fs.ErrNotExist):
		kept.TaskManagerKey, kept.MasterKey = seal.MakeKey(seal.Authenticated), seal.MakeKey(seal.Original)
		text, err := osloconf.Render(osloconf.Group{Name: "DEFAULT", Options: []osloconf.Option{
			{Name: "taskmanager_rpc_encr_key", Value: kept.TaskManagerKey.Reveal()},
			{Name: "inst_rpc_key_encr_key", Value: kept.MasterKey.Reveal()}}})
		if err != nil {
			return err
		}
		if err := durable.WriteFile(path, text, 0o600); err != nil {
			return durable.Explain(err)
		}
	default:
		return err
	}
	if o.TaskManagerKey.IsZero() {
		o.TaskManagerKey = kept.TaskManagerKey
	}
	if o.MasterKey.IsZero() {
		o.MasterKey = kept.MasterKey
	}
	return nil
}
