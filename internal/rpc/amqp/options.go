package amqp

import (
	"crypto/fips140"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

const optionGroup = "oslo_messaging_rabbit"

// Options is the group [oslo_messaging_rabbit], with oslo.messaging's names and
// defaults, for package osloconf to fill. NoEffect tells which of them are only
// accepted.
type Options struct {
	Durable         bool `conf:"oslo_messaging_rabbit.amqp_durable_queues" default:"false"`
	AutoDelete      bool `conf:"oslo_messaging_rabbit.amqp_auto_delete" default:"false"`
	HA              bool `conf:"oslo_messaging_rabbit.rabbit_ha_queues" default:"false"`
	Quorum          bool `conf:"oslo_messaging_rabbit.rabbit_quorum_queue" default:"false"`
	DeliveryLimit   int  `conf:"oslo_messaging_rabbit.rabbit_quorum_delivery_limit" default:"0"`
	MaxMemoryLength int  `conf:"oslo_messaging_rabbit.rabbit_quorum_max_memory_length" default:"0"`
	MaxMemoryBytes  int  `conf:"oslo_messaging_rabbit.rabbit_quorum_max_memory_bytes" default:"0"`
	TransientQuorum bool `conf:"oslo_messaging_rabbit.rabbit_transient_quorum_queue" default:"false"`
	TransientTTL    int  `conf:"oslo_messaging_rabbit.rabbit_transient_queues_ttl" default:"1800"` // seconds, 0 is for ever
	StreamFanout    bool `conf:"oslo_messaging_rabbit.rabbit_stream_fanout" default:"false"`
	CancelFailover  bool `conf:"oslo_messaging_rabbit.enable_cancel_on_failover" default:"false"`

	UseQueueManager bool   `conf:"oslo_messaging_rabbit.use_queue_manager" default:"false"`
	HostName        string `conf:"oslo_messaging_rabbit.hostname" default:""`
	ProcessName     string `conf:"oslo_messaging_rabbit.processname" default:""`

	// Prefetch is how many messages a consumer gets before the first of them is
	// acknowledged; 0 leaves it to rpc.ServerOptions.
	Prefetch int `conf:"oslo_messaging_rabbit.rabbit_qos_prefetch_count" default:"0"`
	// MissingConsumer is how long a reply is tried whose queue is not there.
	MissingConsumer time.Duration `conf:"oslo_messaging_rabbit.kombu_missing_consumer_retry_timeout" default:"60"`

	LoginMethod    string        `conf:"oslo_messaging_rabbit.rabbit_login_method" default:"AMQPLAIN"`
	Heartbeat      time.Duration `conf:"oslo_messaging_rabbit.heartbeat_timeout_threshold" default:"60"`
	RetryInterval  time.Duration `conf:"oslo_messaging_rabbit.rabbit_retry_interval" default:"1"`
	RetryBackoff   time.Duration `conf:"oslo_messaging_rabbit.rabbit_retry_backoff" default:"2"`
	RetryMax       time.Duration `conf:"oslo_messaging_rabbit.rabbit_interval_max" default:"30"`
	ReconnectDelay time.Duration `conf:"oslo_messaging_rabbit.kombu_reconnect_delay" default:"1.0"`
	ReconnectSplay time.Duration `conf:"oslo_messaging_rabbit.kombu_reconnect_splay" default:"0.0"`
	Failover       string        `conf:"oslo_messaging_rabbit.kombu_failover_strategy" default:"round-robin"`

	SSL         bool   `conf:"oslo_messaging_rabbit.ssl" default:"false"`
	SSLCAFile   string `conf:"oslo_messaging_rabbit.ssl_ca_file" default:""`
	SSLCertFile string `conf:"oslo_messaging_rabbit.ssl_cert_file" default:""`
	SSLKeyFile  string `conf:"oslo_messaging_rabbit.ssl_key_file" default:""`
	SSLHostName bool   `conf:"oslo_messaging_rabbit.ssl_enforce_hostname_verification" default:"true"`
	SSLFIPS     bool   `conf:"oslo_messaging_rabbit.ssl_enforce_fips_mode" default:"false"`

	// What is accepted and has no effect.
	SSLVersion        string  `conf:"oslo_messaging_rabbit.ssl_version" default:""`
	HeartbeatRate     int     `conf:"oslo_messaging_rabbit.heartbeat_rate" default:"3"`
	HeartbeatInThread bool    `conf:"oslo_messaging_rabbit.heartbeat_in_pthread" default:"false"`
	MandatoryReplies  bool    `conf:"oslo_messaging_rabbit.direct_mandatory_flag" default:"true"`
	Compression       string  `conf:"oslo_messaging_rabbit.kombu_compression" default:""`
	PoolSize          int     `conf:"oslo_messaging_rabbit.rpc_conn_pool_size" default:"30"`
	PoolMinimum       int     `conf:"oslo_messaging_rabbit.conn_pool_min_size" default:"2"`
	PoolTTL           float64 `conf:"oslo_messaging_rabbit.conn_pool_ttl" default:"1200"`
}

// NoEffect are the options that are accepted and change nothing, by their names
// in [oslo_messaging_rabbit], with the reason.
func NoEffect() map[string]string {
	const pool = "one connection carries any number of calls at once, so there is no pool"
	return map[string]string{
		"ssl_version":           "TLS 1.2 and 1.3 are offered, and nothing older",
		"heartbeat_rate":        "a heartbeat is sent every half of heartbeat_timeout_threshold, and a silent broker noticed by the read's deadline, not by polling",
		"heartbeat_in_pthread":  "there are no green threads",
		"direct_mandatory_flag": "replies are always mandatory, as in oslo.messaging itself",
		"kombu_compression":     "messages are sent uncompressed, which every receiver reads; compressed ones (gzip, bz2) are read",
		"rpc_conn_pool_size":    pool,
		"conn_pool_min_size":    pool,
		"conn_pool_ttl":         pool,
	}
}

// Config gives the way to the broker at a transport URL. The options in its
// query override o's, in o as well. An error, of KindBadRequest, names the
// option and never the URL.
func (o *Options) Config(transportURL string) (Config, error) {
	if err := o.override(transportURL); err != nil {
		return Config{}, err
	}
	if err := o.validate(); err != nil {
		return Config{}, err
	}
	c := Config{
		URL: transportURL, LoginMethod: o.LoginMethod, UseTLS: o.SSL,
		Heartbeat: o.Heartbeat, Shuffle: o.Failover == "shuffle",
		Retry: Retry{First: o.RetryInterval, Step: o.RetryBackoff, Max: o.RetryMax, Lost: o.ReconnectDelay, Splay: o.ReconnectSplay},
		Declare: Declarations{
			Durable: o.Durable, AutoDelete: o.AutoDelete, HA: o.HA,
			Quorum: o.Quorum, DeliveryLimit: o.DeliveryLimit, MaxMemoryLength: o.MaxMemoryLength, MaxMemoryBytes: o.MaxMemoryBytes,
			TransientQuorum: o.TransientQuorum, TransientTTL: time.Duration(o.TransientTTL) * time.Second, TransientNoExpiry: o.TransientTTL == 0,
			StreamFanout: o.StreamFanout, CancelOnFailover: o.CancelFailover,
		},
	}
	if o.UseQueueManager {
		c.Declare.Names = &QueueNames{Host: o.HostName, Process: o.ProcessName}
	}
	if err := c.Declare.validate(); err != nil {
		return Config{}, bad("%w", err)
	}
	t, err := parseURL(transportURL)
	if err != nil {
		return Config{}, bad("%w", err)
	}
	if c.UseTLS || t.tls {
		if c.TLS, err = o.tls(); err != nil {
			return Config{}, err
		}
	}
	return c, nil
}

func bad(format string, a ...any) *trove.Error {
	return trove.Errorf(trove.KindBadRequest, format, a...)
}

func badOption(name, format string, a ...any) *trove.Error {
	return bad("[%s] %s: %w", optionGroup, name, fmt.Errorf(format, a...))
}

func (o *Options) validate() error {
	for name, v := range map[string]int{
		"rabbit_quorum_delivery_limit": o.DeliveryLimit, "rabbit_quorum_max_memory_length": o.MaxMemoryLength,
		"rabbit_quorum_max_memory_bytes": o.MaxMemoryBytes, "rabbit_transient_queues_ttl": o.TransientTTL,
		"rabbit_qos_prefetch_count": o.Prefetch,
	} {
		if v < 0 {
			return badOption(name, "%d is below 0", v)
		}
	}
	for name, v := range map[string]time.Duration{
		"kombu_missing_consumer_retry_timeout": o.MissingConsumer, "heartbeat_timeout_threshold": o.Heartbeat,
		"rabbit_retry_interval": o.RetryInterval, "rabbit_retry_backoff": o.RetryBackoff, "rabbit_interval_max": o.RetryMax,
		"kombu_reconnect_delay": o.ReconnectDelay, "kombu_reconnect_splay": o.ReconnectSplay,
	} {
		if v < 0 {
			return badOption(name, "%v is below 0", v.Seconds())
		}
	}
	switch o.Failover {
	case "round-robin", "shuffle":
	default:
		return badOption("kombu_failover_strategy", "%q is neither round-robin nor shuffle", o.Failover)
	}
	switch o.LoginMethod {
	case "AMQPLAIN", "PLAIN", external:
	default:
		return badOption("rabbit_login_method", "%q is not AMQPLAIN, PLAIN or EXTERNAL", o.LoginMethod)
	}
	if o.SSLFIPS && !fips140.Enabled() {
		return badOption("ssl_enforce_fips_mode", "this program does not run in FIPS mode").
			WithAction("start it with GODEBUG=fips140=on")
	}
	return nil
}

// tls says whom to trust. Without ssl_ca_file that is the system's authorities:
// a broker is never taken unverified.
func (o *Options) tls() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.SSLCAFile != "" {
		pem, err := os.ReadFile(o.SSLCAFile)
		if err != nil {
			return nil, badOption("ssl_ca_file", "%w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, badOption("ssl_ca_file", "%s holds no certificate", o.SSLCAFile)
		}
	}
	if o.SSLCertFile != "" {
		key := o.SSLKeyFile
		if key == "" {
			key = o.SSLCertFile
		}
		if _, err := tls.LoadX509KeyPair(o.SSLCertFile, key); err != nil {
			return nil, badOption("ssl_cert_file", "with ssl_key_file: %w", err)
		}
		// Read for each connection: it may have been renewed.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(o.SSLCertFile, key)
			return &pair, err
		}
	} else if o.SSLKeyFile != "" {
		return nil, badOption("ssl_key_file", "it needs ssl_cert_file")
	}
	if !o.SSLHostName {
		verifyChainOnly(c)
	}
	return c, nil
}

