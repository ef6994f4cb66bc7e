package server

import (
	"log/slog"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/identity/keystone"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// keystoneOptions is the group [keystone_authtoken]: where tokens are checked,
// with the names and defaults of keystonemiddleware and keystoneauth.
type keystoneOptions struct {
	PublicURI string `conf:"keystone_authtoken.www_authenticate_uri" default:"" deprecated:"keystone_authtoken.auth_uri" help:"Keystone's URL for people; callers without a token are told. auth_url if empty."`
	AuthURL   string `conf:"keystone_authtoken.auth_url" default:"" deprecated:"keystone_authtoken.identity_uri" help:"Keystone's URL for this service, with or without /v3."`
	AuthType  string `conf:"keystone_authtoken.auth_type" default:"password" deprecated:"keystone_authtoken.auth_plugin" help:"password, v3password or v3applicationcredential."`

	Username          string        `conf:"keystone_authtoken.username" default:"" deprecated:"keystone_authtoken.user_name,keystone_authtoken.admin_user"`
	UserID            string        `conf:"keystone_authtoken.user_id" default:""`
	Password          secret.String `conf:"keystone_authtoken.password" deprecated:"keystone_authtoken.admin_password"`
	UserDomainID      string        `conf:"keystone_authtoken.user_domain_id" default:""`
	UserDomainName    string        `conf:"keystone_authtoken.user_domain_name" default:""`
	ProjectID         string        `conf:"keystone_authtoken.project_id" default:"" deprecated:"keystone_authtoken.tenant_id"`
	ProjectName       string        `conf:"keystone_authtoken.project_name" default:"" deprecated:"keystone_authtoken.tenant_name,keystone_authtoken.admin_tenant_name"`
	ProjectDomainID   string        `conf:"keystone_authtoken.project_domain_id" default:""`
	ProjectDomainName string        `conf:"keystone_authtoken.project_domain_name" default:""`
	DefaultDomainID   string        `conf:"keystone_authtoken.default_domain_id" default:""`
	DefaultDomainName string        `conf:"keystone_authtoken.default_domain_name" default:""`
	SystemScope       string        `conf:"keystone_authtoken.system_scope" default:"" help:"all: the service's token is for the system instead of a project."`
	CredentialID      string        `conf:"keystone_authtoken.application_credential_id" default:""`
	CredentialName    string        `conf:"keystone_authtoken.application_credential_name" default:""`
	CredentialSecret  secret.String `conf:"keystone_authtoken.application_credential_secret"`
	AuthSection       string        `conf:"keystone_authtoken.auth_section" default:""`

	Region         string        `conf:"keystone_authtoken.region_name" default:"" help:"Region of the Keystone to ask; any if empty."`
	Interface      string        `conf:"keystone_authtoken.interface" default:"internal" help:"Which of Keystone's endpoints is asked: internal, public or admin."`
	CAFile         string        `conf:"keystone_authtoken.cafile" default:""`
	CertFile       string        `conf:"keystone_authtoken.certfile" default:""`
	KeyFile        string        `conf:"keystone_authtoken.keyfile" default:""`
	Insecure       bool          `conf:"keystone_authtoken.insecure" default:"false"`
	Timeout        time.Duration `conf:"keystone_authtoken.http_connect_timeout" default:"10" help:"Of one request to Keystone, in seconds."`
	Retries        int           `conf:"keystone_authtoken.http_request_max_retries" default:"3"`
	IncludeCatalog bool          `conf:"keystone_authtoken.include_service_catalog" default:"true"`
	ServiceType    string        `conf:"keystone_authtoken.service_type" default:"database" help:"What this service is called in access rules of application credentials."`
	CacheTime      time.Duration `conf:"keystone_authtoken.token_cache_time" default:"300" help:"How long a checked token is not checked again, in seconds; -1 is not at all. A revoked token works that long."`
	CacheGrace     time.Duration `conf:"gotrove.token_cache_grace" default:"3600" help:"How much longer while Keystone is away, in seconds; 0 is not at all."`

	// What follows has no effect: see noEffect.
	AuthVersion               string        `conf:"keystone_authtoken.auth_version" default:""`
	DelayAuthDecision         bool          `conf:"keystone_authtoken.delay_auth_decision" default:"false"`
	EnforceTokenBind          string        `conf:"keystone_authtoken.enforce_token_bind" default:"permissive"`
	ServiceTokenRoles         []string      `conf:"keystone_authtoken.service_token_roles" default:"service"`
	ServiceTokenRolesRequired bool          `conf:"keystone_authtoken.service_token_roles_required" default:"false"`
	Cache                     string        `conf:"keystone_authtoken.cache" default:""`
	MemcachedServers          []string      `conf:"keystone_authtoken.memcached_servers" default:"" deprecated:"keystone_authtoken.memcache_servers"`
	MemcacheStrategy          string        `conf:"keystone_authtoken.memcache_security_strategy" default:"None"`
	MemcacheKey               secret.String `conf:"keystone_authtoken.memcache_secret_key"`
	MemcacheDeadRetry         int           `conf:"keystone_authtoken.memcache_pool_dead_retry" default:"300"`
	MemcacheMaxSize           int           `conf:"keystone_authtoken.memcache_pool_maxsize" default:"10"`
	MemcacheSocketTimeout     int           `conf:"keystone_authtoken.memcache_pool_socket_timeout" default:"3"`
	MemcacheUnusedTimeout     int           `conf:"keystone_authtoken.memcache_pool_unused_timeout" default:"60"`
	MemcacheGetTimeout        int           `conf:"keystone_authtoken.memcache_pool_conn_get_timeout" default:"10"`
	MemcacheAdvanced          bool          `conf:"keystone_authtoken.memcache_use_advanced_pool" default:"true"`
	CollectTiming             bool          `conf:"keystone_authtoken.collect_timing" default:"false"`
	SplitLoggers              bool          `conf:"keystone_authtoken.split_loggers" default:"false"`
}

// noEffect are those that are accepted and change nothing, by their names in
// [keystone_authtoken], with the reason.
func (keystoneOptions) noEffect() map[string]string {
	const (
		memcached = "each process remembers tokens by itself, by their SHA-256"
		services  = "X-Service-Token is not looked at: a token that has expired is never accepted"
	)
	return map[string]string{
		"auth_version":                   "Keystone's API is v3",
		"delay_auth_decision":            "a call without a valid token is always refused",
		"enforce_token_bind":             "Keystone binds no tokens since v3.10",
		"service_token_roles":            services,
		"service_token_roles_required":   services,
		"cache":                          memcached,
		"memcached_servers":              memcached,
		"memcache_security_strategy":     memcached,
		"memcache_secret_key":            memcached,
		"memcache_pool_dead_retry":       memcached,
		"memcache_pool_maxsize":          memcached,
		"memcache_pool_socket_timeout":   memcached,
		"memcache_pool_unused_timeout":   memcached,
		"memcache_pool_conn_get_timeout": memcached,
		"memcache_use_advanced_pool":     memcached,
		"collect_timing":                 "see the metrics",
		"split_loggers":                  "requests to Keystone are not logged one by one",
	}
}

// publicURI is what callers without a token are told.
func (o *keystoneOptions) publicURI() string {
	if o.PublicURI != "" {
		return o.PublicURI
	}
	return o.AuthURL
}

// config makes the options of a validator.
func (o *keystoneOptions) config(log *slog.Logger) (keystone.Options, error) {
	wrong := func(format string, args ...any) error {
		return trove.Errorf(trove.KindBadRequest, "[keystone_authtoken] "+format, args...)
	}
	if o.AuthSection != "" {
		return keystone.Options{}, wrong("auth_section is not supported: put the login into [keystone_authtoken] itself")
	}
	k := keystone.Options{
		AuthURL: o.AuthURL, SystemScope: o.SystemScope == "all",
		Username: o.Username, UserID: o.UserID, Password: o.Password, UserDomainID: o.UserDomainID, UserDomainName: o.UserDomainName,
		Region: o.Region, Interface: o.Interface, CAFile: o.CAFile, CertFile: o.CertFile, KeyFile: o.KeyFile, Insecure: o.Insecure,
		WithoutCatalog: !o.IncludeCatalog, Timeout: o.Timeout, Retries: max(o.Retries, 0), CacheTime: o.CacheTime, Grace: o.CacheGrace, Log: log,
	}
	if o.CacheTime == 0 { // neither the default nor "not at all" to the validator
		k.CacheTime = -1
	}
	if o.CacheGrace == 0 {
		k.Grace = -1
	}
	if k.UserDomainID == "" && k.UserDomainName == "" {
		k.UserDomainID, k.UserDomainName = o.defaultDomain()
	}
	switch strings.TrimPrefix(o.AuthType, "v3") {
	case "password":
		k.ProjectID, k.ProjectName = o.ProjectID, o.ProjectName
		k.ProjectDomainID, k.ProjectDomainName = o.ProjectDomainID, o.ProjectDomainName
		if k.ProjectDomainID == "" && k.ProjectDomainName == "" {
			k.ProjectDomainID, k.ProjectDomainName = o.defaultDomain()
		}
	case "applicationcredential":
		k.CredentialID, k.CredentialName, k.CredentialSecret = o.CredentialID, o.CredentialName, o.CredentialSecret
		if k.CredentialID == "" && k.CredentialName == "" {
			return k, wrong("application_credential_id is needed")
		}
	default:
		return k, wrong("auth_type: %q is not password, v3password or v3applicationcredential", o.AuthType)
	}
	return k, nil
}

func (o *keystoneOptions) defaultDomain() (id, name string) {
	if o.DefaultDomainID == "" && o.DefaultDomainName == "" {
		return "", "Default"
	}
	return o.DefaultDomainID, o.DefaultDomainName
}
