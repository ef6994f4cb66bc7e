package keyring

import (
	"bytes"

	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// AtRest seals what the database keeps of messages and work: they hold
// passwords. Its keys are derived from the master keys. It implements
// store.Sealer.
type AtRest struct{ keys []*secret.GCM }

// NewAtRest seals with the first of masters and opens with each.
func NewAtRest(masters ...secret.String) *AtRest {
	a := &AtRest{}
	for _, m := range masters {
		a.keys = append(a.keys, secret.NewGCM(m, "at rest v1"))
	}
	return a
}

// What is sealed is a JSON string that begins so; what was stored before there
// was sealing is a JSON object.
const atRestMark = `"gotrove-sealed-1:`

// Seal seals plain for one place only, the name of a table and a row.
func (a *AtRest) Seal(place string, plain []byte) []byte {
	sealed := a.keys[0].Seal(plain, []byte(place))
	out := make([]byte, 0, len(atRestMark)+len(sealed)+1)
	return append(append(append(out, atRestMark...), sealed...), '"')
}

// Open gives back what was sealed for a place, and what was never sealed as it
// is.
func (a *AtRest) Open(place string, stored []byte) ([]byte, error) {
	plain, _, err := a.open(place, stored)
	return plain, err
}

// Fresh tells whether stored is sealed with the newest key.
func (a *AtRest) Fresh(place string, stored []byte) bool {
	_, by, err := a.open(place, stored)
	return err == nil && by == 0
}

// open tells also which key opened it, -1 for none.
func (a *AtRest) open(place string, stored []byte) ([]byte, int, error) {
	sealed, ok := bytes.CutPrefix(stored, []byte(atRestMark))
	if !ok {
		return stored, -1, nil
	}
	for i, k := range a.keys {
		if plain, err := k.Open(bytes.TrimSuffix(sealed, []byte{'"'}), []byte(place)); err == nil {
			return plain, i, nil
		}
	}
	return nil, 0, trove.Errorf(trove.KindInternal, "%s is sealed with a key that is not ours, or damaged", place).
		WithAction("set inst_rpc_key_encr_key to the key it was sealed with, or [gotrove] second_inst_rpc_key_encr_key beside a new one")
}
