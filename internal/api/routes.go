package api

// scope says what a route is about, and so what is looked up and checked before
// its handler runs.
type scope uint8

const (
	ofProject   scope = iota // the caller's project
	ofInstance               // the instance {id}
	ofEngine                 // the engine of the instance {id}, which must be serving
	ofOwnEngine              // the same, of the project in the path for administrators too
)

// route is one call of the API.
type route struct {
	method  string
	path    string // below /v1.0/{project}/
	scope   scope
	rule    string // policy rule; empty: none by design, or asked by the handler
	admin   bool   // 401 for everyone but administrators
	schema  string // of the body; empty: it takes none
	missing string // what the service does not do yet: answers 501
	handle  func(*request) (response, error)

	segments []string
}

// table is the whole contract but what is dead or reachable by accident only
// (REST API 2). Where two routes fit, the first one wins.
func (s *Server) table() []route {
	return append([]route{
		{method: "GET", path: "datastores", rule: "datastore:index", handle: s.listDatastores},
		{method: "GET", path: "datastores/versions/{version}", rule: "datastore:version_show_by_uuid", handle: s.showVersionByID},
		{method: "GET", path: "datastores/{datastore}", rule: "datastore:show", handle: s.showDatastore},
		{method: "DELETE", path: "datastores/{datastore}", rule: "datastore:delete", handle: s.deleteDatastore},
		{method: "GET", path: "datastores/{datastore}/versions", rule: "datastore:version_index", handle: s.listVersions},
		{method: "GET", path: "datastores/{datastore}/versions/{version}", rule: "datastore:version_show", handle: s.showVersion},
		{method: "GET", path: "datastores/{datastore}/versions/{version}/flavors", rule: "datastore:list_associated_flavors", handle: s.listVersionFlavors},

		{method: "GET", path: "flavors", rule: "flavor:index", handle: s.listFlavors},
		{method: "GET", path: "flavors/{flavor}", rule: "flavor:show", handle: s.showFlavor},
		{method: "GET", path: "limits", rule: "limits:index", handle: s.listLimits},
		{method: "GET", path: "mgmt/quotas/{tenant}", handle: s.showQuotas},
		{method: "PUT", path: "mgmt/quotas/{tenant}", admin: true, schema: "quotas_update", handle: s.updateQuotas},

		{method: "GET", path: "instances", rule: "instance:index", handle: s.listInstances},
		{method: "POST", path: "instances", rule: "instance:create", schema: "instance_create", handle: s.createInstance},
		{method: "GET", path: "instances/detail", rule: "instance:detail", handle: s.listInstanceDetails},
		{method: "GET", path: "instances/{id}", scope: ofInstance, rule: "instance:show", handle: s.showInstance},
		{method: "PUT", path: "instances/{id}", scope: ofInstance, rule: "instance:update", schema: "instance_put", handle: s.updateInstance},
		{method: "PATCH", path: "instances/{id}", scope: ofInstance, rule: "instance:update", schema: "instance_patch", handle: s.updateInstance},
		{method: "DELETE", path: "instances/{id}", scope: ofInstance, rule: "instance:delete", handle: s.deleteInstance},
		{method: "POST", path: "instances/{id}/action", scope: ofInstance, schema: "instance_action", handle: s.actOnInstance},
		{method: "GET", path: "instances/{id}/operations", scope: ofInstance, rule: "instance:show", handle: s.watchOperations},

		{method: "GET", path: "instances/{id}/databases", scope: ofEngine, rule: "instance:extension:database:index", handle: s.listDatabases},
		{method: "POST", path: "instances/{id}/databases", scope: ofEngine, rule: "instance:extension:database:create", schema: "databases_create", handle: s.createDatabases},
		{method: "GET", path: "instances/{id}/databases/{database}", missing: "showing one database (list them instead)"},
		{method: "DELETE", path: "instances/{id}/databases/{database}", scope: ofEngine, rule: "instance:extension:database:delete", handle: s.deleteDatabase},

		{method: "GET", path: "instances/{id}/users", scope: ofEngine, rule: "instance:extension:user:index", handle: s.listUsers},
		{method: "POST", path: "instances/{id}/users", scope: ofEngine, rule: "instance:extension:user:create", schema: "users_create", handle: s.createUsers},
		{method: "PUT", path: "instances/{id}/users", scope: ofEngine, rule: "instance:extension:user:update_all", schema: "users_update", handle: s.changePasswords},
		{method: "GET", path: "instances/{id}/users/{user}", scope: ofEngine, rule: "instance:extension:user:show", handle: s.showUser},
		{method: "PUT", path: "instances/{id}/users/{user}", scope: ofEngine, rule: "instance:extension:user:update", schema: "user_update", handle: s.updateUser},
		{method: "DELETE", path: "instances/{id}/users/{user}", scope: ofEngine, rule: "instance:extension:user:delete", handle: s.deleteUser},
		{method: "GET", path: "instances/{id}/users/{user}/databases", scope: ofEngine, rule: "instance:extension:user_access:index", handle: s.listAccess},
		{method: "PUT", path: "instances/{id}/users/{user}/databases", scope: ofEngine, rule: "instance:extension:user_access:update", schema: "access_grant", handle: s.grantAccess},
		{method: "DELETE", path: "instances/{id}/users/{user}/databases/{database}", scope: ofEngine, rule: "instance:extension:user_access:delete", handle: s.revokeAccess},

		{method: "GET", path: "instances/{id}/root", scope: ofOwnEngine, rule: "instance:extension:root:index", handle: s.showRoot},
		{method: "POST", path: "instances/{id}/root", scope: ofOwnEngine, rule: "instance:extension:root:create", schema: "root_enable", handle: s.enableRoot},
		{method: "DELETE", path: "instances/{id}/root", scope: ofOwnEngine, rule: "instance:extension:root:delete", handle: s.disableRoot},
	}, later()...)
}

