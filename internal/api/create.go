package api

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gotrove/gotrove/internal/api/view"
	"github.com/gotrove/gotrove/internal/outbox"
	"github.com/gotrove/gotrove/internal/rpcapi"
	"github.com/gotrove/gotrove/internal/rpcapi/taskmanager"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// createInstance checks everything that can be checked at once, in the
// contract's order (REST API 2.4.3), so that what is accepted can be made.
func (s *Server) createInstance(q *request) (response, error) {
	ctx := q.Context()
	body := q.body.object("instance")
	if err := replicaConflicts(body); err != nil {
		return response{}, err
	}
	version, err := s.chooseVersion(q, body.object("datastore"))
	if err != nil {
		return response{}, err
	}
	databases, users, err := s.newAccounts(q, version.Manager, body)
	if err != nil {
		return response{}, err
	}
	metadata, err := s.store.VersionMetadata(ctx, version.ID)
	if err != nil {
		return response{}, err
	}
	nics, err := s.nics(q, body.objects("nics"))
	if err != nil {
		return response{}, err
	}
	flavor, err := s.chooseFlavor(q, version, metadata[store.BindFlavor], body)
	if err != nil {
		return response{}, err
	}
	region := body.text("region_name")
	if region != "" && region != s.config.Region {
		return response{}, trove.Errorf(trove.KindBadRequest,
			"Validation error: instance['region_name'] '%s' is not a region of this service; it serves %s.", region, s.config.Region)
	}
	if err := s.volumeType(version, metadata[store.BindVolumeType], body.object("volume").text("type")); err != nil {
		return response{}, err
	}
	size, err := s.volumeSize(body)
	if err != nil {
		return response{}, err
	}
	if err := laterFeatures(body); err != nil {
		return response{}, err
	}
	if err := s.room(version.Manager); err != nil {
		return response{}, err
	}

	now := s.clock()
	inst := &trove.Instance{
		ID: trove.NewID(), Name: body.text("name"), TenantID: q.creds.ProjectID, RegionID: s.config.Region,
		FlavorID: flavor.ID, Created: now, Updated: now, Task: trove.TaskBuilding, VolumeSize: size,
		Access: access(body), Version: version, Service: trove.ServiceNew, ServiceUpdated: now,
		EncryptedKey: s.keys.MakeKey(),
	}
	create := taskmanager.CreateInstance{
		InstanceID: inst.ID, Name: inst.Name,
		Flavor:  wireFlavor(flavor),
		ImageID: version.ImageID, DatastoreManager: version.Manager, DSVersion: version.Number,
		Databases: rpcapi.Databases(databases), Users: rpcapi.Users(users),
		AvailabilityZone: body.textOrNil("availability_zone"), VolumeType: body.object("volume").textOrNil("type"),
	}
	if packages := strings.Join(version.Packages, ","); packages != "" {
		create.Packages = &packages
	}
	if size > 0 {
		create.VolumeSize = &size
	}
	for _, n := range nics {
		create.NICs = append(create.NICs, taskmanager.NIC{NetworkID: n.NetworkID, SubnetID: n.SubnetID, IPAddress: n.IPAddress})
	}
	if inst.Access != nil {
		create.Access = &taskmanager.Access{IsPublic: inst.Access.IsPublic, AllowedCIDRs: inst.Access.AllowedCIDRs}
	}
	row, err := outbox.Row(ctx, create.Message(s.config.TaskManagerTopic), "", forEver)
	if err != nil {
		return response{}, err
	}
	err = s.store.CreateInstance(ctx, store.NewInstance{
		Instance: inst, Cost: inst.Footprint(flavor), Limits: s.config.Quotas, Outbox: []store.OutboxRow{row}})
	if err != nil {
		return response{}, err
	}
	q.trail.made = inst.ID
	s.log.InfoContext(ctx, "instance accepted", "instance_id", inst.ID, "datastore", version.DatastoreName,
		"version", version.Number, "flavor", flavor.ID)
	return ok(map[string]view.Instance{"instance": q.viewer().InstanceDetail(inst)})
}

// replicaConflicts refuses what a replica takes from its source.
func replicaConflicts(body object) error {
	if !body.has("replica_of") {
		if n, given := body.number("replica_count"); given && n > 1 {
			return trove.Errorf(trove.KindBadRequest, "Replica count only valid for replica instances: give replica_of too.")
		}
		return nil
	}
	for _, c := range []struct{ key, word string }{
		{"flavorRef", "flavor"}, {"datastore", "datastore"}, {"volume", "volume"}, {"locality", "locality"},
	} {
		if body.has(c.key) {
			return trove.Errorf(trove.KindBadRequest, "Cannot specify %s when creating replicas.", c.word)
		}
	}
	if len(body.objects("databases")) > 0 || len(body.objects("users")) > 0 {
		return trove.Errorf(trove.KindBadRequest, "Cannot create databases or users when creating replicas: they are the source's.")
	}
	return notBuilt("replication (instance['replica_of'])")
}

