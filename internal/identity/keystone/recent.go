package keystone

import "container/list"

// recent is a map of bounded cost that forgets what was used least recently.
type recent[V any] struct {
	limit, cost int
	order       *list.List // of *item[V], the most recent first
	items       map[key]*list.Element
}

type item[V any] struct {
	key   key
	value V
	cost  int
}

func newRecent[V any](limit int) *recent[V] {
	return &recent[V]{limit: limit, order: list.New(), items: map[key]*list.Element{}}
}

func (r *recent[V]) len() int { return len(r.items) }

func (r *recent[V]) get(k key) (v V, ok bool) {
	e, ok := r.items[k]
	if !ok {
		return v, false
	}
	r.order.MoveToFront(e)
	return e.Value.(*item[V]).value, true
}

func (r *recent[V]) put(k key, v V, cost int) {
	r.remove(k)
	if cost > r.limit {
		return
	}
	r.items[k] = r.order.PushFront(&item[V]{k, v, cost})
	for r.cost += cost; r.cost > r.limit; {
		r.remove(r.order.Back().Value.(*item[V]).key)
	}
}

func (r *recent[V]) remove(k key) {
	if e, ok := r.items[k]; ok {
		r.cost -= r.order.Remove(e).(*item[V]).cost
		delete(r.items, k)
	}
}
