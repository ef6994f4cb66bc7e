package broker

import (
	"bytes"
	"errors"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/broker/wire"
)

// errSilent ends a connection without a word.
var errSilent = errors.New("connection ended in the handshake")

// maxLogin bounds user and password, which an Authenticator may hash.
const maxLogin = 1024

// expect reads the one method the handshake waits for.
func expect[M wire.Method](c *conn) (M, error) {
	var none M
	for {
		f, err := c.in.Next()
		if err != nil {
			return none, err
		}
		if f.Type == wire.FrameHeartbeat {
			continue
		}
		if f.Type != wire.FrameMethod || f.Channel != 0 {
			return none, hardErr(unexpectedFrame, "frame of type %d on channel %d in the handshake", f.Type, f.Channel)
		}
		m, err := wire.ParseMethod(f.Payload)
		if err != nil {
			return none, err
		}
		if want, ok := m.(M); ok {
			return want, nil
		}
		if _, ok := m.(*wire.ConnectionClose); ok {
			c.send(0, &wire.ConnectionCloseOk{})
			return none, errGone
		}
		class, id := m.ID()
		return none, hardErr(commandInvalid, "unexpected method %d.%d in the handshake", class, id)
	}
}

func (c *conn) handshake() error {
	l := &c.b.limits
	c.send(0, &wire.ConnectionStart{
		VersionMajor: 0, VersionMinor: 9,
		Mechanisms: "PLAIN AMQPLAIN", Locales: "en_US",
		ServerProperties: wire.Table{
			"product": "gotrove", "version": "1", "platform": "Go",
			"information": "embedded AMQP 0-9-1 subset",
			"capabilities": wire.Table{
				"publisher_confirms": true, "basic.nack": true, "consumer_cancel_notify": true,
				"connection.blocked": true, "authentication_failure_close": true, "per_consumer_qos": true,
				"exchange_exchange_bindings": false, "consumer_priorities": false, "direct_reply_to": false,
			},
		},
	})
	start, err := expect[*wire.ConnectionStartOk](c)
	if err != nil {
		return err
	}
	capabilities, _ := start.ClientProperties["capabilities"].(wire.Table)
	c.canCancel, _ = capabilities["consumer_cancel_notify"].(bool)
	c.name, _ = start.ClientProperties["connection_name"].(string)
	if err := c.login(start, capabilities); err != nil {
		return err
	}

	c.send(0, &wire.ConnectionTune{
		ChannelMax: uint16(min(l.Channels, 65535)), FrameMax: uint32(l.FrameBytes), Heartbeat: uint16(l.Heartbeat / time.Second),
	})
	tune, err := expect[*wire.ConnectionTuneOk](c)
	if err != nil {
		return err
	}
	frameMax := int(tune.FrameMax)
	if frameMax == 0 || frameMax > l.FrameBytes {
		frameMax = l.FrameBytes
	}
	if frameMax < wire.MinFrameSize {
		return hardErr(notAllowed, "negotiated frame_max = %d is lower than the minimum allowed value (%d)",
			frameMax, wire.MinFrameSize)
	}
	c.channelMax = int(tune.ChannelMax)
	if c.channelMax == 0 || c.channelMax > l.Channels {
		c.channelMax = l.Channels
	}

	// A client may send its next frames, of the new size, with tune-ok.
	c.in.SetFrameMax(frameMax)
	open, err := expect[*wire.ConnectionOpen](c)
	if err != nil {
		return err
	}
	if open.VirtualHost != "/" {
		return hardErr(notAllowed, "vhost %s not found", open.VirtualHost)
	}
	if err := c.b.connected(c); err != nil {
		return err
	}
	c.frameMax.Store(int64(frameMax))
	c.heartbeat.Store(int64(tune.Heartbeat) * int64(time.Second))
	c.dead.set(2*time.Duration(tune.Heartbeat)*time.Second, time.Time{})
	c.send(0, &wire.ConnectionOpenOk{})
	c.log.Debug("connection open", "user", c.user, "client", c.name, "heartbeat", tune.Heartbeat)
	return nil
}

func (c *conn) login(start *wire.ConnectionStartOk, capabilities wire.Table) error {
	var user, password string
	ok := false
	switch start.Mechanism {
	case "PLAIN":
		parts := strings.Split(start.Response, "\x00")
		if ok = len(parts) == 3; ok {
			user, password = parts[1], parts[2]
		}
	case "AMQPLAIN":
		user, password, ok = amqplain(start.Response)
	default:
		return hardErr(commandInvalid, "unsupported authentication mechanism '%s'", start.Mechanism)
	}
	err := ErrRefused
	if ok && len(user) <= maxLogin && len(password) <= maxLogin {
		// Before it is checked, so that CloseConnections misses no login that
		// is taken away meanwhile.
		c.b.mu.Lock()
		c.user = user
		c.b.mu.Unlock()
		c.perms, err = c.b.opt.Auth.Login(user, password)
	}
	if err == nil {
		return nil
	}
	c.log.Warn("login refused", "user", user, "mechanism", start.Mechanism, "cause", err.Error())
	if can, _ := capabilities["authentication_failure_close"].(bool); can {
		return hardErr(accessRefused, "Login was refused using authentication mechanism %s. For details see the broker logfile.",
			start.Mechanism)
	}
	return errSilent
}

// amqplain reads a login in the form of a field table without its length.
func amqplain(response string) (user, password string, ok bool) {
	var b bytes.Buffer
	n := len(response)
	b.Write([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	b.WriteString(response)
	t, _, err := wire.ParseTable(b.Bytes())
	if err != nil {
		return "", "", false
	}
	user, okUser := t["LOGIN"].(string)
	password, okPassword := t["PASSWORD"].(string)
	return user, password, okUser && okPassword
}
