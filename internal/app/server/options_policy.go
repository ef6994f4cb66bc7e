package server

import (
	"log/slog"
	"slices"
	"strings"

	"github.com/gotrove/gotrove/internal/policy"
)

// policyOptions is the group [oslo_policy]: where the policy files are.
type policyOptions struct {
	File        string   `conf:"oslo_policy.policy_file" default:"policy.yaml" deprecated:"policy_file" help:"Rules that differ from the defaults; relative to the directories of the configuration. It may be missing; policy.json is read if policy.yaml is not there."`
	DefaultRule string   `conf:"oslo_policy.policy_default_rule" default:"default" deprecated:"policy_default_rule" help:"The rule that stands for one that is not there."`
	Dirs        []string `conf:"oslo_policy.policy_dirs,multi" default:"policy.d" deprecated:"policy_dirs" help:"Directories with more files, read after policy_file. They may be missing."`
	AdminRoles  []string `conf:"admin_roles" default:"" help:"Roles that make an administrator, in place of the policy rule context_is_admin. Deprecated: change the rule."`

	// What follows has no effect: see noEffect.
	EnforceScope       bool   `conf:"oslo_policy.enforce_scope" default:"true"`
	EnforceNewDefaults bool   `conf:"oslo_policy.enforce_new_defaults" default:"true"`
	RemoteContentType  string `conf:"oslo_policy.remote_content_type" default:"application/x-www-form-urlencoded"`
	RemoteVerify       bool   `conf:"oslo_policy.remote_ssl_verify_server_crt" default:"false"`
	RemoteCAFile       string `conf:"oslo_policy.remote_ssl_ca_crt_file" default:""`
	RemoteCertFile     string `conf:"oslo_policy.remote_ssl_client_crt_file" default:""`
	RemoteKeyFile      string `conf:"oslo_policy.remote_ssl_client_key_file" default:""`
	RemoteTimeout      int    `conf:"oslo_policy.remote_timeout" default:"60"`
}

// noEffect are those that are accepted and change nothing, by their names in
// [oslo_policy], with the reason.
func (policyOptions) noEffect() map[string]string {
	const remote = "rules that ask another server (http:) are refused"
	return map[string]string{
		"enforce_scope":                "the calls take tokens of a project only",
		"enforce_new_defaults":         "no default was ever changed",
		"remote_content_type":          remote,
		"remote_ssl_verify_server_crt": remote,
		"remote_ssl_ca_crt_file":       remote,
		"remote_ssl_client_crt_file":   remote,
		"remote_ssl_client_key_file":   remote,
		"remote_timeout":               remote,
	}
}

// config makes the options of an enforcer. search are the directories of the
// configuration files, where relative names are looked for.
func (o *policyOptions) config(search []string, log *slog.Logger) policy.Options {
	roles := slices.DeleteFunc(slices.Clone(o.AdminRoles), func(r string) bool { return r == "" })
	for i := range roles {
		roles[i] = strings.ToLower(roles[i])
	}
	return policy.Options{File: o.File, Dirs: o.Dirs, Search: search, DefaultRule: o.DefaultRule, AdminRoles: roles, Log: log}
}
