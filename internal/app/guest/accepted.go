package guest

import (
	"strings"

	"github.com/gotrove/gotrove/internal/rpc/amqp"
)

// accepted are the options that the operator's file for guests may have and
// that change nothing: group and names, separated by blanks, with the reason
// that is told at the start.
var accepted = []struct{ group, names, reason string }{
	{"DEFAULT", "command_process_timeout state_change_poll_time state_healthy_counts report_interval num_tries", "the agent has its own rule for it"},
	{"DEFAULT", "device_path volume_fstype format_options mount_options volume_format_timeout", "the agent finds, formats and mounts a volume by its own rules"},
	{"DEFAULT", "docker_bridge_network_ip docker_insecure_registries", "it belongs into Docker's own configuration"},
	{"DEFAULT", "database_service_uid", "the engine runs as the agent's own user, in a container too"},
	{"DEFAULT", "controller_address datastore_registry_ext replication_strategy ssl_mode", "the agent has its own rule for it"},
	{"DEFAULT", "guest_log_container_name guest_log_limit guest_log_expiry", "this release does not publish guests' logs"},
	{"DEFAULT", "root_grant root_grant_option", "root has all rights, with the right to grant them"},
	{"DEFAULT", "storage_strategy storage_namespace backup_swift_container backup_aes_cbc_key backup_chunk_size backup_segment_max_size swift_url swift_api_insecure verify_swift_checksum_on_restore backup_use_gzip_compression backup_use_openssl_encryption", "this release makes no backups"},
	{"DEFAULT", "enable_secure_rpc_messaging", "messages are sealed if the instance has a key"},
	{"DEFAULT", "rpc_response_timeout executor_thread_pool_size taskmanager_queue host", "the agent makes no calls, and its name is the instance's id"},
	{"DEFAULT", "use_syslog use_journal syslog_log_facility log_file log_dir logfile logdir use_json use_stderr log_config_append default_log_levels", "what the agent logs goes to its standard error"},
	{"mysql", "*", onlyImage}, {"mariadb", "*", onlyImage}, {"postgresql", "*", onlyImage},
	{"guest_agent", "*", "of this group the agent takes the login at a registry"},
	{"service_credentials", "*", "an agent has no login at OpenStack; take it out of the file"},
	{"oslo_messaging_notifications", "*", "agents send no notifications"},
}

const onlyImage = "of this group the agent takes docker_image"

// noEffect gathers what is accepted, by group and option, for osloconf.
func noEffect() map[string]string {
	out := map[string]string{}
	for _, a := range accepted {
		for option := range strings.FieldsSeq(a.names) {
			out[a.group+"."+option] = a.reason
		}
	}
	for option, reason := range amqp.NoEffect() {
		out["oslo_messaging_rabbit."+option] = reason
	}
	return out
}
