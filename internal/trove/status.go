package trove

import "time"

// Task is what the control plane is doing to an instance. The number is the
// task_id column of the instances table.
type Task int

// Tasks. An error task is left behind by an operation that failed.
const (
	TaskNone            Task = 0x01
	TaskDeleting        Task = 0x02
	TaskRebooting       Task = 0x03
	TaskResizing        Task = 0x04
	TaskBuilding        Task = 0x05
	TaskMigrating       Task = 0x06
	TaskRestartRequired Task = 0x07
	TaskPromoting       Task = 0x08
	TaskEjecting        Task = 0x09
	TaskLogging         Task = 0x0a
	TaskDetaching       Task = 0x0b
	TaskUpdating        Task = 0x0c
	TaskUpgrading       Task = 0x59

	TaskErrorDNS          Task = 0x50
	TaskErrorServer       Task = 0x51
	TaskErrorVolume       Task = 0x52
	TaskErrorSecGroup     Task = 0x53
	TaskErrorReplica      Task = 0x54
	TaskErrorPromotion    Task = 0x55
	TaskErrorEjection     Task = 0x56
	TaskErrorGrowing      Task = 0x57
	TaskErrorShrinking    Task = 0x58
	TaskErrorUpgrading    Task = 0x5a
	TaskErrorTimeoutGuest Task = 0x5b
	TaskErrorPort         Task = 0x5c
	TaskErrorAccess       Task = 0x5d
)

type taskInfo struct {
	status      Status // what a user sees while it runs
	description string // the task_description column
	failed      bool
}

var tasks = map[Task]taskInfo{
	TaskNone:            {"", "No tasks for the instance.", false},
	TaskDeleting:        {StatusShutdown, "Deleting the instance.", false},
	TaskRebooting:       {StatusReboot, "Rebooting the instance.", false},
	TaskResizing:        {StatusResize, "Resizing the instance.", false},
	TaskBuilding:        {StatusBuild, "The instance is building.", false},
	TaskMigrating:       {"", "Migrating the instance.", false},
	TaskRestartRequired: {StatusRestartRequired, "Instance requires a restart.", false},
	TaskPromoting:       {StatusPromote, "Promoting the instance to replica source.", false},
	TaskEjecting:        {StatusEject, "Ejecting the replica source.", false},
	TaskLogging:         {"", "Transferring guest logs.", false},
	TaskDetaching:       {StatusDetach, "Detaching the instance from replica source.", false},
	TaskUpdating:        {"", "Updating the instance.", false},
	TaskUpgrading:       {StatusUpgrade, "Upgrading the instance.", false},

	TaskErrorDNS:          {StatusError, "Build error: DNS.", true},
	TaskErrorServer:       {StatusError, "Build error: Server.", true},
	TaskErrorVolume:       {StatusError, "Build error: Volume.", true},
	TaskErrorSecGroup:     {StatusError, "Build error: Secgroup or rule.", true},
	TaskErrorReplica:      {StatusError, "Build error: Replica.", true},
	TaskErrorPromotion:    {StatusError, "Replica Promotion Error.", true},
	TaskErrorEjection:     {StatusError, "Replica Source Ejection Error.", true},
	TaskErrorGrowing:      {StatusError, "Growing Cluster Error.", true},
	TaskErrorShrinking:    {StatusError, "Shrinking Cluster Error.", true},
	TaskErrorUpgrading:    {StatusError, "Upgrading Cluster Error.", true},
	TaskErrorTimeoutGuest: {StatusError, "Build error: guestagent timeout.", true},
	TaskErrorPort:         {StatusError, "Build error: Port.", true},
	TaskErrorAccess:       {StatusError, "Update error: Access.", true},
}

// Description is the text stored beside the code; Python compares the text and
// looks up by the code, so both are always written.
func (t Task) Description() string { return tasks[t].description }

// Failed reports whether the task is the mark of a failed operation.
func (t Task) Failed() bool { return tasks[t].failed }

// AfterLoss is the task of an instance on which nothing works on this one any
// more, and never will. A deletion can only be begun anew, a creation not.
func (t Task) AfterLoss() Task {
	switch t {
	case TaskDeleting:
		return TaskDeleting
	case TaskBuilding:
		return TaskErrorServer
	case TaskUpgrading:
		return TaskErrorUpgrading
	}
	if t.Failed() {
		return t
	}
	return TaskNone
}

// ServiceStatus is what the guest agent says of the database engine. The
// number is the status_id column of service_statuses. UPGRADING and RESTARTING
// share a number; only the description tells them apart.
type ServiceStatus struct {
	Code        int
	Description string
}

// Service statuses.
var (
	ServiceRunning         = ServiceStatus{0x01, "running"}
	ServiceBlocked         = ServiceStatus{0x02, "blocked"}
	ServicePaused          = ServiceStatus{0x03, "paused"}
	ServiceShutdown        = ServiceStatus{0x04, "shutdown"}
	ServiceDeleted         = ServiceStatus{0x05, "deleted"}
	ServiceCrashed         = ServiceStatus{0x06, "crashed"}
	ServiceFailed          = ServiceStatus{0x08, "failed to spawn"}
	ServiceBuilding        = ServiceStatus{0x09, "building"}
	ServicePromoting       = ServiceStatus{0x10, "promoting replica"}
	ServiceEjecting        = ServiceStatus{0x11, "ejecting replica source"}
	ServiceLogging         = ServiceStatus{0x12, "transferring guest logs"}
	ServiceUnknown         = ServiceStatus{0x16, "unknown"}
	ServiceNew             = ServiceStatus{0x17, "new"}
	ServiceGuestError      = ServiceStatus{0x18, "guestagent error"}
	ServiceInstanceReady   = ServiceStatus{0x19, "instance ready"}
	ServiceRestartRequired = ServiceStatus{0x20, "restart required"}
	ServiceHealthy         = ServiceStatus{0x21, "healthy"}
	ServiceUpgrading       = ServiceStatus{0x22, "upgrading"}
	ServiceRestarting      = ServiceStatus{0x22, "restarting"}
)

