package wire

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// samples are methods with every field set to something.
func samples() []Method {
	var ms []Method
	for class := range uint16(100) {
		for id := range uint16(130) {
			m := newMethod(class, id)
			if m == nil {
				continue
			}
			v := reflect.ValueOf(m).Elem()
			for i := range v.NumField() {
				switch f := v.Field(i); f.Kind() {
				case reflect.Bool:
					f.SetBool(i%2 == 0)
				case reflect.String:
					f.SetString("text")
				case reflect.Map:
					f.Set(reflect.ValueOf(Table{"k": "v", "n": int32(-1)}))
				default:
					f.SetUint(uint64(i + 1))
				}
			}
			ms = append(ms, m)
		}
	}
	return ms
}

func TestMethodsRoundTrip(t *testing.T) {
	ms := samples()
	if len(ms) < 40 {
		t.Fatalf("only %d methods", len(ms))
	}
	for _, m := range ms {
		b, err := AppendMethod(nil, 7, m)
		if err != nil {
			t.Fatal(err)
		}
		f, err := NewReader(bytes.NewReader(b), 16, 8192).Next()
		if err != nil || f.Channel != 7 || f.Type != FrameMethod {
			t.Fatalf("%T: frame %+v, %v", m, f, err)
		}
		got, err := ParseMethod(f.Payload)
		if err != nil {
			t.Fatalf("%T: %v", m, err)
		}
		if d := cmp.Diff(m, got); d != "" {
			t.Errorf("%T:\n%s", m, d)
		}
		for n := range f.Payload {
			if n < 4 {
				continue
			}
			if _, err := ParseMethod(f.Payload[:n]); !errors.Is(err, ErrSyntax) {
				t.Errorf("%T cut at %d: %v", m, n, err)
			}
		}
	}
}

func TestKnownBytes(t *testing.T) {
	// basic.publish to exchange "x" with key "k", mandatory, on channel 1.
	want := "\x01\x00\x01\x00\x00\x00\x0b\x00\x3c\x00\x28\x00\x00\x01x\x01k\x01\xce"
	got, err := AppendMethod(nil, 1, &BasicPublish{Exchange: "x", RoutingKey: "k", Mandatory: true})
	if err != nil || string(got) != want {
		t.Errorf("%v\ngot  %q\nwant %q", err, got, want)
	}
	// queue.declare q durable+no-wait with a table.
	got, err = AppendMethod(nil, 2, &QueueDeclare{Queue: "q", Durable: true, NoWait: true, Arguments: Table{"e": int32(5)}})
	want = "\x01\x00\x02\x00\x00\x00\x14\x00\x32\x00\x0a\x00\x00\x01q\x12\x00\x00\x00\x07\x01eI\x00\x00\x00\x05\xce"
	if err != nil || string(got) != want {
		t.Errorf("%v\ngot  %q\nwant %q", err, got, want)
	}
}

func TestTableRoundTrip(t *testing.T) {
	in := Table{
		"t": true, "f": false, "b": int8(-1), "B": uint8(200), "s": int16(-300), "u": uint16(60000), "I": int32(-70000),
		"i": uint32(4e9), "l": int64(-1 << 40), "f4": float32(1.5), "d": 2.5, "D": Decimal{2, 314}, "S": "text",
		"x": []byte{0, 1}, "T": Timestamp(1 << 40), "V": nil, "A": []any{"a", int32(1), []any{}}, "F": Table{"n": Table{"m": "o"}},
	}
	b, err := AppendTable(nil, in)
	if err != nil {
		t.Fatal(err)
	}
	out, rest, err := ParseTable(append(b, "rest"...))
	if err != nil || string(rest) != "rest" {
		t.Fatalf("%q, %v", rest, err)
	}
	if d := cmp.Diff(in, out); d != "" {
		t.Error(d)
	}
}

