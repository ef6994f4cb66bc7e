// Package keyring holds the keys that messages on the bus and secrets in the
// database are sealed with, and the rules about who must use which: what API and
// task manager share, one key for each instance, and the master key that those
// are encrypted under in instances.encrypted_key, as the original does it.
//
// Ring is the control plane's, Agent a guest agent's, AtRest what the store
// seals with. The package does not know how sealing works (rpc/seal), nor where
// configuration or rows come from. It never logs a key.
package keyring

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/seal"
	"github.com/gotrove/gotrove/internal/rpc/wire"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// What the original has as defaults. Everybody knows them.
const (
	PublicTaskManagerKey = "bzH6y0SGmjuoY0FNSTptrhgieGXNDX6PIhvz"
	PublicMasterKey      = "emYjgHFqfXNB1NGehAFIUeoyw4V4XwWHEaKP"
)

const (
	// maxCached bounds the instances whose keys are kept ready: one takes about
	// 2 KiB.
	maxCached = 16384
	// fresh is how long a key is used without looking whether it was replaced.
	fresh = time.Minute
	// lateFor is how long a replaced key still opens what was on its way.
	lateFor = time.Minute
)

// Store is where the keys of instances are, encrypted.
type Store interface {
	// InstanceKeys gives the key of a live instance and the one that is to
	// replace it, each empty if there is none; KindNotFound if there is no such
	// instance.
	InstanceKeys(ctx context.Context, instanceID string) (current, pending string, err error)
}

// Config says what keys there are. The first of a list seals and encrypts; the
// others are accepted beside it, while a key is being replaced.
type Config struct {
	// TaskManager is what messages to the task manager are sealed with; none if
	// they travel in clear.
	TaskManager      []secret.String
	TaskManagerTopic string
	// Master is what the keys of instances are encrypted under.
	Master []secret.String
	// NewKeys is whether new instances get a key, NewForm of which way it is.
	NewKeys bool
	NewForm seal.Form
}

// Ring are the keys of the control plane. It is safe for concurrent use.
type Ring struct {
	config  Config
	tasks   []*seal.Key
	masters []*secret.CBC
	store   Store
	log     *slog.Logger
	clock   func() time.Time

	mu    sync.RWMutex
	cache map[string]*entry // by instance id
}

// entry are the keys of one instance, never changed once it is in the cache.
type entry struct {
	current, pending *seal.Key // nil: none
	texts            [2]string // of them, as stored
	late             *seal.Key // the one before
	lateUntil        time.Time
	loaded           time.Time
}

// New makes a ring on what s keeps; clock is time.Now if nil.
func New(c Config, s Store, log *slog.Logger, clock func() time.Time) (*Ring, error) {
	r := &Ring{config: c, store: s, log: log, clock: clock, cache: map[string]*entry{}}
	if r.clock == nil {
		r.clock = time.Now
	}
	var err error
	if r.tasks, err = keys(c.TaskManager); err != nil {
		return nil, err
	}
	for _, m := range c.Master {
		r.masters = append(r.masters, secret.NewCBC(m))
	}
	if c.NewKeys && (len(r.masters) == 0 || c.NewForm == seal.Plain) {
		return nil, errors.New("keyring: keys for new instances need a master key and a form")
	}
	return r, nil
}