// laterFeatures refuses what a body asks for and the service does not do yet.
func laterFeatures(body object) error {
	switch {
	case body["restorePoint"] != nil:
		return notBuilt("restoring a backup (instance['restorePoint'])")
	case body.text("configuration") != "":
		return notBuilt("configuration groups (instance['configuration'])")
	case len(body.objects("modules")) > 0:
		return notBuilt("modules (instance['modules'])")
	case body.has("locality"):
		return notBuilt("placing instances together or apart (instance['locality'])")
	}
	return nil
}

// chooseVersion finds the datastore version that the body asks for. An unknown
// datastore is 404, an unknown version 400 unless it was given as a UUID.
func (s *Server) chooseVersion(q *request, asked object) (trove.DatastoreVersion, error) {
	var none trove.DatastoreVersion
	name := asked.text("type")
	if name == "" {
		name = s.config.DefaultDatastore
	}
	if name == "" {
		return none, trove.Errorf(trove.KindBadRequest,
			"Validation error: instance['datastore'] 'type' is a required property: this service has no default datastore.")
	}
	ds, err := s.store.Datastore(q.Context(), name)
	if err != nil {
		return none, datastoreError(err, name)
	}
	want := asked.text("version")
	if want == "" {
		want = ds.DefaultVersionID
	}
	if want == "" {
		return none, trove.Errorf(trove.KindBadRequest, "Validation error: instance['datastore'] 'version' is a required "+
			"property: datastore %s has no default version. It has %s.", ds.Name, activeVersions(ds))
	}
	v, err := findVersion(ds, want, asked.text("version_number"))
	if err != nil {
		return none, err
	}
	if !v.Active {
		return none, trove.Errorf(trove.KindBadRequest, "Datastore version '%s' is not active. Active versions of %s: %s.",
			want, ds.Name, activeVersions(ds))
	}
	return v, nil
}

func datastoreError(err error, name string) error {
	if trove.IsKind(err, trove.KindNotFound) {
		return trove.Errorf(trove.KindNotFound, "Datastore '%s' cannot be found.", shorten(name))
	}
	return err
}

