package flow

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
)

// Each hop is broken once, as it looks from outside.
func TestDiagnose(t *testing.T) {
	connected := 1
	boot := func(lines ...guest.BootLine) func(*signs) {
		return func(s *signs) {
			s.console = "[    0.000000] Linux version 6.1\n"
			for _, l := range lines {
				s.console += l.String() + "\r\n"
			}
		}
	}
	reached := func(stages ...guest.BootStage) (lines []guest.BootLine) {
		for i, s := range stages {
			lines = append(lines, guest.BootLine{Since: time.Duration(i) * time.Second, Stage: s})
		}
		return lines
	}
	failed := func(stage guest.BootStage, why string, before ...guest.BootStage) func(*signs) {
		return boot(append(reached(before...), guest.BootLine{Since: time.Minute, Stage: stage, Failed: true, Detail: why})...)
	}
	for name, tc := range map[string]struct {
		set  func(*signs)
		want hop
		says string
	}{
		"no port":       {func(s *signs) { s.view.Ports = nil }, noPort, "has no port"},
		"port down":     {func(s *signs) { s.view.Ports[0].Status = "DOWN" }, noPort, "management port m is DOWN"},
		"no address":    {func(s *signs) { s.view.Ports[1].Addresses = nil }, noAddress, "port u has no address"},
		"no volume":     {func(s *signs) { s.view.Volume = nil }, noVolume, "no volume is attached"},
		"detached":      {func(s *signs) { s.view.Volume.Attached = false }, noVolume, "no volume is attached"},
		"volume failed": {func(s *signs) { s.view.Volume.Fault = "error_attaching" }, noVolume, "error_attaching"},
		"no server":     {func(s *signs) { s.view.Server = nil }, noServer, "has no server"},
		"server builds": {func(s *signs) { s.view.Server.Status = trove.ServerBuild }, noServer, "BUILD, not ACTIVE"},
		"server failed": {func(s *signs) { s.view.Server.Status, s.view.Server.Fault = trove.ServerError, "no valid host" }, serverFailed, "no valid host"},
		"no cloud":      {func(s *signs) { s.view, s.unseen = cloud.View{}, errors.New("nova is away") }, unknownHop, "nova is away"},

		"image without an agent": {func(s *signs) { s.console = "Debian GNU/Linux 12\nhost login: " }, noAgent, "host login:"},
		"empty console":          {func(s *signs) { s.console = "" }, agentDown, "its console is empty"},
		"agent does not start":   {func(s *signs) { s.console = "systemd[1]: trove-guestagent.service: Failed with result 'exit-code'." }, agentDown, "exit-code"},
		"wrong configuration":    {failed(guest.BootConfig, "guest_id is not set", guest.BootFiles), agentDown, "guest_id is not set"},
		"files only":             {boot(reached(guest.BootFiles)...), agentDown, `"files written"`},
		"volume not found":       {failed(guest.BootFound, "there is no disk", guest.BootFiles, guest.BootStarted), noVolume, "there is no disk"},
		"volume of somebody":     {failed(guest.BootMounted, "it holds a file system of somebody else's", guest.BootFound), noVolume, "somebody else's"},
		"no route to the broker": {failed(guest.BootBroker, "dial tcp 10.0.0.5:5672: i/o timeout", guest.BootStarted, guest.BootMounted), noBroker, "i/o timeout"},
		"broker, said nothing":   {boot(reached(guest.BootStarted, guest.BootConfig, guest.BootMounted)...), noBroker, `"volume mounted"`},
		"nothing gets out":       {func(s *signs) { boot(reached(guest.BootStarted)...)(s); s.view.Ports[0].Groups = false }, noBroker, "No security group of port m"},
		"login refused":          {failed(guest.BootLogin, "username or password not allowed", guest.BootBroker), loginRefused, "not allowed"},
		"login without an end":   {boot(reached(guest.BootStarted, guest.BootBroker)...), loginRefused, `"broker reached"`},
		"heartbeats lost":        {boot(reached(guest.BootBroker, guest.BootLogin, guest.BootHeartbeat)...), agentSilent, `"heartbeat sent"`},
		"on the bus, silent":     {func(s *signs) { boot(reached(guest.BootStarted)...)(s); s.bus.Consumers = 1 }, agentSilent, "on the bus"},
		"no Docker":              {failed(guest.BootRuntime, "Cannot connect to the Docker daemon", guest.BootHeartbeat), noContainer, "Docker daemon"},
		"image of the engine":    {failed(guest.BootImage, "manifest unknown", guest.BootRuntime), noContainer, "manifest unknown"},
		"container ends":         {failed(guest.BootRunning, "exit code 1", guest.BootImage), noContainer, "exit code 1"},
		"engine does not answer": {failed(guest.BootReady, "no answer", guest.BootRunning), engineUnready, "no answer"},

		// An agent that failed and then came further is judged by the latter.
		"broker came back": {boot(append(reached(guest.BootStarted), guest.BootLine{Stage: guest.BootBroker, Failed: true, Detail: "refused"},
			guest.BootLine{Stage: guest.BootBroker}, guest.BootLine{Stage: guest.BootLogin})...), agentSilent, `"login accepted"`},

		// Without stages: an agent in Python, or one on this machine.
		"started here": {func(s *signs) {
			s.console = `{"level":"INFO","msg":"agent started"}` + "\n" + `{"msg":"no broker","error":"connection refused"}`
		}, noBroker, "connection refused"},
		"connected, silent":  {func(s *signs) { s.console, s.bus.Connections = "x", &connected }, agentSilent, "on the bus"},
		"preparing for long": {func(s *signs) { s.service = trove.ServiceBuilding }, engineUnready, "still making the database ready"},
		"answers":            {func(s *signs) { s.answers = true }, engineUnready, "did not carry out prepare"},
	} {
		t.Run(name, func(t *testing.T) {
			s := signs{within: time.Minute, volume: true, service: trove.ServiceNew, bus: guest.Presence{Queue: true, Waiting: 1},
				view: cloud.View{Group: true, Server: &cloud.Server{ID: "s", Status: trove.ServerActive}, Volume: &cloud.Volume{ID: "v", Size: 1, Ready: true, Attached: true},
					Ports: []cloud.PortView{
						{Port: cloud.Port{ID: "m", Management: true, Addresses: []trove.Address{{Address: "10.0.0.9"}}}, Status: "ACTIVE", Groups: true},
						{Port: cloud.Port{ID: "u", Addresses: []trove.Address{{Address: "192.0.2.9"}}}, Status: "ACTIVE", Groups: true},
					}}}
			tc.set(&s)
			got := diagnose(s)
			if got.hop != tc.want || !strings.Contains(got.what, tc.says) || got.action == "" {
				t.Errorf("got  %s: %s (%s)\nwant %s: … %s …", got.hop, got.what, got.action, tc.want, tc.says)
			}
			if strings.Contains(s.String(), "0x") {
				t.Errorf("what was seen is told as an address: %s", s)
			}
		})
	}
}