func keys(texts []secret.String) ([]*seal.Key, error) {
	var out []*seal.Key
	for _, t := range texts {
		k, err := seal.NewKey(t)
		if err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	return out, nil
}

// MakeKey makes the key of a new instance and gives it as
// instances.encrypted_key holds it; empty if instances get no keys.
func (r *Ring) MakeKey() string {
	if !r.config.NewKeys {
		return ""
	}
	return r.encrypt(seal.MakeKey(r.config.NewForm))
}

func (r *Ring) encrypt(key secret.String) string {
	return string(r.masters[0].Encrypt([]byte(key.Reveal())))
}

// NewKey makes a key that is to replace an instance's, encrypted; empty if the
// instance has none and is to have none.
func (r *Ring) NewKey(ctx context.Context, instanceID string) (string, error) {
	must, err := r.config.NewKeys, error(nil)
	if !must {
		must, err = r.HasKey(ctx, instanceID)
	}
	if err != nil || !must {
		return "", err
	}
	return r.encrypt(seal.MakeKey(r.config.NewForm)), nil
}

// OpenKey gives in clear what NewKey or MakeKey gave; nothing for nothing.
func (r *Ring) OpenKey(_ context.Context, instanceID, encrypted string) (string, error) {
	if encrypted == "" {
		return "", nil
	}
	text, _, err := r.decrypt(encrypted)
	if err != nil {
		return "", badKey(instanceID)
	}
	return text.Reveal(), nil
}

// badKey is the error for a key that no master key opens.
func badKey(instanceID string) error {
	return trove.Errorf(trove.KindInternal, "the RPC key of instance %s cannot be decrypted", instanceID).
		WithAction("set inst_rpc_key_encr_key to the key it was encrypted under, or [gotrove] second_inst_rpc_key_encr_key beside a new one")
}

// decrypt tells also which master key opened it, 0 for the newest.
func (r *Ring) decrypt(encrypted string) (secret.String, int, error) {
	for i, m := range r.masters {
		if plain, err := m.Decrypt([]byte(encrypted)); err == nil && looksLikeKey(plain) {
			return secret.New(string(plain)), i, nil
		}
	}
	return secret.String{}, 0, secret.ErrOpen
}

// looksLikeKey tells a key from what a wrong master key makes of one.
func looksLikeKey(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return len(b) >= 16
}

// Forget drops what is cached of an instance whose keys changed.
func (r *Ring) Forget(instanceID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.cache, instanceID)
}

// HasKey tells whether an instance's messages must be sealed.
func (r *Ring) HasKey(ctx context.Context, instanceID string) (bool, error) {
	e, _, err := r.of(ctx, instanceID)
	return err == nil && e.current != nil, err
}

// of gives the keys of an instance; cached is whether they may be outdated.
func (r *Ring) of(ctx context.Context, instanceID string) (e *entry, cached bool, err error) {
	r.mu.RLock()
	e = r.cache[instanceID]
	r.mu.RUnlock()
	if e != nil {
		// A clock may be set back.
		if age := r.clock().Sub(e.loaded); 0 <= age && age < fresh {
			return e, true, nil
		}
	}
	e, err = r.load(ctx, instanceID)
	return e, false, err
}

func (r *Ring) load(ctx context.Context, instanceID string) (*entry, error) {
	e := &entry{loaded: r.clock()}
	var err error
	if e.texts[0], e.texts[1], err = r.store.InstanceKeys(ctx, instanceID); err != nil {
		r.Forget(instanceID)
		return nil, err
	}
	r.mu.RLock()
	before := r.cache[instanceID]
	r.mu.RUnlock()
	if before != nil && before.texts == e.texts {
		renewed := *before
		renewed.loaded = e.loaded
		e = &renewed
	} else if err := r.ready(e, instanceID, before); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.cache {
		if len(r.cache) < maxCached {
			break
		}
		delete(r.cache, id) // any: the order of a map is as good as another
	}
	r.cache[instanceID] = e
	return e, nil
}

// ready makes keys of an entry's texts. before is what was known until now.
func (r *Ring) ready(e *entry, instanceID string, before *entry) error {
	for i, into := range []**seal.Key{&e.current, &e.pending} {
		if e.texts[i] == "" {
			continue
		}
		text, _, err := r.decrypt(e.texts[i])
		if err == nil {
			*into, err = seal.NewKey(text)
		}
		if err != nil {
			return badKey(instanceID)
		}
	}
	// Re-encrypted, a key is another text but the same key: then late is one
	// too many for a minute, which costs nothing.
	if before != nil && before.current != nil && before.texts[0] != e.texts[0] {
		e.late, e.lateUntil = before.current, e.loaded.Add(lateFor)
	}
	return nil
}

