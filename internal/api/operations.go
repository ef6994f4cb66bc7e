package api

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/api/view"
	"github.com/gotrove/gotrove/internal/trove"
)

// watchOperations lists what was and is done to an instance, newest first, or
// streams each change to who asks for events.
func (s *Server) watchOperations(q *request) (response, error) {
	if wantsEvents(q.Header.Get("Accept")) {
		return s.streamOperations(q)
	}
	p, err := q.page()
	if err != nil {
		return response{}, err
	}
	list, err := s.store.Operations(q.Context(), q.instance.ID, p.limit)
	if err != nil {
		return response{}, err
	}
	return ok(map[string]any{"operations": q.viewer().Operations(list)})
}

func wantsEvents(accept string) bool {
	for part := range strings.SplitSeq(accept, ",") {
		media, _, _ := strings.Cut(part, ";")
		if strings.TrimSpace(media) == "text/event-stream" {
			return true
		}
	}
	return false
}

const (
	eventBatch    = 100
	streamTimeout = 30 * time.Second // for one write to a caller who does not read
)

func (s *Server) streamOperations(q *request) (response, error) {
	after := int64(0)
	if id := q.Header.Get("Last-Event-ID"); id != "" {
		n, err := strconv.ParseInt(id, 10, 64)
		if err != nil || n < 0 {
			return response{}, trove.Errorf(trove.KindBadRequest, "The header Last-Event-ID must be the id of an event.")
		}
		after = n
	}
	return response{stream: func(w http.ResponseWriter) { s.stream(w, q, after) }}, nil
}

// stream sends events until the caller leaves, the instance is deleted or the
// service ends; a caller who comes again says where to go on.
func (s *Server) stream(w http.ResponseWriter, q *request, after int64) {
	select {
	case <-s.ended:
		s.writeError(w, q.Request, trove.Errorf(trove.KindUnavailable, "The service is stopping."))
		return
	default:
	}
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		s.writeError(w, q.Request, trove.Errorf(trove.KindUnavailable,
			"All %d event streams are in use; ask for the list instead.", s.config.MaxStreams))
		return
	}
	changed, cancel := s.store.EventsAdded(q.instance.ID)
	defer cancel()
	rc := http.NewResponseController(w)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx in front would hold events back
	w.WriteHeader(http.StatusOK)
	send := func(text string) bool {
		_ = rc.SetWriteDeadline(time.Now().Add(streamTimeout))
		if _, err := w.Write([]byte(text)); err != nil {
			return false
		}
		return rc.Flush() == nil
	}
	if !send(": watching " + q.instance.ID + "\n\n") {
		return
	}
	poll := time.NewTicker(s.config.StreamPoll)
	defer poll.Stop()
	beat := time.NewTicker(s.config.StreamHeartbeat)
	defer beat.Stop()
	ctx := q.Context()
	for {
		for {
			events, err := s.store.Events(ctx, q.instance.ID, after, eventBatch)
			if err != nil {
				if ctx.Err() == nil {
					s.log.ErrorContext(ctx, "events could not be read", "error", rootError(err))
				}
				return // the caller comes again with Last-Event-ID
			}
			var text strings.Builder
			ended := false
			for _, e := range events {
				after = e.Sequence
				writeEvent(&text, e)
				ended = ended || deleted(e)
			}
			if text.Len() > 0 && !send(text.String()) {
				return
			}
			if ended {
				return
			}
			if len(events) < eventBatch {
				break
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-s.ended:
			return
		case <-changed:
		case <-poll.C:
		case <-beat.C:
			if !send(": alive\n\n") {
				return
			}
		}
	}
}

// deleted reports whether nothing can follow e: the instance is gone.
func deleted(e trove.OperationEvent) bool {
	return e.Kind == "delete_instance" && e.Step == "" && e.State == trove.OperationDone
}

func writeEvent(b *strings.Builder, e trove.OperationEvent) {
	data, err := json.Marshal(view.NewOperationEvent(e))
	if err != nil {
		return // it holds only what JSON can hold
	}
	b.WriteString("id: ")
	b.WriteString(strconv.FormatInt(e.Sequence, 10))
	b.WriteString("\nevent: operation\ndata: ")
	b.Write(data)
	b.WriteString("\n\n")
}