func TestTableRefuses(t *testing.T) {
	deep := []byte{}
	for range 1000 {
		deep = append([]byte{1, 'k', 'F', 0, 0, byte((len(deep)) >> 8), byte(len(deep))}, deep...)
	}
	deep = append([]byte{0, 0, byte(len(deep) >> 8), byte(len(deep))}, deep...)
	for name, in := range map[string]string{
		"no length":    "\x00",
		"too long":     "\x00\x00\x00\x09",
		"huge":         "\xff\xff\xff\xff",
		"unknown type": "\x00\x00\x00\x03\x01kZ",
		"cut value":    "\x00\x00\x00\x04\x01kI\x00",
		"string past":  "\x00\x00\x00\x07\x01kS\x00\x00\x00\x09",
		"nested":       string(deep),
	} {
		if _, _, err := ParseTable([]byte(in)); !errors.Is(err, ErrSyntax) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := AppendTable(nil, Table{"k": struct{}{}}); !errors.Is(err, ErrSyntax) {
		t.Errorf("value of a struct: %v", err)
	}
	if _, err := AppendTable(nil, Table{strings.Repeat("k", 256): nil}); !errors.Is(err, ErrSyntax) {
		t.Errorf("long key: %v", err)
	}
}

func TestReaderRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		in   string
		want error
	}{
		"end":           {"", io.EOF},
		"cut head":      {"\x01\x00", io.ErrUnexpectedEOF},
		"cut payload":   {"\x01\x00\x00\x00\x00\x00\x05ab", io.ErrUnexpectedEOF},
		"over the max":  {"\x01\x00\x00\x00\x00\x20\x00", ErrFrameTooLarge},
		"huge":          {"\x01\x00\x00\xff\xff\xff\xff", ErrFrameTooLarge},
		"wrong end":     {"\x08\x00\x00\x00\x00\x00\x00\x00", ErrFrameEnd},
		"a good one":    {"\x08\x00\x00\x00\x00\x00\x00\xce", nil},
		"of just a max": {"\x03\x00\x01\x00\x00\x00\x08abcdefgh\xce", nil},
	} {
		if _, err := NewReader(strings.NewReader(tc.in), 16, 16).Next(); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}

func TestHeader(t *testing.T) {
	in := Properties{
		Flags: 0xfffc, ContentType: "application/json", ContentEncoding: "utf-8", Headers: Table{"a": "b"}, DeliveryMode: 2,
		Priority: 1, CorrelationID: "c", ReplyTo: "r", Expiration: "5", MessageID: "m", Timestamp: 9, Type: "t", UserID: "u",
		AppID: "p", ClusterID: "k",
	}
	raw, err := AppendProperties(nil, in)
	if err != nil {
		t.Fatal(err)
	}
	b := AppendHeader(nil, 3, 12345, raw)
	h, err := ParseHeader(b[7 : len(b)-1])
	if err != nil || h.BodySize != 12345 || !bytes.Equal(h.Raw, raw) {
		t.Fatalf("%+v, %v", h, err)
	}
	if d := cmp.Diff(in, h.Properties); d != "" {
		t.Error(d)
	}
	for n := range len(b) - 8 {
		if _, err := ParseHeader(b[7 : 7+n]); !errors.Is(err, ErrSyntax) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
}

func FuzzReadFrame(f *testing.F) {
	for _, m := range samples() {
		b, _ := AppendMethod(nil, 1, m)
		f.Add(b)
	}
	f.Add(AppendHeartbeat(nil))
	f.Add(AppendHeader(AppendHeartbeat(nil), 1, 5, []byte{0, 0}))
	f.Fuzz(func(t *testing.T, in []byte) {
		const limit = 4096
		r := NewReader(bytes.NewReader(in), 16, limit)
		read := 0
		for {
			fr, err := r.Next()
			if err != nil {
				return
			}
			if len(fr.Payload)+FrameOverhead > limit {
				t.Fatal("frame over the limit")
			}
			out := appendFrameHead(nil, fr.Type, fr.Channel, len(fr.Payload))
			out = AppendEnd(append(out, fr.Payload...))
			if !bytes.HasPrefix(in[read:], out) {
				t.Fatalf("frame is not what was read: %q", out)
			}
			read += len(out)
		}
	})
}

func FuzzMethod(f *testing.F) {
	for _, m := range samples() {
		b, _ := AppendMethod(nil, 1, m)
		f.Add(b[7 : len(b)-1])
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if h, err := ParseHeader(in); err == nil {
			raw, err := AppendProperties(nil, h.Properties)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ParseHeader(append(in[:12:12], raw...)); err != nil {
				t.Fatal(err)
			}
		}
		m, err := ParseMethod(in)
		if err != nil {
			return
		}
		out, err := AppendMethod(nil, 1, m)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseMethod(out[7 : len(out)-1])
		if err != nil {
			t.Fatal(err)
		}
		out2, err := AppendMethod(nil, 1, again)
		if err != nil || !bytes.Equal(out, out2) {
			t.Fatalf("not stable: %q, %q, %v", out, out2, err)
		}
	})
}

func FuzzTable(f *testing.F) {
	b, _ := AppendTable(nil, Table{"a": []any{int8(1), "x", Table{"b": nil}}, "d": Decimal{1, 2}, "f": 1.0, "x": []byte("y")})
	f.Add(b)
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		tb, rest, err := ParseTable(in)
		if err != nil {
			return
		}
		if len(rest) > len(in)-4 {
			t.Fatal("read less than a length")
		}
		out, err := AppendTable(nil, tb)
		if err != nil {
			t.Fatal(err)
		}
		again, rest, err := ParseTable(out)
		if err != nil || len(rest) != 0 {
			t.Fatal(err, rest)
		}
		if out2, err := AppendTable(nil, again); err != nil || !bytes.Equal(out, out2) {
			t.Fatalf("not stable: %q, %q, %v", out, out2, err)
		}
	})
}
