package amqp

import (
	"strings"

	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// Single is one host of a transport URL.
type Single struct {
	Name string        // network and address, for people
	URL  secret.String // a transport URL with this host only
}

// Each takes a transport URL apart by its hosts, in their order. A host without
// a login has the one before it.
func Each(transportURL string) ([]Single, error) {
	if _, err := parseURL(transportURL); err != nil {
		return nil, trove.Errorf(trove.KindBadRequest, "%w", err)
	}
	scheme, rest, _ := strings.Cut(transportURL, "://")
	rest, query, hasQuery := strings.Cut(rest, "?")
	hosts, path, hasPath := strings.Cut(rest, "/")
	tail := ""
	if hasPath {
		tail = "/" + path
	}
	if hasQuery {
		tail += "?" + query
	}
	all := []string{hosts}
	if !strings.HasSuffix(scheme, "+unix") {
		all = strings.Split(hosts, ",")
	}
	var out []Single
	login := ""
	for _, h := range all {
		own, _, ok := cutLast(h, "@")
		switch {
		case ok:
			login = own
		case login != "":
			h = login + "@" + h
		}
		one := scheme + "://" + h + tail
		t, err := parseURL(one)
		if err != nil {
			return nil, trove.Errorf(trove.KindBadRequest, "%w", err)
		}
		out = append(out, Single{Name: t.endpoints[0].String(), URL: secret.New(one)})
	}
	return out, nil
}