// later is what the contract has and the service does not do yet.
func later() []route {
	const (
		logs           = "guest logs"
		ssl            = "SSL management"
		modules        = "modules"
		backups        = "backups"
		strategies     = "backup strategies"
		configurations = "configuration groups"
		clusters       = "clusters"
		mgmtVersions   = "management of datastore versions"
		mgmtInstances  = "management of instances across projects"
	)
	calls := []struct {
		missing string
		admin   bool
		routes  [][2]string // method, path
	}{
		{missing: "volume types", routes: [][2]string{
			{"GET", "datastores/{datastore}/versions/{version}/volume-types"}}},
		{missing: configurations, routes: [][2]string{
			{"GET", "datastores/versions/{version}/parameters"},
			{"GET", "datastores/versions/{version}/parameters/{name}"},
			{"GET", "datastores/{datastore}/versions/{version}/parameters"},
			{"GET", "datastores/{datastore}/versions/{version}/parameters/{name}"},
			{"GET", "instances/{id}/configuration"},
			{"GET", "configurations"}, {"POST", "configurations"},
			{"GET", "configurations/{configuration}"}, {"PUT", "configurations/{configuration}"},
			{"PATCH", "configurations/{configuration}"}, {"DELETE", "configurations/{configuration}"},
			{"GET", "configurations/{configuration}/instances"}}},
		{missing: backups, routes: [][2]string{
			{"GET", "instances/{id}/backups"},
			{"GET", "backups"}, {"POST", "backups"}, {"GET", "backups/{backup}"}, {"DELETE", "backups/{backup}"}}},
		{missing: strategies, routes: [][2]string{
			{"GET", "backup_strategies"}, {"POST", "backup_strategies"}, {"DELETE", "backup_strategies"}}},
		{missing: logs, routes: [][2]string{{"GET", "instances/{id}/log"}, {"POST", "instances/{id}/log"}}},
		{missing: ssl, routes: [][2]string{{"GET", "instances/{id}/ssl"}, {"POST", "instances/{id}/ssl"}}},
		{missing: modules, routes: [][2]string{
			{"GET", "instances/{id}/modules"}, {"POST", "instances/{id}/modules"},
			{"DELETE", "instances/{id}/modules/{module}"},
			{"GET", "modules"}, {"POST", "modules"}, {"GET", "modules/{module}"}, {"PUT", "modules/{module}"},
			{"DELETE", "modules/{module}"}, {"GET", "modules/{module}/instances"}, {"PUT", "modules/{module}/instances"}}},
		{missing: clusters, routes: [][2]string{
			{"GET", "clusters"}, {"POST", "clusters"}, {"GET", "clusters/{cluster}"}, {"POST", "clusters/{cluster}"},
			{"DELETE", "clusters/{cluster}"}, {"GET", "clusters/{cluster}/instances/{instance}"},
			{"GET", "clusters/{cluster}/root"}, {"POST", "clusters/{cluster}/root"}}},
		{missing: mgmtVersions, admin: true, routes: [][2]string{
			{"GET", "mgmt/datastore-versions"}, {"POST", "mgmt/datastore-versions"},
			{"GET", "mgmt/datastore-versions/{version}"}, {"PATCH", "mgmt/datastore-versions/{version}"},
			{"DELETE", "mgmt/datastore-versions/{version}"},
			{"GET", "mgmt/datastores/versions/{version}/parameters"}, {"POST", "mgmt/datastores/versions/{version}/parameters"},
			{"GET", "mgmt/datastores/versions/{version}/parameters/{name}"},
			{"PUT", "mgmt/datastores/versions/{version}/parameters/{name}"},
			{"DELETE", "mgmt/datastores/versions/{version}/parameters/{name}"}}},
		{missing: mgmtInstances, admin: true, routes: [][2]string{
			{"GET", "mgmt/instances"}, {"GET", "mgmt/instances/{instance}"}, {"POST", "mgmt/instances/{instance}/action"},
			{"GET", "mgmt/instances/{instance}/root"}, {"GET", "mgmt/instances/{instance}/hwinfo"},
			{"GET", "mgmt/instances/{instance}/diagnostics"}, {"GET", "mgmt/instances/{instance}/rpc_ping"}}},
		{missing: clusters, admin: true, routes: [][2]string{
			{"GET", "mgmt/clusters"}, {"GET", "mgmt/clusters/{cluster}"}, {"POST", "mgmt/clusters/{cluster}/action"}}},
	}
	var table []route
	for _, c := range calls {
		for _, r := range c.routes {
			table = append(table, route{method: r[0], path: r[1], admin: c.admin, missing: c.missing})
		}
	}
	return table
}
