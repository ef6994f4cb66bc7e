// Package trove is the domain of the database service: instances, datastores,
// flavors, quotas, users and databases, the codes that describe their state,
// and the rules that turn codes into what a user sees.
//
// It owns the meaning of every status and the kinds of error. It knows nothing
// of JSON, SQL, AMQP or any process: everything else imports it, it imports the
// standard library only.
package trove
