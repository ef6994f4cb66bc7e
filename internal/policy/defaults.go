package policy

import "strings"

// Rules that stand for who may do a thing; all others are built of them.
const (
	everyone     = ""
	admin        = "rule:admin"
	adminOrOwner = "rule:admin_or_owner"
)

// Default is a built-in rule.
type Default struct {
	Name        string
	Check       string // in the rule language
	Description string
	Calls       []string // of the API that ask it: "GET /v1.0/{project_id}/instances"
}

const (
	instance      = "/instances/{id}"
	action        = "POST " + instance + "/action"
	configuration = "/configurations/{configuration}"
	version       = "/datastores/{datastore}/versions/{version}"
	cluster       = "/clusters/{cluster}"
	module        = "/modules/{module}"
)

// builtIn are the rules of the original (contract: REST API 1.5). Calls are
// below /v1.0/{project_id}, separated by commas; what is in brackets is in the
// body or the query.
var builtIn = [...]struct{ name, check, calls, description string }{
	{"context_is_admin", "role:admin", "", "Who is an administrator (is_admin)"},
	{"admin", "role:admin or is_admin:True", "", "Administrators"},
	{"admin_or_owner", "rule:admin or project_id:%(tenant)s", "", "Administrators, and the members of the project that owns the thing, whatever their roles"},
	{"default", adminOrOwner, "", "What stands for a rule that is not there"},

	{"instance:create", adminOrOwner, "POST /instances", "Create an instance"},
	{"instance:delete", adminOrOwner, "DELETE " + instance, "Delete an instance"},
	{"instance:force_delete", adminOrOwner, action + " (reset_status with force_delete)", "Delete an instance whatever state it is in"},
	{"instance:index", adminOrOwner, "GET /instances", "List instances"},
	{"instance:detail", adminOrOwner, "GET /instances/detail", "List instances with all their details"},
	{"instance:show", adminOrOwner, "GET " + instance + ", GET " + instance + "/operations, GET " + instance + "/ssl", "Show an instance"},
	{"instance:update", adminOrOwner, "PUT " + instance + ", PATCH " + instance + ", POST " + instance + "/ssl, POST /instances (configuration)", "Change an instance's name, configuration group, access or version, or detach it from its source"},
	{"instance:edit", adminOrOwner, "", "Not asked by any call: PATCH asks instance:update, as it always did"},
	{"instance:restart", adminOrOwner, action + " (restart)", "Restart the engine"},
	{"instance:resize_volume", adminOrOwner, action + " (resize with volume)", "Make the volume larger"},
	{"instance:resize_flavor", adminOrOwner, action + " (resize with flavorRef)", "Change the flavor"},
	{"instance:reset_status", admin, action + " (reset_status)", "Reset the status of an instance that is stuck"},
	{"instance:promote_to_replica_source", adminOrOwner, action + " (promote_to_replica_source)", "Make a replica the source of its set"},
	{"instance:eject_replica_source", adminOrOwner, action + " (eject_replica_source)", "Take a failed source out of its replica set"},
	{"instance:configuration", adminOrOwner, "GET " + instance + "/configuration", "Show the configuration an instance has by default"},
	{"instance:guest_log_list", adminOrOwner, "GET " + instance + "/log", "List the logs of an engine"},
	{"instance:backups", adminOrOwner, "GET " + instance + "/backups", "List the backups of an instance"},
	{"instance:module_list", adminOrOwner, "GET " + instance + "/modules", "List the modules of an instance"},
	{"instance:module_apply", adminOrOwner, "POST " + instance + "/modules, POST /instances (modules)", "Apply modules to an instance"},
	{"instance:module_remove", adminOrOwner, "DELETE " + instance + "/modules/{module}", "Remove a module from an instance"},

	{"instance:extension:root:create", adminOrOwner, "POST " + instance + "/root", "Enable root and get its password"},
	{"instance:extension:root:delete", adminOrOwner, "DELETE " + instance + "/root", "Disable root"},
	{"instance:extension:root:index", adminOrOwner, "GET " + instance + "/root", "Tell whether root was ever enabled"},

	{"instance:extension:user:create", adminOrOwner, "POST " + instance + "/users, POST /instances (users)", "Create database users"},
	{"instance:extension:user:delete", adminOrOwner, "DELETE " + instance + "/users/{user}", "Delete a database user"},
	{"instance:extension:user:index", adminOrOwner, "GET " + instance + "/users", "List database users"},
	{"instance:extension:user:show", adminOrOwner, "GET " + instance + "/users/{user}", "Show a database user"},
	{"instance:extension:user:update", adminOrOwner, "PUT " + instance + "/users/{user}", "Change a database user's name, host or password"},
	{"instance:extension:user:update_all", adminOrOwner, "PUT " + instance + "/users", "Change the passwords of several database users"},
	{"instance:extension:user_access:update", adminOrOwner, "PUT " + instance + "/users/{user}/databases", "Let a database user use databases"},
	{"instance:extension:user_access:delete", adminOrOwner, "DELETE " + instance + "/users/{user}/databases/{database}", "Take a database away from a database user"},
	{"instance:extension:user_access:index", adminOrOwner, "GET " + instance + "/users/{user}/databases", "List the databases that a database user may use"},

	{"instance:extension:database:create", adminOrOwner, "POST " + instance + "/databases, POST /instances (databases)", "Create databases"},
	{"instance:extension:database:delete", adminOrOwner, "DELETE " + instance + "/databases/{database}", "Delete a database"},
	{"instance:extension:database:index", adminOrOwner, "GET " + instance + "/databases", "List databases"},
	{"instance:extension:database:show", adminOrOwner, "GET " + instance + "/databases/{database}", "Show a database"},

	{"backup:create", adminOrOwner, "POST /backups", "Create a backup"},
	{"backup:delete", adminOrOwner, "DELETE /backups/{backup}", "Delete a backup"},
	{"backup:index", adminOrOwner, "GET /backups", "List backups"},
	{"backup:index:all_projects", "role:admin", "GET /backups (all_projects or project_id)", "List the backups of other projects"},
	{"backup:show", adminOrOwner, "GET /backups/{backup}", "Show a backup"},
	{"backup_strategy:create", adminOrOwner, "POST /backup_strategies", "Say where backups go"},
	{"backup_strategy:index", adminOrOwner, "GET /backup_strategies", "List where backups go"},
	{"backup_strategy:delete", adminOrOwner, "DELETE /backup_strategies", "Forget where backups go"},

	{"configuration:create", adminOrOwner, "POST /configurations", "Create a configuration group"},
	{"configuration:delete", adminOrOwner, "DELETE " + configuration, "Delete a configuration group"},
	{"configuration:index", adminOrOwner, "GET /configurations", "List configuration groups"},
	{"configuration:show", adminOrOwner, "GET " + configuration, "Show a configuration group"},
	{"configuration:instances", adminOrOwner, "GET " + configuration + "/instances", "List the instances that have a configuration group"},
	{"configuration:update", adminOrOwner, "PUT " + configuration, "Replace the values of a configuration group"},
	{"configuration:edit", adminOrOwner, "PATCH " + configuration, "Change some values of a configuration group"},
	{"configuration-parameter:index", adminOrOwner, "GET " + version + "/parameters", "List the parameters of a datastore version"},
	{"configuration-parameter:show", adminOrOwner, "GET " + version + "/parameters/{name}", "Show a parameter of a datastore version"},
	{"configuration-parameter:index_by_version", adminOrOwner, "GET /datastores/versions/{version}/parameters", "List the parameters of a datastore version, by its id alone"},
	{"configuration-parameter:show_by_version", adminOrOwner, "GET /datastores/versions/{version}/parameters/{name}", "Show a parameter of a datastore version, by its id alone"},

	{"datastore:index", everyone, "GET /datastores", "List datastores"},
	{"datastore:show", everyone, "GET /datastores/{datastore}", "Show a datastore"},
	{"datastore:delete", admin, "DELETE /datastores/{datastore}", "Delete a datastore"},
	{"datastore:version_index", everyone, "GET /datastores/{datastore}/versions", "List the versions of a datastore"},
	{"datastore:version_show", everyone, "GET " + version, "Show a version of a datastore"},
	{"datastore:version_show_by_uuid", everyone, "GET /datastores/versions/{version}", "Show a datastore version, by its id alone"},
	{"datastore:list_associated_flavors", everyone, "GET " + version + "/flavors", "List the flavors that a datastore version can have"},
	{"datastore:list_associated_volume_types", everyone, "GET " + version + "/volume-types", "List the volume types that a datastore version can have"},

	{"flavor:index", everyone, "GET /flavors", "List flavors"},
	{"flavor:show", everyone, "GET /flavors/{flavor}", "Show a flavor"},
	{"limits:index", adminOrOwner, "GET /limits", "List the limits of the project"},

	{"module:create", adminOrOwner, "POST /modules", "Create a module"},
	{"module:delete", adminOrOwner, "DELETE " + module, "Delete a module"},
	{"module:index", adminOrOwner, "GET /modules", "List modules"},
	{"module:show", adminOrOwner, "GET " + module, "Show a module"},
	{"module:instances", adminOrOwner, "GET " + module + "/instances", "List the instances that have a module"},
	{"module:update", adminOrOwner, "PUT " + module, "Change a module"},
	{"module:reapply", adminOrOwner, "PUT " + module + "/instances", "Apply a module again wherever it is"},

	{"cluster:create", adminOrOwner, "POST /clusters", "Create a cluster"},
	{"cluster:delete", adminOrOwner, "DELETE " + cluster, "Delete a cluster"},
	{"cluster:force_delete", adminOrOwner, "POST " + cluster + " (reset-status with force_delete)", "Delete a cluster whatever state it is in"},
	{"cluster:index", adminOrOwner, "GET /clusters", "List clusters"},
	{"cluster:show", adminOrOwner, "GET " + cluster, "Show a cluster"},
	{"cluster:show_instance", adminOrOwner, "GET " + cluster + "/instances/{instance}", "Show an instance of a cluster"},
	{"cluster:action", adminOrOwner, "POST " + cluster, "Act on a cluster"},
	{"cluster:reset-status", admin, "POST " + cluster + " (reset-status)", "Reset the status of a cluster that is stuck"},
	{"cluster:extension:root:create", adminOrOwner, "POST " + cluster + "/root", "Enable root on the instances of a cluster"},
	{"cluster:extension:root:delete", adminOrOwner, "DELETE " + cluster + "/root", "Disable root on the instances of a cluster"},
	{"cluster:extension:root:index", adminOrOwner, "GET " + cluster + "/root", "Tell whether root was ever enabled on a cluster"},
}

// Defaults are the built-in rules in the order in which people read them.
func Defaults() []Default {
	out := make([]Default, len(builtIn))
	for i, r := range builtIn {
		out[i] = Default{Name: r.name, Check: r.check, Description: r.description}
		if r.calls == "" {
			continue
		}
		for call := range strings.SplitSeq(r.calls, ", ") {
			method, path, _ := strings.Cut(call, " ")
			out[i].Calls = append(out[i].Calls, method+" /v1.0/{project_id}"+path)
		}
	}
	return out
}

// defaultChecks gives the built-in rules by name, a new map each time.
func defaultChecks() map[string]Check {
	out := make(map[string]Check, len(builtIn))
	for _, r := range builtIn {
		c, err := Parse(r.check)
		if err != nil { // a test parses them all
			c = Never()
		}
		out[r.name] = c
	}
	return out
}