// openers are the keys that what an agent sent may be sealed with.
func (e *entry) openers(now time.Time) []*seal.Key {
	all := [3]*seal.Key{e.current, e.pending}
	if left := e.lateUntil.Sub(now); 0 < left && left <= lateFor {
		all[2] = e.late
	}
	out := all[:0]
	for _, k := range all {
		if k != nil {
			out = append(out, k)
		}
	}
	return out
}

// SealRequest implements rpc.Sealer for the services of the control plane: to
// the task manager with the key they share, to an agent with its instance's.
// What there is no key for goes in clear, which is what such a receiver expects.
func (r *Ring) SealRequest(ctx context.Context, topic string, q *wire.Request) (rpc.ReplyCodec, error) {
	if topic == r.config.TaskManagerTopic {
		if len(r.tasks) == 0 {
			return nil, nil
		}
		return r.tasks[0].SealRequest(seal.ToTaskManager, "", q)
	}
	id, ok := strings.CutPrefix(topic, guest.Topic(""))
	if !ok {
		return nil, nil
	}
	e, _, err := r.of(ctx, id)
	if err != nil || e.current == nil {
		return nil, err
	}
	return e.current.SealRequest(seal.ToGuest, id, q)
}

// TaskManager opens what the task manager gets.
func (r *Ring) TaskManager() rpc.Opener { return opener(r.openTask) }

// Conductor opens what the conductor gets. What is in clear it lets pass as
// such: whether that may be is decided by who it speaks for.
func (r *Ring) Conductor() rpc.Opener { return opener(r.openReport) }

type opener func(ctx context.Context, sender string, q *wire.Request) (rpc.Opened, error)

func (f opener) OpenRequest(ctx context.Context, sender string, q *wire.Request) (rpc.Opened, error) {
	return f(ctx, sender, q)
}

// errNoKey is for what is sealed where nothing should be.
var errNoKey = errors.New("it is sealed, but its receiver has no key for its sender")

func (r *Ring) openTask(_ context.Context, _ string, q *wire.Request) (rpc.Opened, error) {
	return openWith(r.tasks, seal.ToTaskManager, "", q)
}

// openWith opens a request where everyone seals, or nobody does.
func openWith(keys []*seal.Key, road seal.Road, instance string, q *wire.Request) (rpc.Opened, error) {
	if len(keys) == 0 {
		if seal.FormOf(q) != seal.Plain {
			return rpc.Opened{}, errNoKey
		}
		return rpc.Opened{}, nil
	}
	_, reply, err := seal.OpenRequest(keys, road, instance, q)
	if err != nil {
		return rpc.Opened{}, err
	}
	return rpc.Opened{Sealed: true, Instance: instance, Reply: reply}, nil
}

func (r *Ring) openReport(ctx context.Context, _ string, q *wire.Request) (rpc.Opened, error) {
	if seal.FormOf(q) == seal.Plain {
		return rpc.Opened{}, nil
	}
	id := seal.Claimed(q)
	if id == "" {
		return rpc.Opened{}, seal.ErrForm
	}
	e, cached, err := r.of(ctx, id)
	for {
		if err != nil {
			return rpc.Opened{}, err
		}
		if e.current == nil && !cached {
			return rpc.Opened{}, errNoKey
		}
		key, _, openErr := seal.OpenRequest(e.openers(r.clock()), seal.ToConductor, id, q)
		if openErr == nil {
			return rpc.Opened{Sealed: true, Instance: id, Next: key == e.pending}, nil
		}
		if !cached {
			return rpc.Opened{}, openErr
		}
		// The key may have been replaced a moment ago, by another process.
		e, err = r.load(ctx, id)
		cached = false
	}
}
