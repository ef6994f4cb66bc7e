package flow

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
)

// hop is a place on the way from a request to a database that serves, where a
// creation can get stuck. Its text begins the fault.
type hop string

const (
	noPort        hop = "No port"
	noAddress     hop = "No address"
	noVolume      hop = "No volume"
	noServer      hop = "No server"
	serverFailed  hop = "Server failed"
	noAgent       hop = "Image lacks the agent"
	agentDown     hop = "Agent not started"
	noBroker      hop = "Broker unreachable"
	loginRefused  hop = "Login refused"
	agentSilent   hop = "Agent silent"
	noContainer   hop = "Container failed"
	engineUnready hop = "Database not ready"
	unknownHop    hop = "Not known"
)

// signs are what is seen of an instance that did not come up, from both sides.
type signs struct {
	within  time.Duration // how long it was waited for
	view    cloud.View
	unseen  error // what the cloud could not be asked for
	volume  bool  // it was to have one
	console string
	bus     guest.Presence
	busErr  error
	answers bool // the agent answers a ping
	service trove.ServiceStatus
}

// finding is the broken hop, in words, and what to do about it.
type finding struct {
	hop           hop
	what          string
	action        string
	notTheServers bool // it is our side that is to be looked at
}

// diagnose names the broken hop. The agent's own word counts more than what the
// cloud shows, and that more than what can only be guessed.
func diagnose(s signs) finding {
	lines := guest.ParseBoot(s.console)
	boot, broken := diagnoseBoot(lines)
	if f, ok := diagnoseSpoken(s); ok {
		if broken {
			return boot
		}
		return f
	}
	if f, ok := diagnoseServer(s); ok {
		return f
	}
	if broken {
		return boot
	}
	if f, ok := diagnoseCloud(s); ok {
		return f
	}
	if len(lines) > 0 {
		return diagnoseReached(lines[len(lines)-1].Stage, s)
	}
	return diagnoseConsole(s)
}

// diagnoseSpoken is about an agent that is heard.
func diagnoseSpoken(s signs) (finding, bool) {
	switch {
	case !slices.Contains([]trove.ServiceStatus{{}, trove.ServiceNew, trove.ServiceUnknown, trove.ServiceDeleted}, s.service):
		return finding{hop: engineUnready, what: fmt.Sprintf("the guest agent was still making the database ready after %s (%s).%s", s.within, s.service.Description, wrote(s.console)),
			action: "If the machine is slow, raise usage_timeout; else look at the agent's log."}, true
	case s.answers:
		return finding{hop: engineUnready, what: fmt.Sprintf("the guest agent answers, but did not carry out prepare within %s.%s", s.within, wrote(s.console)),
			action: "Look at the agent's log."}, true
	}
	return finding{}, false
}

func diagnoseServer(s signs) (finding, bool) {
	v := s.view
	switch {
	case v.Server == nil && s.unseen != nil:
		return finding{hop: unknownHop, what: fmt.Sprintf("the database was not ready within %s, and the cloud cannot be asked: %v", s.within, s.unseen),
			action: "Look at the cloud's own services first.", notTheServers: true}, true
	case v.Server == nil:
		return finding{hop: noServer, what: fmt.Sprintf("the cloud has no server of the instance after %s.", s.within),
			action: "Look at the cloud's log: somebody deleted it, or it was never made."}, true
	case v.Server.Status != trove.ServerActive:
		h := noServer
		why := "."
		if v.Server.Status == trove.ServerError {
			h = serverFailed
		}
		if v.Server.Fault != "" {
			why = ": " + v.Server.Fault
		}
		return finding{hop: h, what: fmt.Sprintf("the server was %s, not ACTIVE, after %s: the guest agent never started%s", v.Server.Status, s.within, why),
			action: "Look at the cloud's log for server " + v.Server.ID + "."}, true
	}
	return finding{}, false
}

