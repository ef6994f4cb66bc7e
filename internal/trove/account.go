package trove

// Database is a database (a schema, in MySQL's word) inside an instance.
type Database struct {
	Name         string
	CharacterSet string
	Collation    string
}

// User is a user of the engine. Password is only ever set on its way in.
type User struct {
	Name      string
	Password  string
	Host      string // AnyHost when not given
	Databases []string
}

// AnyHost is the host of a user who may connect from everywhere.
const AnyHost = "%"

// UserAttributes is a change to a user; nil fields stay as they are.
type UserAttributes struct {
	Name     *string
	Password *string
	Host     *string
}
