package taskmanager

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCreateInstanceOneOrSeveral(t *testing.T) {
	password := "s3cret"
	for name, tc := range map[string]struct {
		wire string
		want CreateInstance
	}{
		"one": {`{"instance_id": "a", "name": "n", "root_password": "s3cret", "ds_version": "10.11"}`,
			CreateInstance{InstanceID: "a", Name: "n", RootPassword: &password, DSVersion: "10.11"}},
		"no password": {`{"instance_id": "a", "name": "n", "root_password": null}`, CreateInstance{InstanceID: "a", Name: "n"}},
		"several": {`{"instance_id": ["a", "b"], "name": ["n", "m"], "root_password": ["s3cret", "x"]}`,
			CreateInstance{InstanceID: "a", Name: "n", RootPassword: &password, More: []string{"b"}}},
		"none": {`{"instance_id": [], "name": null}`, CreateInstance{}},
	} {
		t.Run(name, func(t *testing.T) {
			var got CreateInstance
			if err := json.Unmarshal([]byte(tc.wire), &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
