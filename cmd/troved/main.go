// Command troved runs the server roles of gotrove.
package main

import (
	"os"

	"github.com/gotrove/gotrove/internal/app/server"
)

var version = "dev" // set by the linker

func main() { os.Exit(server.Main(version, os.Args[1:], os.Stdout, os.Stderr)) }
