package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// load is what a generator of requests counted.
type load struct {
	requests int
	took     time.Duration
	times    []float64 // of each, in ms, sorted
}

func (l load) rate() float64 { return float64(l.requests) / l.took.Seconds() }

func (l load) percentile(p float64) float64 {
	return l.times[min(len(l.times)-1, int(p*float64(len(l.times))))]
}

// press sends requests over so many connections, each the next when the last
// is answered, until enough are answered or the time is over. request gives the
// n-th; each answer must have status 200. It does little itself: neither
// headers nor JSON are parsed beyond what framing needs, so that on the same
// cores it takes little from what it measures.
func press(ctx context.Context, base string, connections, requests int, most time.Duration, request func(n int) []byte) (load, error) {
	u, err := url.Parse(base)
	if err != nil {
		return load{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	var (
		mu   sync.Mutex
		next int
		l    load
		errs error
		wg   sync.WaitGroup
	)
	take := func() (int, bool) {
		mu.Lock()
		defer mu.Unlock()
		if next >= requests || ctx.Err() != nil || errs != nil {
			return 0, false
		}
		next++
		return next - 1, true
	}
	began := time.Now()
	for range connections {
		wg.Go(func() {
			times, err := pressOne(u.Host, take, request)
			mu.Lock()
			defer mu.Unlock()
			l.times, errs = append(l.times, times...), errors.Join(errs, err)
		})
	}
	wg.Wait()
	l.took, l.requests = time.Since(began), len(l.times)
	slices.Sort(l.times)
	if errs == nil && l.requests == 0 {
		errs = errors.New("no request was answered")
	}
	return l, errs
}

// answerWait bounds one answer.
const answerWait = 30 * time.Second

func pressOne(host string, take func() (int, bool), request func(n int) []byte) (times []float64, err error) {
	c, err := net.Dial("tcp", host)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	in := bufio.NewReaderSize(c, 64<<10)
	for {
		n, more := take()
		if !more {
			return times, nil
		}
		if err := c.SetDeadline(time.Now().Add(answerWait)); err != nil {
			return times, err
		}
		began := time.Now()
		if _, err := c.Write(request(n)); err != nil {
			return times, err
		}
		if err := readAnswer(in); err != nil {
			return times, err
		}
		times = append(times, time.Since(began).Seconds()*1000)
	}
}

// readAnswer reads one answer to its end.
func readAnswer(in *bufio.Reader) error {
	status, length, chunked := "", 0, false
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		text := strings.TrimSpace(string(line))
		if text == "" {
			break
		}
		if status == "" {
			status = text
		}
		name, value, _ := strings.Cut(text, ":")
		switch {
		case strings.EqualFold(name, "Content-Length"):
			if length, err = strconv.Atoi(strings.TrimSpace(value)); err != nil {
				return err
			}
		case strings.EqualFold(name, "Transfer-Encoding"):
			chunked = true
		}
	}
	if !strings.HasPrefix(status, "HTTP/1.1 20") {
		body := make([]byte, min(length, 500))
		_, _ = io.ReadFull(in, body)
		return fmt.Errorf("%s: %s", status, body)
	}
	for chunked {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		size, err := strconv.ParseInt(strings.TrimSpace(line), 16, 64)
		if err != nil {
			return err
		}
		if _, err := in.Discard(int(size) + 2); err != nil {
			return err
		}
		chunked = size > 0
	}
	_, err := in.Discard(length)
	return err
}

// requestText is a request as it goes over the wire.
func requestText(method, base, path, token, body string) []byte {
	u, _ := url.Parse(base) // made by us
	text := method + " " + path + " HTTP/1.1\r\nHost: " + u.Host + "\r\nX-Auth-Token: " + token + "\r\nAccept: application/json\r\n"
	if body != "" {
		text += "Content-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n"
	}
	return []byte(text + "\r\n" + body)
}