// findVersion finds a version by id, or by name and, if given, number.
func findVersion(ds trove.Datastore, idOrName, number string) (trove.DatastoreVersion, error) {
	var found []trove.DatastoreVersion
	for _, v := range ds.Versions {
		if v.ID == idOrName {
			return v, nil
		}
		if v.Name == idOrName && (number == "" || v.Number == number) {
			found = append(found, v)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		kind := trove.KindBadRequest
		if isUUID(idOrName) {
			kind = trove.KindNotFound
		}
		return trove.DatastoreVersion{}, trove.Errorf(kind, "Datastore version '%s' cannot be found. Versions of %s: %s.",
			shorten(idOrName), ds.Name, activeVersions(ds))
	}
	return trove.DatastoreVersion{}, trove.Errorf(trove.KindBadRequest,
		"More than one version of %s is named '%s': give version_number too, or the id.", ds.Name, idOrName)
}

func activeVersions(ds trove.Datastore) string {
	var names []string
	for _, v := range ds.Versions {
		if v.Active && !slices.Contains(names, v.Name) {
			names = append(names, v.Name)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// chooseFlavor finds the flavor that the body names, by its id or an URL that
// ends with it: one of those that the version is bound to, if there are any.
func (s *Server) chooseFlavor(q *request, v trove.DatastoreVersion, bound []string, body object) (trove.Flavor, error) {
	ref := body.scalar("flavorRef")
	id := ref[strings.LastIndexByte(ref, '/')+1:]
	if id == "" {
		return trove.Flavor{}, trove.Errorf(trove.KindBadRequest, "Validation error: instance 'flavorRef' is a required property")
	}
	if len(bound) > 0 && !slices.Contains(bound, id) {
		return trove.Flavor{}, trove.Errorf(trove.KindBadRequest, "Flavor %s is not supported for datastore %s version %s: %s.",
			shorten(id), v.DatastoreName, v.Name, strings.Join(bound, ", "))
	}
	f, err := s.cloud.Flavor(q.Context(), id)
	if !trove.IsKind(err, trove.KindNotFound) {
		return f, err
	}
	message := fmt.Sprintf("Flavor %s cannot be found.", shorten(id))
	if all, err := s.cloud.Flavors(q.Context()); err == nil && len(all) <= 20 {
		var known []string
		for _, f := range all {
			known = append(known, f.ID+" ("+f.Name+")")
		}
		message += " Flavors: " + strings.Join(known, ", ") + "."
	}
	return f, trove.Errorf(trove.KindBadRequest, "%s", message)
}

// volumeType refuses a type that a version is not bound to: where it is bound to
// some, one of them must be named.
func (s *Server) volumeType(v trove.DatastoreVersion, bound []string, kind string) error {
	if s.config.NoVolumes || len(bound) == 0 || slices.Contains(bound, kind) {
		return nil
	}
	if kind == "" {
		return trove.Errorf(trove.KindBadRequest, "Only specific volume types are allowed for datastore %s version %s, and none is named: %s.",
			v.DatastoreName, v.Name, strings.Join(bound, ", "))
	}
	return trove.Errorf(trove.KindBadRequest, "The volume type %s is not valid for datastore %s version %s: %s.",
		shorten(kind), v.DatastoreName, v.Name, strings.Join(bound, ", "))
}

// volumeSize is in GiB, 0 where instances have no volume.
func (s *Server) volumeSize(body object) (int, error) {
	volume := body.object("volume")
	if s.config.NoVolumes {
		if volume != nil {
			return 0, trove.Errorf(trove.KindNotImplemented, "Volume support is not enabled.")
		}
		return 0, nil
	}
	if volume == nil {
		return 0, trove.Errorf(trove.KindBadRequest, "Validation error: instance 'volume' is a required property: "+
			"the size of the volume was not specified.")
	}
	size, fits := volume.number("size")
	if !fits || size > s.config.MaxVolumeSize {
		return 0, trove.Errorf(trove.KindOverLimit, "Volume 'size' cannot exceed maximum of %d GB, %s cannot be accepted.",
			s.config.MaxVolumeSize, shorten(volume.scalar("size")))
	}
	return size, nil
}

func access(body object) *trove.Access {
	a := body.object("access")
	if a == nil {
		return nil
	}
	out := &trove.Access{IsPublic: a.truth("is_public")}
	if a.has("allowed_cidrs") {
		out.AllowedCIDRs = a.texts("allowed_cidrs")
	}
	return out
}

// nics checks the network interfaces against each other and the cloud.
func (s *Server) nics(q *request, list []object) ([]trove.NIC, error) {
	var nics []trove.NIC
	for i, o := range list {
		n := trove.NIC{NetworkID: o.text("network_id"), SubnetID: o.text("subnet_id"), IPAddress: o.text("ip_address")}
		if n.NetworkID == "" {
			n.NetworkID = o.text("net-id")
		}
		switch {
		case n.NetworkID == "" && n.SubnetID == "":
			return nil, trove.Errorf(trove.KindBadRequest, "Validation error: instance['nics'][%d] needs a network_id or a subnet_id", i)
		case n.IPAddress != "" && n.SubnetID == "":
			return nil, trove.Errorf(trove.KindBadRequest, "Validation error: instance['nics'][%d] needs a subnet_id for its ip_address", i)
		}
		nics = append(nics, n)
	}
	if len(nics) == 0 {
		return nil, nil
	}
	return nics, s.cloud.CheckNICs(q.Context(), nics)
}

// newAccounts reads and checks the databases and users of a new instance.
func (s *Server) newAccounts(q *request, manager string, body object) ([]trove.Database, []trove.User, error) {
	dbs, us := body.objects("databases"), body.objects("users")
	if len(dbs) == 0 && len(us) == 0 {
		return nil, nil, nil
	}
	names, known := namesOf(manager)
	if !known {
		return nil, nil, trove.Errorf(trove.KindBadRequest, "Databases and users cannot be made with datastore manager %s.", manager)
	}
	databases, err := readDatabases(names, "instance['databases']", dbs)
	if err != nil {
		return nil, nil, err
	}
	users, err := readUsers(names, "instance['users']", us)
	if err != nil {
		return nil, nil, err
	}
	for i, u := range users {
		for j, db := range u.Databases {
			if !slices.ContainsFunc(databases, func(d trove.Database) bool { return d.Name == db }) {
				return nil, nil, trove.Errorf(trove.KindBadRequest, "Validation error: instance['users'][%d]['databases'][%d] "+
					"'%s' is not one of instance['databases']", i, j, shorten(db))
			}
		}
	}
	for _, c := range []struct {
		asked bool
		rule  string
	}{{len(users) > 0, "instance:extension:user:create"}, {len(databases) > 0, "instance:extension:database:create"}} {
		if c.asked {
			if err := q.enforce(c.rule, q.creds.ProjectID); err != nil {
				return nil, nil, err
			}
		}
	}
	return databases, users, nil
}
