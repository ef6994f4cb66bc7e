// Command trovectl manages database instances from a terminal.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/gotrove/gotrove/internal/cli"
)

var version = "dev" // set by the linker

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, cli.Stdio(), version, os.Args[1:])
	stop()
	os.Exit(code)
}
