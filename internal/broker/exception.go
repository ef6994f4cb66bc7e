package broker

import (
	"errors"
	"fmt"
	"strings"
)

// replyCode is an AMQP reply code.
type replyCode uint16

const (
	noRoute            replyCode = 312
	connectionForced   replyCode = 320
	accessRefused      replyCode = 403
	notFound           replyCode = 404
	resourceLocked     replyCode = 405
	preconditionFailed replyCode = 406
	frameError         replyCode = 501
	syntaxError        replyCode = 502
	commandInvalid     replyCode = 503
	channelError       replyCode = 504
	unexpectedFrame    replyCode = 505
	resourceError      replyCode = 506
	notAllowed         replyCode = 530
	notImplemented     replyCode = 540
	internalError      replyCode = 541
)

var replyNames = map[replyCode]string{
	noRoute: "NO_ROUTE", connectionForced: "CONNECTION_FORCED", accessRefused: "ACCESS_REFUSED",
	notFound: "NOT_FOUND", resourceLocked: "RESOURCE_LOCKED", preconditionFailed: "PRECONDITION_FAILED",
	frameError: "FRAME_ERROR", syntaxError: "SYNTAX_ERROR", commandInvalid: "COMMAND_INVALID",
	channelError: "CHANNEL_ERROR", unexpectedFrame: "UNEXPECTED_FRAME", resourceError: "RESOURCE_ERROR",
	notAllowed: "NOT_ALLOWED", notImplemented: "NOT_IMPLEMENTED", internalError: "INTERNAL_ERROR",
}

// exception closes a channel (soft) or a connection, as the client is told.
type exception struct {
	code replyCode
	text string // without the name of the code
	soft bool
}

// Error is the text a client reads: clients of RabbitMQ know "NAME - text".
func (e *exception) Error() string {
	s := strings.ToValidUTF8(replyNames[e.code]+" - "+e.text, "?")
	if len(s) > 255 {
		s = strings.ToValidUTF8(s[:255], "")
	}
	return s
}

// softErr closes the channel.
func softErr(code replyCode, format string, args ...any) error {
	return &exception{code: code, text: fmt.Sprintf(format, args...), soft: true}
}

// hardErr closes the connection.
func hardErr(code replyCode, format string, args ...any) error {
	return &exception{code: code, text: fmt.Sprintf(format, args...)}
}

func asException(err error) *exception {
	if e, ok := errors.AsType[*exception](err); ok {
		return e
	}
	return nil
}
