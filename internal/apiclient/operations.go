package apiclient

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/gotrove/gotrove/internal/trove"
)

// Operation is one piece of work on an instance.
type Operation struct {
	ID      string          `json:"id"`
	Kind    string          `json:"kind"`
	State   string          `json:"state"`
	Started timestamp       `json:"started"`
	Ended   *timestamp      `json:"ended"`
	Cause   string          `json:"cause"`
	Action  string          `json:"action"`
	Steps   []OperationStep `json:"steps"`
}

// OperationStep is one step of an operation.
type OperationStep struct {
	Name    string     `json:"name"`
	State   string     `json:"state"`
	Started timestamp  `json:"started"`
	Ended   *timestamp `json:"ended"`
	Message string     `json:"message"`
	Cause   string     `json:"cause"`
}

// Event is one change of an operation.
type Event struct {
	Sequence    int64  `json:"sequence"`
	OperationID string `json:"operation_id"`
	Kind        string `json:"kind"`
	Step        string `json:"step"`
	State       string `json:"state"`
	Message     string `json:"message"`
	Cause       string `json:"cause"`
	Action      string `json:"action"`
	Progress    *struct {
		Done  int64  `json:"done"`
		Total int64  `json:"total"`
		Unit  string `json:"unit"`
	} `json:"progress"`
}

// Operations lists what was and is done to an instance, newest first.
func (c *Client) Operations(ctx context.Context, id string) ([]Operation, error) {
	var r struct{ Operations []Operation }
	err := c.do(ctx, http.MethodGet, "instances/"+segment(id)+"/operations", nil, &r)
	return r.Operations, err
}

// Watch calls seen with every event of an instance after the one with the
// sequence after, as it happens, until seen returns false or ctx ends. It
// returns the sequence of the last event, from which a later call goes on, and
// a nil error if the server closed the stream. A server that has no events
// (Python's) answers KindNotFound.
func (c *Client) Watch(ctx context.Context, id string, after int64, seen func(Event) bool) (int64, error) {
	headers := map[string]string{"Accept": "text/event-stream"}
	if after > 0 {
		headers["Last-Event-ID"] = strconv.FormatInt(after, 10)
	}
	resp, err := c.db.Request(ctx, http.MethodGet, c.db.Endpoint+"instances/"+segment(id)+"/operations",
		&gophercloud.RequestOpts{MoreHeaders: headers, OkCodes: []int{http.StatusOK}, KeepResponseBody: true})
	if err != nil {
		return after, fault(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	var data strings.Builder
	for lines.Scan() {
		line := lines.Text()
		if d, ok := strings.CutPrefix(line, "data:"); ok {
			data.WriteString(strings.TrimPrefix(d, " "))
			continue
		}
		if line != "" || data.Len() == 0 {
			continue
		}
		var e Event
		err := json.Unmarshal([]byte(data.String()), &e)
		data.Reset()
		if err != nil {
			return after, &trove.Error{Kind: trove.KindInternal, Message: "The API sent an event that is not JSON.", Err: err}
		}
		after = e.Sequence
		if !seen(e) {
			return after, nil
		}
	}
	if ctx.Err() != nil {
		return after, ctx.Err()
	}
	return after, nil
}