// diagnoseBoot is about what an agent said on its console that it could not do.
func diagnoseBoot(lines []guest.BootLine) (finding, bool) {
	if len(lines) == 0 || !lines[len(lines)-1].Failed {
		return finding{}, false
	}
	l := lines[len(lines)-1]
	f := finding{what: "the guest agent says: " + l.Detail}
	switch l.Stage {
	case guest.BootFiles, guest.BootStarted, guest.BootConfig:
		f.hop, f.action = agentDown, "Look at guest_config and at the image's agent: its configuration is not what it needs."
	case guest.BootFound, guest.BootFormatted, guest.BootMounted:
		f.hop, f.action = noVolume, "Look at the volume and whether it is attached to the server."
	case guest.BootCard:
		f.hop, f.action = noPort, "Look whether the server has the user's port: openstack port list --server SERVER."
	case guest.BootBroker, guest.BootHeartbeat:
		f.hop = noBroker
		f.action = "Look whether the management network leads to the broker: transport_url, routes, the security groups of the management port, and a firewall before the broker."
	case guest.BootLogin:
		f.hop = loginRefused
		f.action = "Look at the broker's log. trove-manage doctor looks whether logins of guests can be made; an image that was used before may hold an old one."
	case guest.BootRuntime, guest.BootImage, guest.BootRunning:
		f.hop, f.action = noContainer, "Look at the image of the engine and its registry, and at Docker in the guest image."
	case guest.BootReady:
		f.hop, f.action = engineUnready, "Look at the engine's log, the end of which is below."
	default:
		f.hop, f.action = agentSilent, "Look at the console's log."
	}
	return f, true
}

// diagnoseCloud is about what the cloud shows beside the server.
func diagnoseCloud(s signs) (finding, bool) {
	v := s.view
	switch {
	case len(v.Ports) == 0 && s.unseen == nil:
		return finding{hop: noPort, what: fmt.Sprintf("the instance has no port after %s.", s.within), action: "Look at the network service: somebody deleted it."}, true
	case s.volume && s.unseen == nil && (v.Volume == nil || !v.Volume.Attached):
		return finding{hop: noVolume, what: fmt.Sprintf("no volume is attached to the server after %s.", s.within), action: "Look at the volume service's log, and at that of the compute node."}, true
	case v.Volume != nil && v.Volume.Fault != "":
		return finding{hop: noVolume, what: "the volume failed: " + v.Volume.Fault, action: "Look at the volume service's log for volume " + v.Volume.ID + "."}, true
	}
	for _, p := range v.Ports {
		name := "port " + p.ID
		if p.Management {
			name = "management port " + p.ID
		}
		switch {
		case len(p.Addresses) == 0:
			return finding{hop: noAddress, what: name + " has no address.", action: "Look whether its network has a subnet with free addresses."}, true
		case p.Status == "DOWN" || p.Status == "ERROR" || p.Status == "BUILD":
			return finding{hop: noPort, what: fmt.Sprintf("%s is %s, not ACTIVE: it was not connected.", name, p.Status),
				action: "Look at the network agent's log on the compute node of the server."}, true
		}
	}
	return finding{}, false
}

// diagnoseReached is about an agent that came to a stage and said nothing after
// it.
func diagnoseReached(stage guest.BootStage, s signs) finding {
	after := fmt.Sprintf("the guest agent came to %q and said nothing for the rest of %s.", stage, s.within)
	if s.bus.Listens() {
		return finding{hop: agentSilent, what: "the guest agent is on the bus, but no heartbeat of it arrived in " + s.within.String() + ".",
			action: "Look whether a trove-conductor runs and what it logs, and at the agent's log.", notTheServers: true}
	}
	switch stage {
	case guest.BootFiles:
		return finding{hop: agentDown, what: after, action: "Look at the console's log for why its service does not start."}
	case guest.BootBroker:
		return finding{hop: loginRefused, what: after, action: "Look at the broker's log for the login " + guest.Login("INSTANCE", 0) + "."}
	case guest.BootLogin, guest.BootHeartbeat, guest.BootRuntime, guest.BootImage, guest.BootRunning, guest.BootReady:
		return finding{hop: agentSilent, what: after, action: "Look whether a trove-conductor runs and what it logs, and whether the server still runs.", notTheServers: true}
	}
	return finding{hop: noBroker, what: after + closed(s.view),
		action: "Look whether the management network leads to the broker: transport_url, routes, the security groups of the management port, and a firewall before the broker."}
}