// verifyChainOnly takes any host's certificate of a trusted authority.
func verifyChainOnly(c *tls.Config) {
	c.InsecureSkipVerify = true // VerifyConnection does all but the name
	c.VerifyConnection = func(s tls.ConnectionState) error {
		intermediates := x509.NewCertPool()
		for _, i := range s.PeerCertificates[1:] {
			intermediates.AddCert(i)
		}
		_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: c.RootCAs, Intermediates: intermediates})
		return err
	}
}

// override sets the options that the query of a transport URL has. One that is
// not an option is refused, as Python does, but for the socket of our own.
func (o *Options) override(transportURL string) error {
	_, raw, _ := strings.Cut(transportURL, "?")
	query, err := url.ParseQuery(raw)
	if err != nil {
		return bad("%w: malformed options", errURL)
	}
	v := reflect.ValueOf(o).Elem()
	for i := range v.NumField() {
		_, name, _ := strings.Cut(v.Type().Field(i).Tag.Get("conf"), ".")
		words, ok := query[name]
		if !ok {
			continue
		}
		if err := set(v.Field(i), strings.Join(words, ",")); err != nil {
			return bad("%w: option %s: %w", errURL, name, err)
		}
		delete(query, name)
	}
	delete(query, "socket")
	for name := range query {
		return bad("%w: %.40q is not an option of [%s]", errURL, name, optionGroup)
	}
	return nil
}

func set(v reflect.Value, s string) error {
	if d, ok := v.Addr().Interface().(*time.Duration); ok {
		n, err := strconv.ParseFloat(s, 64)
		if err != nil || !(n >= 0 && n <= 1e9) {
			return fmt.Errorf("%.20q is not a number of seconds", s)
		}
		*d = time.Duration(n * float64(time.Second))
		return nil
	}
	switch v.Kind() {
	case reflect.Bool:
		switch strings.ToLower(s) {
		case "true", "1", "on", "yes":
			v.SetBool(true)
		case "false", "0", "off", "no":
			v.SetBool(false)
		default:
			return fmt.Errorf("%.20q is neither true nor false", s)
		}
	case reflect.Int:
		n, err := strconv.ParseInt(s, 10, 0)
		if err != nil {
			return fmt.Errorf("%.20q is not a whole number", s)
		}
		v.SetInt(n)
	case reflect.Float64:
		n, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return fmt.Errorf("%.20q is not a number", s)
		}
		v.SetFloat(n)
	default:
		v.SetString(s)
	}
	return nil
}
