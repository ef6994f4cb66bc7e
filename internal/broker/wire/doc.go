// Package wire is the AMQP 0-9-1 codec of the embedded broker: frames, methods,
// content headers and field tables, in both directions.
//
// It owns bytes and bounds only: it never allocates more than what has really
// arrived, refuses frames over the negotiated size and tables nested without
// end. It must not know connections, channels or what a method means.
package wire
