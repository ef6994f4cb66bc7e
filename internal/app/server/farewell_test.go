package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/lifecycle"
)

// A server that stops, under clients that come one after the other, drops none
// of their requests: each is answered, or there is nobody to hear it.
func TestFarewell(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	done := make(chan struct{})
	var clients sync.WaitGroup
	var mu sync.Mutex
	answered, nobody := 0, 0
	for range 8 {
		clients.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(time.Millisecond):
				}
				resp, err := client.Post("http://"+address, "text/plain", strings.NewReader("x"))
				mu.Lock()
				dial, ok := errors.AsType[*net.OpError](err)
				switch {
				case err == nil:
					answered++
				case ok && dial.Op == "dial", errors.Is(err, syscall.ECONNRESET): // not accepted
					nobody++
				default:
					t.Error(err)
				}
				mu.Unlock()
				if err == nil {
					resp.Body.Close()
				}
			}
		})
	}
	for range 8 {
		p := &process{log: slog.New(slog.DiscardHandler), group: lifecycle.New(t.Context(), slog.New(slog.DiscardHandler))}
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		heard := make(chan struct{}, 1)
		p.serve("http", l, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			select {
			case heard <- struct{}{}:
			default:
			}
			<-time.After(3 * time.Millisecond)
		}), nil)
		select {
		case <-heard:
		case <-time.After(time.Minute):
			t.Fatal("nobody asked")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if err := p.group.Stop(ctx); err != nil {
			t.Error(err)
		}
		cancel()
	}
	close(done)
	clients.Wait()
	if answered == 0 || nobody == 0 {
		t.Errorf("%d requests were answered, %d were not heard", answered, nobody)
	}
}
