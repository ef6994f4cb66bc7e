// Command troved runs the server roles of gotrove. Called by the name of a role
// (trove-api), it is that role.
package main

import (
	"os"

	"github.com/gotrove/gotrove/internal/app/server"
)

var version = "dev" // set by the linker

func main() { os.Exit(server.Main(version, os.Args, os.Stdout, os.Stderr)) }
