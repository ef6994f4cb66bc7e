package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// shell is an engine's own client.
type shell struct {
	program     string
	debian      string // the package that has it
	passwordVar string // the variable it takes a password from
	args        func(address, user, database, sql string) []string
}

var (
	mysqlShell = shell{"mariadb", "mariadb-client-core", "MYSQL_PWD", func(address, user, database, sql string) []string {
		args := []string{"--host=" + address, "--protocol=TCP", "--user=" + user}
		if sql != "" {
			args = append(args, "--batch", "--skip-column-names", "--execute="+sql)
		}
		if database != "" {
			args = append(args, "--database="+database)
		}
		return args
	}}
	psqlShell = shell{"psql", "postgresql-client", "PGPASSWORD", func(address, user, database, sql string) []string {
		if database == "" {
			database = "postgres"
		}
		args := []string{"--host=" + address, "--username=" + user, "--dbname=" + database}
		if sql != "" {
			args = append(args, "--no-psqlrc", "--tuples-only", "--no-align", "--command="+sql)
		}
		return args
	}}
	shells = map[string]shell{"mariadb": mysqlShell, "mysql": mysqlShell, "postgresql": psqlShell}
)

func (a *app) instanceConnect() *cobra.Command {
	var user, database, passwordFile, sql string
	cmd := &cobra.Command{Use: "connect INSTANCE", Short: "Open the engine's own client on an instance", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.instanceNames,
		Long: "Open the engine's own client (mariadb or psql) on an instance.\n\n" +
			"The client asks for the password unless --password-file gives it; it is never on a command line.",
		RunE: func(cmd *cobra.Command, args []string) error {
			_, i, err := a.find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			sh, ok := shells[i.Datastore.Type]
			if !ok {
				return trove.Errorf(trove.KindNotImplemented, "No client is known for the datastore %q.", i.Datastore.Type)
			}
			if i.Address() == "" {
				return trove.Errorf(trove.KindUnprocessable, "Instance %s has no address yet: its status is %s.", i.Name, i.Status)
			}
			program, err := exec.LookPath(sh.program)
			if err != nil {
				return trove.Errorf(trove.KindUnavailable, "The program %s is not installed.", sh.program).
					WithAction("apt-get install %s", sh.debian)
			}
			run := exec.CommandContext(cmd.Context(), program, sh.args(i.Address(), user, database, sql)...)
			run.Stdin, run.Stdout, run.Stderr, run.Env = a.In, a.Out, a.Err, os.Environ()
			if passwordFile != "" {
				password, _, err := a.password(passwordFile)
				if err != nil {
					return err
				}
				run.Env = append(run.Env, sh.passwordVar+"="+password)
			} else if sh.program == "mariadb" && os.Getenv(sh.passwordVar) == "" {
				run.Args = append(run.Args, "--password")
			}
			if err := run.Run(); err != nil {
				return &trove.Error{Kind: trove.KindInternal, Message: fmt.Sprintf("%s: %v", sh.program, err), Err: err}
			}
			return nil
		}}
	f := cmd.Flags()
	f.StringVarP(&user, "user", "u", "", "user to connect as")
	f.StringVarP(&database, "database", "d", "", "database to use")
	f.StringVar(&passwordFile, "password-file", "", "file with the password, - for standard input")
	f.StringVarP(&sql, "execute", "e", "", "run this statement, print bare values, and leave")
	must(cmd.MarkFlagRequired("user"))
	return cmd
}

// password reads a password from a file (- is standard input), or makes one,
// which is returned as generated too, if no file is given.
func (a *app) password(file string) (password, generated string, err error) {
	var b []byte
	switch file {
	case "":
		p := secret.Password(20, secret.Readable).Reveal()
		return p, p, nil
	case "-":
		b, err = io.ReadAll(io.LimitReader(a.In, 4096))
	default:
		b, err = readBounded(file)
	}
	if err != nil {
		return "", "", trove.Errorf(trove.KindBadRequest, "The password file cannot be read: %w", err)
	}
	password = strings.TrimRight(string(b), "\r\n")
	if password == "" {
		return "", "", trove.Errorf(trove.KindBadRequest, "The password file is empty.")
	}
	return password, "", nil
}

func readBounded(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	return b, errors.Join(err, f.Close())
}
