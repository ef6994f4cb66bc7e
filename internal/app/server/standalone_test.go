package server

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// A client that announces a body and does not send it must not hold a
// connection for ever, whether the handler reads bodies or not.
func TestBodiesMustArrive(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(boundBodies(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
	}), 50*time.Millisecond))
	defer s.Close()
	for _, length := range []string{"Content-Length: 100", "Transfer-Encoding: chunked"} {
		c, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", length)
		if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("%s: %v", length, err)
		}
		if answer.Body.Close(); answer.StatusCode != http.StatusNoContent {
			t.Errorf("%s: %s", length, answer.Status)
		}
	}
}
