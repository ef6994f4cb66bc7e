package flow_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/taskmanager/flow"
	"github.com/gotrove/gotrove/internal/trove"
)

// Whatever is broken, a creation ends, and says where by name.
func TestCreateFailures(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		set     func(w *world)
		refused string
		timeout bool
		task    trove.Task
		cause   string
		details string
	}{
		"security group": {set: func(w *world) { w.faults["EnsureSecurityGroup"] = &fault{times: 1, err: errors.New("quota of groups")} },
			task: trove.TaskErrorSecGroup, cause: "quota of groups"},
		"port":   {set: func(w *world) { w.faults["EnsurePorts"] = &fault{times: 1, late: true, err: errors.New("no address")} }, task: trove.TaskErrorPort, cause: "No port: no address"},
		"volume": {set: func(w *world) { w.faults["EnsureVolume"] = &fault{times: 1, late: true, err: errors.New("disk full")} }, task: trove.TaskErrorVolume, cause: "No volume: disk full"},
		"server in ERROR": {set: func(w *world) {
			w.status, w.ends, w.mute, w.why = trove.ServerError, trove.ServiceNew, true, "engine binary missing"
		},
			task: trove.TaskErrorTimeoutGuest, cause: "engine binary missing"},
		"engine": {set: func(w *world) { w.ends, w.console = trove.ServiceFailed, "starting\nport 3306 is taken\n" },
			task: trove.TaskErrorTimeoutGuest, cause: "port 3306 is taken", details: "starting"},
		"silent agent": {set: func(w *world) {
			w.mute, w.console = true, `{"msg":"agent started"}`+"\n"+`{"msg":"cannot reach the broker"}`
		}, timeout: true,
			task: trove.TaskErrorTimeoutGuest, cause: "Broker unreachable: the server runs, and its guest agent started, but was silent for 30m0s", details: "cannot reach the broker"},
		"server that never starts": {set: func(w *world) { w.mute, w.status = true, trove.ServerBuild }, timeout: true,
			task: trove.TaskErrorTimeoutGuest, cause: "No server: the server was BUILD, not ACTIVE", details: "message bus: the agent has no queue"},
		"no port": {set: func(w *world) { w.mute, w.view = true, func(v *cloud.View) { v.Ports = nil } }, timeout: true,
			task: trove.TaskErrorTimeoutGuest, cause: "No port: the instance has no port"},
		"image without the agent": {set: func(w *world) { w.mute, w.console = true, "host login:" }, timeout: true,
			task: trove.TaskErrorTimeoutGuest, cause: "Image lacks the agent: ", details: "host login:"},
		"login refused": {set: func(w *world) {
			w.mute, w.console = true, guest.BootLine{Stage: guest.BootLogin, Failed: true, Detail: "not allowed"}.String()
		}, timeout: true, task: trove.TaskErrorTimeoutGuest, cause: "Login refused: the guest agent says: not allowed"},
		"conductor away": {set: func(w *world) { w.mute, w.presence = true, guest.Presence{Queue: true, Consumers: 1} }, timeout: true,
			task: trove.TaskErrorTimeoutGuest, cause: "Agent silent: the guest agent is on the bus", details: "1 consumers"},
		"container failed": {set: func(w *world) {
			w.ends, w.console = trove.ServiceFailed, guest.BootLine{Stage: guest.BootImage, Failed: true, Detail: "manifest unknown"}.String()
		}, task: trove.TaskErrorTimeoutGuest, cause: "Container failed: ", details: "manifest unknown"},
		"agent that does not end": {set: func(w *world) { w.ends = trove.ServiceBuilding }, timeout: true,
			task: trove.TaskErrorTimeoutGuest, cause: "still making the database ready"},
		"unsupported": {refused: "b1", task: trove.TaskErrorServer, cause: "Restoring a backup into a new instance is not supported yet."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.instance("i1")
			if tc.set != nil {
				tc.set(w)
			}
			if tc.timeout {
				w.ahead = time.Hour
			}
			e := w.run(nil)
			q := request("i1")
			if tc.refused != "" {
				q.BackupID = &tc.refused
			}
			if err := accept(t.Context(), e, flow.KindCreate, "m1", flow.NewCreate(q)); err != nil {
				t.Fatal(err)
			}
			op := w.operation("i1")
			inst := w.get("i1")
			if op.State != trove.OperationFailed || !strings.Contains(op.Cause, tc.cause) {
				t.Errorf("operation: %+v", op)
			}
			if inst.Task != tc.task || inst.Status() != trove.StatusError || inst.Fault == nil || !strings.Contains(inst.Fault.Message, tc.cause) ||
				!strings.Contains(inst.Fault.Details, tc.details) {
				t.Errorf("instance: task %#x, status %s, fault %+v", inst.Task, inst.Status(), inst.Fault)
			}
			if left := w.left(); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}