type serviceInfo struct {
	word       OperatingStatus
	actionable bool
}

var services = map[ServiceStatus]serviceInfo{
	ServiceRunning:         {"ACTIVE", true},
	ServiceBlocked:         {"BLOCKED", true},
	ServicePaused:          {"SHUTDOWN", false},
	ServiceShutdown:        {"SHUTDOWN", true},
	ServiceDeleted:         {"DELETED", false},
	ServiceCrashed:         {"SHUTDOWN", true},
	ServiceFailed:          {"FAILED", false},
	ServiceBuilding:        {"BUILD", false},
	ServicePromoting:       {"PROMOTE", false},
	ServiceEjecting:        {"EJECT", false},
	ServiceLogging:         {"LOGGING", false},
	ServiceUnknown:         {"ERROR", false},
	ServiceNew:             {"NEW", false},
	ServiceGuestError:      {"ERROR", false},
	ServiceInstanceReady:   {"BUILD", false},
	ServiceRestartRequired: {"RESTART_REQUIRED", true},
	ServiceHealthy:         {"HEALTHY", true},
	ServiceUpgrading:       {"UPGRADING", false},
	ServiceRestarting:      {"RESTARTING", false},
}

// ParseServiceStatus finds the status with this description, as a heartbeat
// carries it.
func ParseServiceStatus(description string) (ServiceStatus, bool) {
	for s := range services {
		if s.Description == description {
			return s, true
		}
	}
	return ServiceStatus{}, false
}

// Serving reports whether users, databases and root can be managed now.
func (s ServiceStatus) Serving() bool { return s == ServiceRunning || s == ServiceHealthy }

// Status is the word a user sees as an instance's status.
type Status string

// Statuses.
const (
	StatusActive          Status = "ACTIVE"
	StatusBuild           Status = "BUILD"
	StatusError           Status = "ERROR"
	StatusReboot          Status = "REBOOT"
	StatusResize          Status = "RESIZE"
	StatusUpgrade         Status = "UPGRADE"
	StatusRestartRequired Status = "RESTART_REQUIRED"
	StatusPromote         Status = "PROMOTE"
	StatusEject           Status = "EJECT"
	StatusDetach          Status = "DETACH"
	StatusShutdown        Status = "SHUTDOWN"
	StatusBackup          Status = "BACKUP"
	StatusUnknown         Status = "UNKNOWN"
)

// OperatingStatus is the word for the health of the engine, empty while a task
// runs.
type OperatingStatus string

// Words a client waits for.
const (
	OperatingHealthy OperatingStatus = "HEALTHY"
	OperatingError   OperatingStatus = "ERROR"
)

// Server statuses as Nova words them; a local server uses the same ones.
const (
	ServerActive   = "ACTIVE"
	ServerBuild    = "BUILD"
	ServerError    = "ERROR"
	ServerShutdown = "SHUTDOWN" // also: there is no such server any more
	ServerShutoff  = "SHUTOFF"

	ServerResize       = "RESIZE"        // on its way to another flavor
	ServerVerifyResize = "VERIFY_RESIZE" // there, and can go back
	ServerRevertResize = "REVERT_RESIZE" // on its way back
)

// Status computes the visible status: the first rule that matches wins
// (contract: REST API, status).
func (i *Instance) Status() Status {
	t := tasks[i.Task]
	server := i.Server.Status
	switch {
	case i.Deleted:
		return StatusShutdown
	case t.failed:
		return StatusError
	case i.Task == TaskBuilding:
		if server == ServerError {
			return StatusError
		}
		return StatusBuild
	case i.Task == TaskDeleting:
		return StatusShutdown
	case t.status != "":
		return t.status
	case i.BackupRunning:
		return StatusBackup
	}
	switch server {
	case ServerVerifyResize:
		return StatusResize
	case ServerBuild, ServerError, "REBOOT", ServerResize, ServerActive, ServerShutdown:
		return Status(server)
	}
	return StatusUnknown
}

// OperatingStatus computes the visible operating status. A heartbeat older than
// expiry is shown as ERROR; nothing is stored.
func (i *Instance) OperatingStatus(expiry time.Duration) OperatingStatus {
	if i.Task != TaskNone || i.Server.Status != ServerActive {
		return ""
	}
	if i.Service != ServiceRestartRequired && i.ServiceAge > expiry {
		return OperatingError
	}
	return services[i.Service].word
}

// Actionable returns nil if a mutating operation may begin, else an error of
// KindUnprocessable that says what stands in the way.
func (i *Instance) Actionable() error {
	switch {
	case i.Server.Status != ServerActive:
		return Errorf(KindUnprocessable, "Instance %s is not ready: its server is %s.", i.ID, orUnknown(i.Server.Status))
	case i.Task != TaskNone && i.Task != TaskRestartRequired:
		return Errorf(KindUnprocessable, "Instance %s is not ready: %s", i.ID, i.Task.Description())
	case !services[i.Service].actionable:
		return Errorf(KindUnprocessable, "Instance %s is not ready: its database service is %s.", i.ID, i.Service.Description)
	case i.BackupRunning:
		return Errorf(KindUnprocessable, "Instance %s is not ready: a backup of it is running.", i.ID)
	}
	return nil
}

func orUnknown(s string) string {
	if s == "" {
		return "not known yet"
	}
	return s
}
