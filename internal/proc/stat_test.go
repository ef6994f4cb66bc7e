package proc

import "testing"

func TestParseStat(t *testing.T) {
	const rest = " 1 0 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1000 50"
	for in, state := range map[string]byte{
		"77 (sleep) S" + rest:       'S',
		"77 (a) Z 9 (b)) R" + rest:  'R',
		"77 (two words) Z" + rest:   'Z',
		"77 (line\nbreak) S" + rest: 'S',
	} {
		want := Stat{PID: 77, State: state, PPID: 1, Session: 77, Flags: 4194560, StartTime: 12345}
		got, err := parseStat([]byte(in))
		if err != nil || got != want {
			t.Errorf("%q gives %+v, %v, want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "77 sleep S", "77 (sleep) S 1 2", "x (sleep) S" + rest, ") 77 ("} {
		if got, err := parseStat([]byte(in)); err == nil {
			t.Errorf("%q gives %+v, want an error", in, got)
		}
	}
}

func TestLeader(t *testing.T) {
	for _, c := range []struct {
		s    Stat
		want bool
	}{
		{Stat{PID: 5, Session: 5}, true},
		{Stat{PID: 5, Session: 4}, false},
		{Stat{PID: 5, Session: 5, Flags: forkedOnly}, false}, // a PostgreSQL backend
	} {
		if got := c.s.Leader(); got != c.want {
			t.Errorf("%+v: leader is %v", c.s, got)
		}
	}
}
