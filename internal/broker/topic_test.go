package broker

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// refMatch says what the wildcards mean, word by word, however slowly.
func refMatch(pattern, key []string) bool {
	if len(pattern) == 0 {
		return len(key) == 0
	}
	if pattern[0] == "#" {
		return refMatch(pattern[1:], key) || len(key) > 0 && refMatch(pattern, key[1:])
	}
	return len(key) > 0 && (pattern[0] == "*" || pattern[0] == key[0]) && refMatch(pattern[1:], key[1:])
}

func TestMatchTopic(t *testing.T) {
	word := rapid.SampledFrom([]string{"a", "b", ""})
	part := rapid.SampledFrom([]string{"a", "b", "", "*", "#"})
	rapid.Check(t, func(t *rapid.T) {
		p := topicWords(strings.Join(rapid.SliceOfN(part, 0, 7).Draw(t, "pattern"), "."))
		k := topicWords(strings.Join(rapid.SliceOfN(word, 0, 8).Draw(t, "key"), "."))
		if got, want := matchTopic(p, k), refMatch(p, k); got != want {
			t.Fatalf("%q on %q: %v", p, k, got)
		}
	})
}

// TestRoute compares routing with a walk over all bindings, while bindings
// come and go.
func TestRoute(t *testing.T) {
	keys := rapid.SampledFrom([]string{"", "a", "b", "a.b", "a.*", "#", "*", "a.#", "#.b", "a.b.c"})
	rapid.Check(t, func(t *rapid.T) {
		b := New(Options{})
		x := newExchange("x", rapid.SampledFrom([]string{kindDirect, kindTopic, kindFanout}).Draw(t, "kind"))
		b.exchanges["x"] = x
		var qs []*queue
		for _, name := range []string{"q0", "q1", "q2"} {
			q := &queue{b: b, name: name}
			b.queues[name] = q
			qs = append(qs, q)
		}
		for range rapid.IntRange(0, 20).Draw(t, "steps") {
			q, key := rapid.SampledFrom(qs).Draw(t, "queue"), keys.Draw(t, "key")
			if rapid.Bool().Draw(t, "bind") {
				b.bind(x, q, key)
			} else {
				b.unbind(binding{x, q, key})
			}
			sent := keys.Draw(t, "sent")
			got := map[*queue]bool{}
			for _, q := range b.route(x, sent, nil) {
				if got[q] {
					t.Fatal("routed twice to one queue")
				}
				got[q] = true
			}
			n := 0
			for _, q := range qs {
				n += len(q.bindings)
				want := false
				for bd := range q.bindings {
					switch x.kind {
					case kindFanout:
						want = true
					case kindDirect:
						want = want || bd.key == sent
					case kindTopic:
						want = want || refMatch(topicWords(bd.key), topicWords(sent))
					}
				}
				if want != got[q] {
					t.Fatalf("%s to %s with %q: %v, want %v", x.kind, q.name, sent, got[q], want)
				}
			}
			if n != x.bindings || n != b.bindings {
				t.Fatalf("%d bindings, counted %d and %d", n, x.bindings, b.bindings)
			}
		}
	})
}
