package seal

import (
	"encoding/binary"
	"encoding/json"
	"strconv"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/wire"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// authenticated seals arguments and context as one, and results and failures
// as one, bound to everything about the message that stays in clear: none can
// be changed, sent to another receiver or for another method, or returned as
// the answer to another call. What repeats a message whole is found by its
// unique id, and by what the seal says of when it was made.
type authenticated struct{ cipher *secret.GCM }

// version is the value of memberSeal.
const version = `"v2"`

// payload is what is sealed of a request.
type payload struct {
	Args    map[string]json.RawMessage `json:"args"`
	Context map[string]json.RawMessage `json:"context"`
	Made    int64                      `json:"made,omitempty"`
	Kept    bool                       `json:"kept,omitempty"`
}

// answer is what is sealed of a reply.
type answer struct {
	Result  json.RawMessage `json:"result,omitempty"`
	Failure *wire.Failure   `json:"failure,omitempty"`
}

// bound is what a payload is bound to: each part with its length in front, so
// that no two lists of parts are the same.
func bound(parts ...string) []byte {
	b := make([]byte, 0, 256)
	for _, p := range parts {
		b = binary.AppendUvarint(b, uint64(len(p)))
		b = append(b, p...)
	}
	return b
}

func requestBound(road Road, instance string, r *wire.Request) []byte {
	return bound("request", string(road), instance, r.Method, r.Version, r.Namespace, r.UniqueID, r.MsgID, r.ReplyQueue)
}

func (a authenticated) sealRequest(road Road, instance string, r *wire.Request) error {
	plain, err := json.Marshal(payload{r.Args, r.Context, r.Made, r.Kept})
	if err != nil {
		return err
	}
	sealed := a.cipher.Seal(plain, requestBound(road, instance, r))
	r.Args = map[string]json.RawMessage{memberPayload: quoted(sealed)}
	r.Context = map[string]json.RawMessage{memberSeal: json.RawMessage(version)}
	if road == ToConductor {
		r.Context[memberInstance] = text(instance)
	}
	return nil
}

func (a authenticated) openRequest(road Road, instance string, r *wire.Request) error {
	if string(r.Context[memberSeal]) != version || road == ToConductor && Claimed(r) != instance {
		return ErrKey
	}
	plain, err := a.cipher.Open(unquoted(r.Args[memberPayload]), requestBound(road, instance, r))
	if err != nil {
		return ErrKey
	}
	p, err := wire.Members(plain)
	if err != nil {
		return ErrKey
	}
	args, err := members(p["args"])
	if err != nil {
		return ErrKey
	}
	context, err := members(p["context"])
	if err != nil {
		return ErrKey
	}
	// One that was sealed by an earlier version has neither.
	made, err := strconv.ParseInt(string(p["made"]), 10, 64)
	if err != nil && len(p["made"]) > 0 {
		return ErrKey
	}
	r.Args, r.Context, r.Made, r.Kept = args, context, made, string(p["kept"]) == "true"
	return nil
}

// members are those of an object, none of one that is not there.
func members(v json.RawMessage) (map[string]json.RawMessage, error) {
	if len(v) == 0 || string(v) == "null" {
		return nil, nil
	}
	return wire.Members(v)
}

// replies are bound to the call they answer.
func replyBound(road Road, instance string, r *wire.Request) []byte {
	return bound("reply", string(road), instance, r.Method, r.UniqueID, r.MsgID)
}

func (a authenticated) sealReply(road Road, instance string, r *wire.Request) rpc.ReplyCodec {
	to := replyBound(road, instance, r)
	return func(reply *wire.Reply) error {
		plain, err := json.Marshal(answer{reply.Result, reply.Failure})
		if err != nil {
			return err
		}
		reply.Result, reply.Failure = quoted(a.cipher.Seal(plain, to)), nil
		return nil
	}
}

// errReply is the one error of replies that cannot be opened.
var errReply = trove.Errorf(trove.KindGuest, "it is not sealed with the key of the call").
	WithAction("Look at the log of the one called: its key may differ from ours.")

func (a authenticated) openReply(road Road, instance string, r *wire.Request) rpc.ReplyCodec {
	to := replyBound(road, instance, r)
	return func(reply *wire.Reply) error {
		plain, err := a.cipher.Open(unquoted(reply.Result), to)
		if err != nil || reply.Failure != nil {
			return errReply
		}
		var got answer
		if json.Unmarshal(plain, &got) != nil {
			return errReply
		}
		reply.Result, reply.Failure = got.Result, got.Failure
		return nil
	}
}
