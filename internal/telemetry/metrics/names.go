package metrics

import (
	"sync"
	"sync/atomic"
)

// maxNames is more than there are remote procedures.
const maxNames = 200

// names bounds the values of a label that the sender of a message chooses: those
// seen first are kept, the others are "other". What is not understood at all
// must not get here under its own name.
type names struct {
	seen  sync.Map // of string to itself
	count atomic.Int64
}

func (n *names) bounded(name string) string {
	if _, ok := n.seen.Load(name); ok {
		return name
	}
	if n.count.Load() >= maxNames || len(name) > 64 {
		return "other"
	}
	if _, loaded := n.seen.LoadOrStore(name, nil); !loaded {
		n.count.Add(1)
	}
	return name
}
