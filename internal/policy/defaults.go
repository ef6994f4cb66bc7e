package policy

// Rules that stand for who may do a thing; all others are built of them.
const (
	ruleAdmin        = "admin"
	ruleAdminOrOwner = "admin_or_owner"
)

// ownerRules are the operations that an administrator or the owner may do.
var ownerRules = [...]string{
	"instance:create", "instance:delete", "instance:force_delete", "instance:index", "instance:detail",
	"instance:show", "instance:update", "instance:edit", "instance:restart", "instance:resize_volume",
	"instance:resize_flavor", "instance:promote_to_replica_source", "instance:eject_replica_source",
	"instance:configuration", "instance:backups", "instance:guest_log_list", "instance:module_list",
	"instance:module_apply", "instance:module_remove",
	"instance:extension:database:create", "instance:extension:database:delete",
	"instance:extension:database:index", "instance:extension:database:show",
	"instance:extension:user:create", "instance:extension:user:delete", "instance:extension:user:index",
	"instance:extension:user:show", "instance:extension:user:update", "instance:extension:user:update_all",
	"instance:extension:user_access:update", "instance:extension:user_access:delete",
	"instance:extension:user_access:index",
	"instance:extension:root:create", "instance:extension:root:delete", "instance:extension:root:index",
	"cluster:extension:root:create", "cluster:extension:root:delete", "cluster:extension:root:index",
	"backup:create", "backup:delete", "backup:index", "backup:show",
	"backup_strategy:create", "backup_strategy:index", "backup_strategy:delete",
	"configuration:create", "configuration:delete", "configuration:index", "configuration:show",
	"configuration:instances", "configuration:update", "configuration:edit",
	"configuration-parameter:index", "configuration-parameter:show",
	"configuration-parameter:index_by_version", "configuration-parameter:show_by_version",
	"limits:index",
	"module:create", "module:delete", "module:index", "module:show", "module:instances", "module:update",
	"module:reapply",
	"cluster:create", "cluster:delete", "cluster:index", "cluster:show", "cluster:show_instance",
	"cluster:action", "cluster:force_delete",
}

// openRules are the operations that everyone with a token may do.
var openRules = [...]string{
	"datastore:index", "datastore:show", "datastore:version_show", "datastore:version_show_by_uuid",
	"datastore:version_index", "datastore:list_associated_flavors",
	"datastore:list_associated_volume_types", "flavor:index", "flavor:show",
}

// adminRules are the operations of administrators.
var adminRules = [...]string{"instance:reset_status", "datastore:delete", "cluster:reset-status"}

// Defaults returns the built-in rules (contract: REST API 1.5), a new map each
// time.
func Defaults() map[string]Check {
	rules := map[string]Check{
		"context_is_admin":          Role("admin"),
		ruleAdmin:                   Any(Role("admin"), IsAdmin()),
		ruleAdminOrOwner:            Any(Rule(ruleAdmin), Project("tenant")),
		"default":                   Rule(ruleAdminOrOwner),
		"backup:index:all_projects": Role("admin"),
	}
	for _, name := range ownerRules {
		rules[name] = Rule(ruleAdminOrOwner)
	}
	for _, name := range openRules {
		rules[name] = Always()
	}
	for _, name := range adminRules {
		rules[name] = Rule(ruleAdmin)
	}
	return rules
}
