package guest

// Presence is what a message bus shows of an instance's agent.
type Presence struct {
	Queue     bool // the agent's queue is there
	Consumers int  // who reads it: one, if the agent is there
	Waiting   int  // messages that nobody has taken
	// Connections of the agent's logins; nil: the bus does not tell.
	Connections *int
}

// Listens reports whether the agent has come to the bus.
func (p Presence) Listens() bool {
	return p.Consumers > 0 || p.Connections != nil && *p.Connections > 0
}
