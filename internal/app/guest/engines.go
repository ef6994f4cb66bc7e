package guest

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/gotrove/gotrove/internal/guest/engine"
	"github.com/gotrove/gotrove/internal/guest/engine/mariadb"
	"github.com/gotrove/gotrove/internal/guest/engine/mysql"
	"github.com/gotrove/gotrove/internal/guest/engine/postgres"
	"github.com/gotrove/gotrove/internal/trove"
)

// kind is one datastore manager.
type kind struct {
	open      func(engine.Settings) engine.Engine
	template  func(context.Context, engine.Settings) (string, error)
	installed func(context.Context) ([]installation, error)
}

// installation is one engine found on this machine.
type installation struct {
	Manager string `json:"manager"`
	Version string `json:"version"`
	BinDir  string `json:"bin_dir"`
	// TemplateArgs are what `trove-guestagent template` needs to use it.
	TemplateArgs []string `json:"template_args,omitempty"`
}

var kinds = map[string]kind{
	mariadb.Manager: {
		open:      func(s engine.Settings) engine.Engine { return mariadb.New(s) },
		template:  mariadb.Template,
		installed: installedMariaDB,
	},
	mysql.Manager: {
		open:      func(s engine.Settings) engine.Engine { return mysql.New(s) },
		template:  mysql.Own().Template,
		installed: installedMySQL,
	},
	postgres.Manager: {
		open:      func(s engine.Settings) engine.Engine { return postgres.New(s) },
		template:  postgres.Template,
		installed: installedPostgreSQL,
	},
}

func kindOf(manager string) (kind, error) {
	k, ok := kinds[manager]
	if !ok {
		return k, trove.Errorf(trove.KindBadRequest, "option [DEFAULT] datastore_manager: this agent does not know %q; it knows %s",
			manager, strings.Join(slices.Sorted(maps.Keys(kinds)), ", "))
	}
	return k, nil
}

func installedMariaDB(ctx context.Context) ([]installation, error) {
	version, dir, ok, err := mariadb.Installed(ctx)
	if !ok {
		return nil, err
	}
	return []installation{{Manager: mariadb.Manager, Version: version, BinDir: dir}}, nil
}

func installedMySQL(ctx context.Context) ([]installation, error) {
	version, dir, ok := mysql.Installed(ctx)
	if !ok {
		return nil, nil
	}
	return []installation{{Manager: mysql.Manager, Version: version, BinDir: dir}}, nil
}

func installedPostgreSQL(ctx context.Context) ([]installation, error) {
	found, err := postgres.Installed(ctx)
	var out []installation
	for _, i := range found {
		out = append(out, installation{Manager: postgres.Manager, Version: i.Version, BinDir: i.BinDir})
	}
	return out, err
}

// listEngines writes the engines of this machine, or of its Docker, as JSON.
func listEngines(ctx context.Context, args []string, out, errs io.Writer) error {
	flags := flag.NewFlagSet("trove-guestagent engines", flag.ContinueOnError)
	flags.SetOutput(errs)
	socket := flags.String("docker-socket", "", "list the images of the Docker that listens at this `path`")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return errors.Join(errUsage, err)
	}
	all, err := installed(ctx, *socket)
	if err != nil {
		return err
	}
	if all == nil {
		all = []installation{} // a list in JSON
	}
	return json.NewEncoder(out).Encode(all)
}

func installed(ctx context.Context, socket string) ([]installation, error) {
	if socket != "" {
		return imagesHere(ctx, socket)
	}
	managers := slices.Sorted(maps.Keys(kinds))
	found, errs := make([][]installation, len(managers)), make([]error, len(managers))
	// Side by side: each asks programs for their versions, and a task manager
	// waits for it to start.
	var wg sync.WaitGroup
	for i, manager := range managers {
		wg.Go(func() { found[i], errs[i] = kinds[manager].installed(ctx) })
	}
	wg.Wait()
	return slices.Concat(found...), errors.Join(errs...)
}
