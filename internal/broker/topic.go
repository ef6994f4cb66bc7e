package broker

import "strings"

// pattern is a binding key with wildcards, split into words.
type pattern struct {
	words []string
	q     *queue
	key   string
}

// wild reports whether a topic binding key has a wildcard word.
func wild(key string) bool {
	for w := range strings.SplitSeq(key, ".") {
		if w == "*" || w == "#" {
			return true
		}
	}
	return false
}

// matchTopic reports whether a key, as words, matches a pattern: * is exactly
// one word, # any number of words. It goes back only to the last #, so its time
// is bounded by the product of both lengths whatever a client binds.
func matchTopic(pattern, key []string) bool {
	p, k := 0, 0
	hash, resume := -1, 0
	for k < len(key) {
		switch {
		case p < len(pattern) && pattern[p] == "#":
			hash, resume = p, k
			p++
		case p < len(pattern) && (pattern[p] == "*" || pattern[p] == key[k]):
			p++
			k++
		case hash >= 0:
			resume++
			p, k = hash+1, resume
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == "#" {
		p++
	}
	return p == len(pattern)
}

// topicWords splits a key as RabbitMQ does: the empty key has no word.
func topicWords(key string) []string {
	if key == "" {
		return nil
	}
	return strings.Split(key, ".")
}
