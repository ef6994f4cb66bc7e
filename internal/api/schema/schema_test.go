package schema_test

import (
	"strings"
	"testing"

	"github.com/gotrove/gotrove/internal/api/schema"
	"github.com/gotrove/gotrove/internal/trove"
)

func TestMessages(t *testing.T) {
	set, err := schema.Load()
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("n", 256)
	tests := []struct{ name, schema, body, want string }{
		{"root member missing", "instance_create", `{"foo":{}}`, "'instance' is a required property"},
		{"not an object", "instance_create", `[]`, "the list is not of type 'object'"},
		{"inner not an object", "instance_create", `{"instance":1}`, "instance 1 is not of type 'object'"},
		{"required member", "instance_create", `{"instance":{}}`, "instance 'name' is a required property"},
		{"no password", "instance_create", `{"instance":{"name":"g","users":[{"name":"u"}]}}`,
			"instance['users'][0] 'password' is a required property"},
		{"name too long", "instance_create", `{"instance":{"name":"` + long + `"}}`,
			"instance['name'] '" + long[:64] + "…' is too long (256 characters, at most 255 are allowed)"},
		{"name of no letter", "instance_create", `{"instance":{"name":"--"}}`,
			"instance['name'] '--' does not match '^.*[0-9a-zA-Z]+.*$'"},
		{"volume zero", "instance_create", `{"instance":{"name":"g","volume":{"size":0}}}`,
			"instance['volume']['size'] 0 is not valid under any of the given schemas; " +
				"0 is less than the minimum of 1; 0 is not of type 'string'"},
		{"nic without a network", "instance_create", `{"instance":{"name":"g","nics":[{"network_id":""}]}}`,
			"instance['nics'][0]['network_id'] '' is too short (at least 1 character)"},
		{"nic key of another client", "instance_create", `{"instance":{"name":"g","nics":[{"port-id":"x"}]}}`,
			"instance['nics'][0] Additional properties are not allowed ('port-id' was unexpected)"},
		{"locality", "instance_create", `{"instance":{"name":"g","locality":"close"}}`,
			"instance['locality'] 'close' is not one of ['affinity', 'soft-affinity', 'anti-affinity', 'soft-anti-affinity']"},
		{"replica count", "instance_create", `{"instance":{"name":"g","replica_count":4}}`,
			"instance['replica_count'] 4 is greater than the maximum of 3"},
		{"null where none is allowed", "instance_create", `{"instance":{"name":"g","access":null}}`,
			"instance['access'] None is not of type 'object'"},
		{"all at once, in order of path", "instance_create", `{"instance":{"volume":{},"name":""}}`,
			"instance['name'] '' is too short (at least 1 character); instance['name'] '' does not match '^.*[0-9a-zA-Z]+.*$'; instance['volume'] 'size' is a required property"},
		{"a password is not told", "users_create", `{"users":[{"name":"u","password":99887766}]}`,
			"users[0]['password'] the value is not of type 'string'"},
		{"nor a long one", "user_update", `{"user":{"password":"` + long + `"}}`,
			"user['password'] the value is too long (256 characters, at most 255 are allowed)"},
		{"nor one in the wrong place", "users_create", `{"users":["hunter2"]}`,
			"users[0] the value is not of type 'object'"},
		{"closed", "instance_put", `{"instance":{"slave_of":null,"x":1}}`,
			"instance Additional properties are not allowed ('slave_of', 'x' were unexpected)"},
		{"patch has no access", "instance_patch", `{"instance":{"access":{}}}`,
			"instance Additional properties are not allowed ('access' was unexpected)"},
		{"empty action", "instance_action", `{}`, "the object does not have enough properties (at least 1)"},
		{"two actions", "instance_action", `{"restart":{},"resize":{"flavorRef":"1"}}`,
			"the object has too many properties (at most 1)"},
		{"grant of strings", "access_grant", `{"databases":["d"]}`, "databases[0] 'd' is not of type 'object'"},
		{"duplicate cidr", "instance_create", `{"instance":{"name":"g","access":{"allowed_cidrs":["1.2.3.4","1.2.3.4"]}}}`,
			"instance['access']['allowed_cidrs'] the list has non-unique elements"},
		{"cidr too wide", "instance_create", `{"instance":{"name":"g","access":{"allowed_cidrs":["1.2.3.4/33"]}}}`,
			`instance['access']['allowed_cidrs'][0] '1.2.3.4/33' does not match '^([0-9]{1,3}\.){3}[0-9]{1,3}(/(3[0-2]|[12]?[0-9]))?$'`},
		{"quota below unlimited", "quotas_update", `{"quotas":{"ram":-2}}`, "quotas['ram'] -2 is less than the minimum of -1"},
		{"quota not a number", "quotas_update", `{"quotas":{"ram":"x"}}`, "quotas['ram'] 'x' is not of type 'integer', 'null'"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			body, err := schema.Decode([]byte(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			err = set.Check(tt.schema, body)
			if !trove.IsKind(err, trove.KindBadRequest) {
				t.Fatalf("Check = %v, want a bad request", err)
			}
			if got := strings.TrimPrefix(err.Error(), "Validation error: "); got != tt.want {
				t.Errorf("message\n got %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestAccepts(t *testing.T) {
	set, err := schema.Load()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, schema, body string }{
		{"the least", "instance_create", `{"instance":{"name":"g"}}`},
		{"openstackclient", "instance_create", `{"instance":{"name":"g","flavorRef":"1","volume":{"size":1,"type":null},` +
			`"access":{"is_public":false},"nics":[{"network_id":"local"}],"databases":[],"users":[],"modules":[]}}`},
		{"gophercloud", "instance_create", `{"instance":{"name":"g","flavorRef":"http://x/flavors/1","volume":{"size":1},` +
			`"datastore":{"type":"mysql","version":"5.7"},"networks":[],"nics":[{"net-id":"11111111-1111-1111-1111-111111111111"}]}}`},
		{"size of digits, flavor a number, unknown keys", "instance_create",
			`{"instance":{"name":"g","flavorRef":2,"volume":{"size":"010"},"slave_of":"x","root_password":"y"}}`},
		{"an awkward password", "users_create", `{"users":[{"name":"u","password":"a'\";--😀","host":"10.0.%"}]}`},
		{"detach", "instance_put", `{"instance":{}}`},
		{"detach a replica", "instance_patch", `{"instance":{"slave_of":""}}`},
		{"action", "instance_action", `{"reset_status":{"force_delete":1}}`},
		{"root without a body", "root_enable", `{}`},
		{"root with null", "root_enable", `{"password":null}`},
		{"quota null", "quotas_update", `{"quotas":{"ram":null,"volumes":-1}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			body, err := schema.Decode([]byte(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if err := set.Check(tt.schema, body); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestUnknownSchema(t *testing.T) {
	set, err := schema.Load()
	if err != nil {
		t.Fatal(err)
	}
	if err := set.Check("nope", nil); err == nil || trove.KindOf(err) != trove.KindInternal {
		t.Errorf("Check = %v", err)
	}
}
