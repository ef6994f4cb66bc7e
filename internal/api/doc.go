// Package api is trove-api: the REST API v1.0 as an http.Handler.
//
// It owns the routes, the request pipeline (request ids, CORS, tokens, project,
// rate limits, schemas, policy), faults and pagination, and what each call
// checks before anything is written. What a call changes goes to the store in
// one transaction together with the message that has it done; only what a user
// must see at once is asked of a guest agent directly.
//
// It must not know SQL, AMQP or any cloud: those come in through the
// interfaces of this package. The forms of answers are in view, those of
// request bodies in schema.
package api
