package server

import (
	"strings"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
)

// accepted are the options that an operator's files may have and that change
// nothing here: group and names, separated by blanks, with the reason that is
// told at the start. Without a reason it is another program's, the guest
// agent's, and nothing is told.
var accepted = []struct{ group, names, reason string }{
	{"DEFAULT", "api_paste_config", "the API's filters are built in"},
	{"DEFAULT", "trove_api_workers trove_conductor_workers", "one process uses all processors; start more of them where more are wanted"},
	{"DEFAULT", "report_interval", "services have no periodic tasks of one period; in a guest's own file it is the agent's"},
	{"DEFAULT", "users_page_size databases_page_size clusters_page_size backups_page_size configurations_page_size modules_page_size", "pages of all lists have instances_page_size"},
	{"DEFAULT", "http_get_rate http_post_rate http_delete_rate http_put_rate http_mgmt_post_rate", "[gotrove] rate_per_minute is the limit for each method"},
	{"DEFAULT", "max_header_line", "headers may have 64 KiB together"},
	{"DEFAULT", "taskmanager_manager conductor_manager db_api_implementation quota_driver network_driver pybasedir", "there is one of these, and it is built in"},
	{"DEFAULT", "remote_dns_client remote_guest_client remote_nova_client remote_neutron_client remote_cinder_client remote_swift_client remote_trove_client remote_glance_client", "Python classes cannot be loaded"},
	{"DEFAULT", "region", "[service_credentials] region_name is, on a machine of its own [gotrove] region_name"},
	{"DEFAULT", "update_status_on_fail", "what failed is always said to have failed, with the reason"},
	{"DEFAULT", "usage_sleep_time state_change_poll_time", "a heartbeat wakes what waits for it"},
	{"DEFAULT", "agent_heartbeat_time", "agent_heartbeat_expiry is"},
	{"DEFAULT", "num_tries", "what fails is tried again until a deadline"},
	{"DEFAULT", "sql_query_logging", "statements that fail are logged, values never"},
	{"DEFAULT", "network_label_regex expected_filetype_suffixes hostname_require_valid_ip hostname_require_ipv4 backup_runner backup_runner_options storage_namespace backup_use_gzip_compression backup_use_openssl_encryption cluster_usage_timeout cluster_delete_time_out", "the original does not use it any more"},

	{"DEFAULT", "trove_volume_support", "instances have a volume each"},
	{"DEFAULT", "volume_rootdisk_size", "servers boot from the disk of their flavor"},
	{"DEFAULT", "block_device_mapping", "a guest finds its volume by the volume's id"},
	{"DEFAULT", "verify_replica_volume_size", "this release makes no replicas"},
	{"DEFAULT", "volume_time_out server_delete_time_out reboot_time_out", "what is asked of the cloud is waited for until its operation's deadline; a deletion never gives up"},
	{"DEFAULT", "glance_client_version cinder_client_version", "Glance's API is v2, Cinder's is v3"},
	{"DEFAULT", "ip_regex black_list_regex", "of an instance's addresses users see those on their own network"},
	{"DEFAULT", "trove_url trove_service_type trove_endpoint_type barbican_url barbican_service_type barbican_endpoint_type", "these services are not asked"},
	{"DEFAULT", "guest_info injected_config_location", "the agent's files are in /etc/trove/conf.d, where its images look for them"},
	{"DEFAULT", "trove_dns_support dns_driver dns_instance_entry_factory dns_hostname dns_account_id dns_endpoint_url dns_service_type dns_region dns_auth_url dns_user_domain_id dns_project_domain_id dns_domain_name dns_username dns_passkey dns_management_base_url dns_ttl dns_domain_id dns_time_out", "this release makes no DNS records"},
	{"instance_ports_cache", "expiration_time caching", "addresses are kept by the task manager, at most ten seconds old"},
	{"cache", "*", "nothing is kept in an outside cache"},

	{"DEFAULT", "restore_usage_timeout running_backups_expires swift_url swift_service_type swift_endpoint_type swift_api_insecure verify_swift_checksum_on_restore storage_strategy replica_snapshot_driver backup_swift_container backup_aes_cbc_key backup_chunk_size backup_segment_max_size agent_replication_snapshot_timeout", "this release makes no backups and no replicas"},
	{"DEFAULT", "guest_log_container_name guest_log_limit guest_log_expiry", "this release does not publish guests' logs"},
	{"DEFAULT", "module_aes_cbc_key module_types module_reapply_max_batch_size module_reapply_min_batch_delay", "this release has no modules"},
	{"DEFAULT", "template_path datastore_registry_ext", "the configuration of engines is built in"},
	{"DEFAULT", "exists_notification_transformer exists_notification_interval quota_notification_interval notification_service_id", noNotifications},
	{"oslo_messaging_notifications", "*", noNotifications},
	{"audit_middleware_notifications", "*", noNotifications},
	{"profiler", "*", "there is no OSProfiler"},
	{"oslo_concurrency", "*", "locks are in the database, or in gotrove's own directories"},
	{"oslo_reports", "*", "there are no reports to write"},
	{"oslo_middleware", "max_request_body_size", "the body of a request may have 1 MiB"},
	{"oslo_middleware", "secure_proxy_ssl_header", "X-Forwarded-Proto is, with enable_proxy_headers_parsing"},
	{"cors", "*", "the API tells browsers the headers and methods it has"},
	{"ssl", "*", "the API speaks HTTP; put a proxy with TLS before it"},

	// What the guest agent's own file holds may be in trove.conf too.
	{"DEFAULT", "command_process_timeout guest_id controller_address state_change_wait_time state_healthy_counts volume_fstype format_options volume_format_timeout mount_options device_path datastore_manager datastore_version instance_rpc_encr_key root_grant root_grant_option database_service_uid tenant_id", ""},
	{"guest_agent", "*", ""},
	{"mysql", "*", ""}, {"mariadb", "*", ""}, {"postgresql", "*", ""},

	{"percona", "*", noEngine}, {"pxc", "*", noEngine}, {"redis", "*", noEngine}, {"cassandra", "*", noEngine}, {"couchbase", "*", noEngine},
	{"mongodb", "*", noEngine}, {"couchdb", "*", noEngine}, {"vertica", "*", noEngine}, {"db2", "*", noEngine},

	{"DEFAULT", "use_syslog use_journal syslog_log_facility use_eventlog", "the service manager's journal gets what goes to the standard error"},
	{"DEFAULT", "log_config_append", "Python's logging is configured by it"},
	{"DEFAULT", "log_date_format logging_context_format_string logging_default_format_string logging_debug_format_suffix logging_exception_prefix logging_user_identity_format instance_format instance_uuid_format log_color", "lines are in one form, JSON or text: see use_json"},
	{"DEFAULT", "watch_log_file log_rotate_interval log_rotate_interval_type max_logfile_count max_logfile_size_mb log_rotation_type", "a log file is opened anew on SIGHUP: let logrotate send it"},
	{"DEFAULT", "default_log_levels rate_limit_interval rate_limit_burst rate_limit_except_level", "there is one level for all: see debug"},
	{"DEFAULT", "publish_errors fatal_deprecations verbose", "the original does not use it any more"},
}

const (
	noNotifications = "this release sends no notifications"
	noEngine        = "there is no such engine, in the original's newest releases neither"
)

// noEffect gathers what is accepted, by group and option, for osloconf.
func noEffect() map[string]string {
	out := map[string]string{}
	for _, a := range accepted {
		for option := range strings.FieldsSeq(a.names) {
			out[a.group+"."+option] = a.reason
		}
	}
	for group, options := range map[string]map[string]string{
		"DEFAULT": rpc.NoEffect(), "oslo_messaging_rabbit": amqp.NoEffect(), "database": databaseOptions{}.noEffect(),
		"keystone_authtoken": keystoneOptions{}.noEffect(), "oslo_policy": policyOptions{}.noEffect(),
	} {
		for option, reason := range options {
			out[group+"."+option] = reason
		}
	}
	return out
}
