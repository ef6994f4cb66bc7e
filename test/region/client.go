package region

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"time"

	"github.com/gotrove/gotrove/internal/identity/keystonetest"
)

// Client talks to an API as a project's user.
type Client struct {
	r       *Region
	Project string // its id
	user    string
	name    string // of the project

	mu    sync.Mutex
	token string
}

// Client makes a client of a user in a project that Keystone knows.
func (r *Region) Client(user, project string) *Client {
	r.TB.Helper()
	c := &Client{r: r, user: user, name: project}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	var err error
	if c.Project, err = r.Keystone.ProjectID(ctx, project); err == nil {
		_, err = c.login(ctx)
	}
	if err != nil {
		r.TB.Fatal(err)
	}
	return c
}

// Demo is a client of the ordinary user.
func (r *Region) Demo() *Client { return r.Client(keystonetest.DemoName, keystonetest.DemoProject) }

// Admin is a client of the administrator.
func (r *Region) Admin() *Client { return r.Client(keystonetest.AdminName, "admin") }

func (c *Client) login(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token != "" {
		return c.token, nil
	}
	var err error
	c.token, err = c.r.Keystone.Login(ctx, c.user, keystonetest.Password, keystonetest.Project(c.name))
	return c.token, err
}

// NewToken logs in again: no API has seen the token yet.
func (c *Client) NewToken() {
	c.r.TB.Helper()
	c.mu.Lock()
	c.token = ""
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	if _, err := c.login(ctx); err != nil {
		c.r.TB.Fatal(err)
	}
}

// Answer is what an API said.
type Answer struct {
	Code int
	Body []byte
}

// Into decodes the answer.
func (a Answer) Into(v any) error { return json.Unmarshal(a.Body, v) }

// String gives code and body.
func (a Answer) String() string { return fmt.Sprintf("%d %s", a.Code, a.Body) }

// requestWait bounds one request.
const requestWait = 30 * time.Second

// Do makes a request below the project of an API. An error means that there was
// no answer.
func (c *Client) Do(s *Service, method, path string, body any) (Answer, error) {
	a, _, err := c.Try(s, method, path, body)
	return a, err
}

// Try is Do. It tells too whether the connection was a fresh one: then a reset
// before any answer means that nobody had accepted it.
func (c *Client) Try(s *Service, method, path string, body any) (a Answer, fresh bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), requestWait)
	defer cancel()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { fresh = !i.Reused },
	})
	a, err = c.do(ctx, s, method, path, body)
	return a, fresh, err
}

func (c *Client) do(ctx context.Context, s *Service, method, path string, body any) (Answer, error) {
	token, err := c.login(ctx)
	if err != nil {
		return Answer{}, err
	}
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return Answer{}, err
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.URL+"/v1.0/"+c.Project+"/"+strings.TrimPrefix(path, "/"), in)
	if err != nil {
		return Answer{}, err
	}
	req.Header.Set("X-Auth-Token", token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	return Answer{resp.StatusCode, out}, err
}

// Want is Do whose answer must have a code; it is decoded into v unless that is
// nil.
func (c *Client) Want(s *Service, code int, method, path string, body, v any) {
	c.r.TB.Helper()
	a, err := c.Do(s, method, path, body)
	if err == nil && a.Code != code {
		err = fmt.Errorf("%d, not %d: %s", a.Code, code, a.Body)
	}
	if err == nil && v != nil {
		err = a.Into(v)
	}
	if err != nil {
		c.r.TB.Fatalf("%s %s: %v", method, path, err)
	}
}

// Instance is what tests look at of an instance.
type Instance struct {
	ID, Name, Status string
	Operating        string   `json:"operating_status"`
	IP               []string `json:"ip"`
	Fault            *struct{ Message, Details string }
}

// NewInstance is the body of a creation.
func NewInstance(name, datastore string) map[string]any {
	return map[string]any{"instance": map[string]any{"name": name, "flavorRef": "1", "volume": map[string]any{"size": 1},
		"datastore": map[string]any{"type": datastore}}}
}

// Create asks for an instance and gives its id.
func (c *Client) Create(s *Service, name, datastore string) string {
	c.r.TB.Helper()
	var made struct{ Instance Instance }
	c.Want(s, http.StatusOK, "POST", "instances", NewInstance(name, datastore), &made)
	return made.Instance.ID
}

// AwaitActive waits until an instance is ACTIVE and HEALTHY.
func (c *Client) AwaitActive(s *Service, id string) Instance {
	c.r.TB.Helper()
	var got struct{ Instance Instance }
	Must(c.r.TB, func() error {
		a, err := c.Do(s, "GET", "instances/"+id, nil)
		if err != nil {
			return err
		}
		if a.Code != http.StatusOK {
			return fmt.Errorf("show of %s: %d: %s", id, a.Code, a.Body)
		}
		if err := a.Into(&got); err != nil {
			return err
		}
		if got.Instance.Status != "ACTIVE" || got.Instance.Operating != "HEALTHY" {
			return fmt.Errorf("instance %s is %s, %s: %v", id, got.Instance.Status, got.Instance.Operating, got.Instance.Fault)
		}
		return nil
	})
	return got.Instance
}

// AwaitGone waits until an instance is deleted.
func (c *Client) AwaitGone(s *Service, id string) {
	c.r.TB.Helper()
	Must(c.r.TB, func() error {
		a, err := c.Do(s, "GET", "instances/"+id, nil)
		if err == nil && a.Code != http.StatusNotFound {
			err = fmt.Errorf("instance %s is still there: %d: %s", id, a.Code, a.Body)
		}
		return err
	})
}
