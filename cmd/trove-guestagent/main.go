// Command trove-guestagent runs beside one database instance and does what the
// control plane asks of its engine.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/gotrove/gotrove/internal/app/guest"
)

var version = "dev" // set by the linker

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := guest.Main(ctx, version, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
