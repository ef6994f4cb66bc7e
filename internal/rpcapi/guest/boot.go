package guest

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// BootStage is how far the agent of a new server has come. It writes one line
// for each to the server's console, so that whoever reads the console's log
// learns how far one came that never reached the bus.
type BootStage string

// Stages in the order in which an agent passes them; those that there is
// nothing to do for are left out.
const (
	BootFiles     BootStage = "files written"      // what the cloud holds for the server
	BootStarted   BootStage = "agent started"      //
	BootConfig    BootStage = "configuration read" //
	BootCard      BootStage = "user's card taken"  // from the machine, for the engine's container
	BootFound     BootStage = "volume found"       //
	BootFormatted BootStage = "volume formatted"   //
	BootMounted   BootStage = "volume mounted"     //
	BootAddress   BootStage = "address given"      // of the machine, by a probe only
	BootName      BootStage = "broker resolved"    // its name, by a probe only
	BootRoute     BootStage = "route found"        // to the broker, by a probe only
	BootBroker    BootStage = "broker reached"     // it answers at its port
	BootTLS       BootStage = "TLS agreed"         // with the broker, by a probe only
	BootLogin     BootStage = "login accepted"     //
	BootHeartbeat BootStage = "heartbeat sent"     // the first one that the broker confirmed
	BootRuntime   BootStage = "runtime ready"      // Docker answers
	BootImage     BootStage = "image present"      //
	BootRunning   BootStage = "engine started"     // its container or process runs
	BootReady     BootStage = "engine ready"       // it answers
)

// BootLine is one line of an agent on its server's console.
type BootLine struct {
	Since  time.Duration // since the kernel started, in hundredths of a second
	Stage  BootStage
	Failed bool   // it is not passed, and Detail says why
	Detail string // for people; no secrets
}

const (
	bootPrefix = "trove-guestagent: ["
	bootFailed = "FAILED "
)

// String is the line without an end.
func (l BootLine) String() string {
	failed, detail := "", strings.Join(strings.Fields(l.Detail), " ")
	if l.Failed {
		failed = bootFailed
	}
	if detail != "" {
		detail = ": " + detail
	}
	return fmt.Sprintf("%s%.2f] %s%s%s", bootPrefix, l.Since.Seconds(), failed, l.Stage, detail)
}

// ParseBoot finds an agent's lines in what a server wrote on its console, which
// others write on too.
func ParseBoot(console string) []BootLine {
	var out []BootLine
	for line := range strings.Lines(console) {
		_, rest, ok := strings.Cut(strings.TrimRight(line, "\r\n"), bootPrefix)
		if !ok {
			continue
		}
		since, rest, ok := strings.Cut(rest, "] ")
		seconds, err := strconv.ParseFloat(since, 64)
		if !ok || err != nil {
			continue
		}
		l := BootLine{Since: time.Duration(seconds * float64(time.Second)).Round(10 * time.Millisecond)}
		rest, l.Failed = strings.CutPrefix(rest, bootFailed)
		stage, detail, _ := strings.Cut(rest, ": ")
		l.Stage, l.Detail = BootStage(stage), detail
		out = append(out, l)
	}
	return out
}