// diagnoseConsole is about a server of which no agent of ours has told its
// stages: one on this machine, one in Python, or none.
func diagnoseConsole(s signs) finding {
	text := strings.TrimSpace(s.console)
	started := strings.Contains(text, agentStarted)
	switch {
	case s.bus.Listens():
		return finding{hop: agentSilent, what: fmt.Sprintf("the guest agent is on the bus, but was silent for %s.%s", s.within, wrote(text)),
			action: "Look whether a trove-conductor runs and what it logs, and at the agent's log.", notTheServers: true}
	case started:
		return finding{hop: noBroker, what: fmt.Sprintf("the server runs, and its guest agent started, but was silent for %s and is not on the bus.%s%s", s.within, closed(s.view), wrote(text)),
			action: "Look whether the server reaches the broker: transport_url, routes, security groups; and at the agent's log."}
	case text == "":
		return finding{hop: agentDown, what: fmt.Sprintf("the server runs, but no guest agent spoke within %s and its console is empty.", s.within),
			action: "Look whether the image boots and holds the agent, and whether the cloud keeps the console's log."}
	case strings.Contains(text, agentName):
		return finding{hop: agentDown, what: fmt.Sprintf("the server runs, but its guest agent was silent for %s.%s", s.within, wrote(text)),
			action: "Look at the agent's log, and whether the server reaches the message bus."}
	}
	return finding{hop: noAgent, what: fmt.Sprintf("the server runs, but nothing of a guest agent is on its console after %s.%s", s.within, wrote(text)),
		action: "Look whether the image holds trove-guestagent and starts it, and whether cloud-init runs in it."}
}

// What an agent writes where there is no console of a server: its log.
const (
	agentName    = "trove-guestagent"
	agentStarted = `"msg":"agent started"`
)

// closed says that nothing gets in or out, if that is so.
func closed(v cloud.View) string {
	for _, p := range v.Ports {
		if !p.Groups {
			return fmt.Sprintf(" No security group of port %s lets anything through.", p.ID)
		}
	}
	return ""
}

// wrote is the last line of a console, as a sentence.
func wrote(console string) string {
	if last := lastLine(console); last != "" {
		return " It last wrote: " + last
	}
	return ""
}

// String is what was seen, for people who look further.
func (s signs) String() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	if v := s.view.Server; v != nil {
		line("server %s: %s %s", v.ID, v.Status, v.Fault)
	} else {
		line("server: none")
	}
	for _, p := range s.view.Ports {
		kind := "port"
		if p.Management {
			kind = "management port"
		}
		var all []string
		for _, a := range p.Addresses {
			all = append(all, a.Address)
		}
		line("%s %s on network %s: %s, addresses %s, security groups %v", kind, p.ID, p.Network, p.Status, strings.Join(all, " "), p.Groups)
	}
	if v := s.view.Volume; v != nil {
		line("volume %s: %d GiB, attached %v %s", v.ID, v.Size, v.Attached, v.Fault)
	}
	for _, r := range s.view.Open {
		line("open: ports %d to %d from %s", r.FirstPort, r.LastPort, strings.Join(r.CIDRs, " "))
	}
	if s.unseen != nil {
		line("not seen of the cloud: %v", s.unseen)
	}
	switch {
	case s.busErr != nil:
		line("message bus: not seen: %v", s.busErr)
	case !s.bus.Queue:
		line("message bus: the agent has no queue")
	default:
		line("message bus: %d consumers of the agent's queue, %d messages wait", s.bus.Consumers, s.bus.Waiting)
	}
	if s.bus.Connections != nil {
		line("connections of the agent's login: %d", *s.bus.Connections)
	}
	line("the agent answers: %v; its last status: %s", s.answers, s.service.Description)
	return b.String()
}
