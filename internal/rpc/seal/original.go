package seal

import (
	"encoding/json"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/wire"
	"github.com/gotrove/gotrove/internal/secret"
)

// original seals each argument, the context as one and a result, as the
// original's serializers do. Names, ids and failures stay in clear, and nothing
// ties the parts together. What Python takes in clear all the same, as if it
// were sealed, is refused here.
type original struct{ cipher *secret.CBC }

// entity is an argument on the way to the conductor: a JSON text in a string.
type entity struct {
	Entity   string `json:"entity"`
	Instance string `json:"csz-instance-id"`
}

func (o original) sealRequest(road Road, instance string, r *wire.Request) error {
	args := make(map[string]json.RawMessage, len(r.Args))
	for name, v := range r.Args {
		sealed := o.cipher.Encrypt(v)
		if road != ToConductor {
			args[name] = quoted(sealed)
			continue
		}
		b, err := json.Marshal(entity{string(sealed), instance})
		if err != nil {
			return err
		}
		args[name] = text(string(b))
	}
	c, err := json.Marshal(r.Context)
	if err != nil {
		return err
	}
	r.Args = args
	r.Context = map[string]json.RawMessage{memberContext: quoted(o.cipher.Encrypt(c))}
	if road == ToConductor {
		r.Context[memberInstance] = text(instance)
	}
	return nil
}

func (o original) openRequest(road Road, instance string, r *wire.Request) error {
	if road == ToConductor && Claimed(r) != instance {
		return ErrKey
	}
	plain, err := o.cipher.Decrypt(unquoted(r.Context[memberContext]))
	if err != nil {
		return ErrKey
	}
	context, err := wire.Members(plain)
	if err != nil {
		return ErrKey
	}
	args := make(map[string]json.RawMessage, len(r.Args))
	for name, v := range r.Args {
		sealed := unquoted(v)
		if road == ToConductor {
			s, _ := wire.Text(v)
			e, err := wire.Members([]byte(s))
			if err != nil {
				return ErrKey
			}
			if of, _ := wire.Text(e[memberInstance]); of != instance {
				return ErrKey
			}
			sealed = unquoted(e[memberEntity])
		}
		value, err := o.open(sealed)
		if err != nil {
			return err
		}
		args[name] = value
	}
	r.Args, r.Context = args, context
	return nil
}

// open decrypts JSON. That it is JSON is all that tells a wrong key.
func (o original) open(sealed []byte) (json.RawMessage, error) {
	plain, err := o.cipher.Decrypt(sealed)
	if err != nil || !wire.Valid(plain) {
		return nil, ErrKey
	}
	return plain, nil
}

func (o original) sealReply(Road, string, *wire.Request) rpc.ReplyCodec {
	return func(r *wire.Reply) error {
		if r.Failure != nil {
			return nil
		}
		result := r.Result
		if len(result) == 0 {
			result = json.RawMessage("null")
		}
		r.Result = quoted(o.cipher.Encrypt(result))
		return nil
	}
}

func (o original) openReply(Road, string, *wire.Request) rpc.ReplyCodec {
	return func(r *wire.Reply) error {
		if r.Failure != nil {
			return nil
		}
		result, err := o.open(unquoted(r.Result))
		if err != nil {
			return errReply
		}
		r.Result = result
		return nil
	}
}
