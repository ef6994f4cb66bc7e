package flow_test

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/cloud/openstack"
	"github.com/gotrove/gotrove/internal/cloud/openstack/openstacktest"
	"github.com/gotrove/gotrove/internal/rpcapi/taskmanager"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/taskmanager/flow"
	"github.com/gotrove/gotrove/internal/trove"
	"github.com/gotrove/gotrove/internal/work"
	"github.com/gotrove/gotrove/internal/work/worktest"
)

// booted is an OpenStack whose servers have an agent.
type booted struct {
	cloud.Cloud
	w *world
}

func (c booted) EnsureServer(ctx context.Context, s cloud.ServerSpec) (cloud.Server, error) {
	server, err := c.Cloud.EnsureServer(ctx, s)
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if err == nil && c.w.agents[s.InstanceID] == nil {
		c.w.agents[s.InstanceID] = &agent{prepared: map[string]bool{}, told: map[int]string{}, mounted: true, size: 2, flavor: "1"}
	}
	return server, err
}

// inRegion has a world's processes use an OpenStack, each by a way of its own on
// which it can be killed around every call that changes something.
func inRegion(t *testing.T, w *world) *openstacktest.Cloud {
	f := openstacktest.New(t)
	f.Set("networks", openstacktest.UserNetwork, "project_id", tenant)
	w.place = func(g *worktest.Gate) cloud.Cloud {
		way := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			answer := httptest.NewRecorder()
			call := func() error { f.ServeHTTP(answer, r); return nil }
			var err error
			if r.Method == http.MethodGet {
				if err = g.Alive(); err == nil {
					err = call()
				}
			} else {
				err = g.Do(r.Method+" "+r.URL.Path, call)
			}
			if err != nil {
				panic(http.ErrAbortHandler) // nobody is there to hear the answer
			}
			maps.Copy(rw.Header(), answer.Header())
			rw.WriteHeader(answer.Code)
			_, _ = rw.Write(answer.Body.Bytes())
		}))
		t.Cleanup(way.Close)
		c, err := openstack.New(openstack.Options{AuthURL: way.URL + "/identity/v3", Username: openstacktest.User, Password: secret.New(openstacktest.Password),
			UserDomainName: "Default", ProjectID: openstacktest.Project, Region: openstacktest.Region, ManagementNetworks: []string{openstacktest.Management},
			AccessCheck: true, ListEvery: 2 * time.Millisecond, Settle: 20 * time.Millisecond, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return booted{c, w}
	}
	return f
}

// region is what an OpenStack has in the end: how many there are, and how many
// there ever were.
type region struct {
	There, Made map[string]int
	Task        trove.Task
	Service     trove.ServiceStatus
	Deleted     bool
	Login       []string
}

// TestKilledInOpenStack kills task managers around every call to Nova, Neutron
// and Cinder that changes something: there is never a second of anything, and
// what fails or is deleted leaves nothing.
func TestKilledInOpenStack(t *testing.T) {
	t.Parallel()
	begin := func(ctx context.Context, e *work.Engine) error {
		r := request("i1")
		r.ImageID, r.NICs = openstacktest.Image, []taskmanager.NIC{{NetworkID: openstacktest.UserNetwork}}
		return accept(ctx, e, flow.KindCreate, "m1", flow.NewCreate(r))
	}
	one := map[string]int{"servers": 1, "ports": 2, "volumes": 1, "security-groups": 1}
	none := map[string]int{"servers": 0, "ports": 0, "volumes": 0, "security-groups": 0}
	for name, tc := range map[string]struct {
		set   func(w *world)
		begin func(ctx context.Context, w *world, e *work.Engine) error
		works int
		there map[string]int
	}{
		"create": {begin: func(ctx context.Context, _ *world, e *work.Engine) error { return begin(ctx, e) }, works: 1, there: one},
		"create that fails": {set: func(w *world) { w.ends, w.why = trove.ServiceFailed, "no space left" },
			begin: func(ctx context.Context, _ *world, e *work.Engine) error { return begin(ctx, e) }, works: 1, there: none},
		"delete": {begin: func(ctx context.Context, w *world, e *work.Engine) error {
			if err := begin(ctx, e); err != nil {
				return err
			}
			return accept(ctx, e, flow.KindDelete, "m2", flow.Delete{})
		}, works: 2, there: none},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			worktest.EveryNth(t, 9, func(t *testing.T) worktest.World { // the store's passages are tested with a fake
				w := newWorld(t)
				w.instance("i1")
				if tc.set != nil {
					tc.set(w)
				}
				f := inRegion(t, w)
				return worktest.World{
					Engine: func(g *worktest.Gate) (*work.Engine, error) { return w.engine(g, nil) },
					Begin:  func(ctx context.Context, e *work.Engine) error { return tc.begin(ctx, w, e) },
					Ended:  w.ended(tc.works),
					Result: func(ctx context.Context) (any, error) {
						got := region{There: map[string]int{}, Made: map[string]int{}, Login: w.left()}
						for kind := range one {
							for _, o := range f.All(kind) {
								if o["project_id"] == openstacktest.Project {
									got.There[kind]++
								}
							}
							got.There[kind] += 0
							got.Made[kind] = f.Made(kind)
							if got.There[kind] != tc.there[kind] || got.Made[kind] > one[kind] {
								t.Errorf("%s: %d are there and %d were made: %v", kind, got.There[kind], got.Made[kind], f.Left("i1"))
							}
						}
						inst, err := w.store.Instance(ctx, "i1")
						if err == nil {
							got.Task, got.Service = inst.Task, inst.Service
						} else if got.Deleted = trove.IsKind(err, trove.KindNotFound); !got.Deleted {
							return nil, err
						}
						return got, nil
					},
				}
			})
		})
	}
}
