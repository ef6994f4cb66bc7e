package keyring_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/keyring"
	"github.com/gotrove/gotrove/internal/rpc/seal"
	"github.com/gotrove/gotrove/internal/rpc/wire"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// service is a process of the control plane as far as keys go.
type service struct {
	store *store.Store
	keys  *keyring.Ring
}

// The steps of docs/operator/keys.md, one service after the other, while
// instances are made, agents report and are asked, and work goes on: nothing
// fails at any moment, and in the end the old keys open nothing.
func TestKeysAreReplacedUnderTraffic(t *testing.T) {
	t.Parallel()
	for _, form := range []seal.Form{seal.Original, seal.Authenticated} {
		t.Run(form.String(), func(t *testing.T) { t.Parallel(); replaceKeys(t, form) })
	}
}

func replaceKeys(t *testing.T, form seal.Form) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	path := filepath.Join(t.TempDir(), "db")
	oldTask, newTask := seal.MakeKey(form), seal.MakeKey(form)
	oldMaster, newMaster := seal.MakeKey(seal.Original), seal.MakeKey(seal.Original)
	start := func(tasks, masters []secret.String) *service {
		t.Helper()
		s, err := store.Open(ctx, store.Config{Path: path, Sealer: keyring.NewAtRest(masters...), Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		if err := s.Migrate(ctx); err != nil {
			t.Fatal(err)
		}
		r, err := keyring.New(keyring.Config{TaskManager: tasks, TaskManagerTopic: "taskmanager", Master: masters, NewKeys: true, NewForm: form},
			s, slog.New(slog.DiscardHandler), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Check(ctx, s); err != nil {
			t.Fatal(err)
		}
		return &service{s, r}
	}
	var api, taskmanager, conductor atomic.Pointer[service]
	services := []*atomic.Pointer[service]{&api, &taskmanager, &conductor}
	restart := func(tasks, masters []secret.String, pause func()) {
		t.Helper()
		for _, s := range services {
			s.Store(start(tasks, masters))
			pause()
		}
	}
	restart([]secret.String{oldTask}, []secret.String{oldMaster}, func() {})

	var rounds atomic.Int64
	traffic := func(worker, n int) error {
		id := fmt.Sprintf("%08d-%04d-4000-8000-000000000000", n, worker)
		body := []byte(`{"password":"s3cret"}`)
		// POST: an instance with a key, and a message in the outbox.
		key := api.Load().keys.MakeKey()
		if err := api.Load().store.CreateInstance(ctx, store.NewInstance{
			Instance: &trove.Instance{ID: id, Name: "n", TenantID: "p", EncryptedKey: key, Task: trove.TaskBuilding},
			Outbox:   []store.OutboxRow{{ID: "m" + id, Topic: "t" + id, Method: "create_instance", Body: body}}}); err != nil {
			return err
		}
		rows, err := api.Load().store.ClaimOutbox(ctx, "me"+id, "t"+id, 1, time.Minute)
		if err != nil || len(rows) != 1 || !bytes.Equal(rows[0].Body, body) {
			return fmt.Errorf("outbox: %v, %w", rows, err)
		}
		cast := request(id)
		if _, err := api.Load().keys.SealRequest(ctx, "taskmanager", &cast); err != nil {
			return err
		}
		if _, err := taskmanager.Load().keys.TaskManager().OpenRequest(ctx, "", &cast); err != nil {
			return fmt.Errorf("to the task manager: %w", err)
		}
		if _, err := taskmanager.Load().store.AcceptWork(ctx, store.NewWork{ID: id, Kind: "k" + id, Subject: id, RequestID: "m" + id, Step: "one", State: body}); err != nil {
			return err
		}
		w, err := taskmanager.Load().store.LeaseWork(ctx, "p/"+id, []string{"k" + id}, time.Minute)
		if err != nil || w == nil || !bytes.Equal(w.State, body) {
			return fmt.Errorf("work: %v, %w", w, err)
		}
		inst, err := taskmanager.Load().store.Instance(ctx, id)
		if err != nil {
			return err
		}
		clear, err := taskmanager.Load().keys.OpenKey(ctx, id, inst.EncryptedKey)
		if err != nil {
			return err
		}
		agent, err := keyring.NewAgent(id, secret.New(clear))
		if err != nil {
			return err
		}
		call := request(id)
		if _, err := taskmanager.Load().keys.SealRequest(ctx, guest.Topic(id), &call); err != nil {
			return err
		}
		if _, err := agent.OpenRequest(ctx, "", &call); err != nil {
			return fmt.Errorf("to an agent: %w", err)
		}
		beat := request(id)
		if _, err := agent.SealRequest(ctx, "trove-conductor", &beat); err != nil {
			return err
		}
		if o, err := conductor.Load().keys.Conductor().OpenRequest(ctx, "", &beat); err != nil || o.Instance != id {
			return fmt.Errorf("to the conductor: %w", err)
		}
		_, err = taskmanager.Load().store.SaveWork(ctx, store.WorkUpdate{ID: id, Owner: "p/" + id, Version: w.Version, Step: "two", State: body, Release: true, RunIn: time.Hour})
		rounds.Add(1)
		return err
	}
	var workers sync.WaitGroup
	stopped := make(chan struct{})
	for worker := range 2 {
		workers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stopped:
					return
				default:
				}
				if err := traffic(worker, n); err != nil {
					t.Errorf("after %d rounds: %v", rounds.Load(), err)
					return
				}
			}
		})
	}
	// pause lets traffic go on for some rounds.
	pause := func() {
		until := rounds.Load() + 4
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for rounds.Load() < until && ctx.Err() == nil && !t.Failed() {
			<-tick.C
		}
	}
	pause()
	restart([]secret.String{oldTask, newTask}, []secret.String{oldMaster, newMaster}, pause) // step 1
	restart([]secret.String{newTask, oldTask}, []secret.String{newMaster, oldMaster}, pause) // step 2
	done, err := api.Load().keys.Rekey(ctx, api.Load().store)                                // step 3
	if err != nil || done.Failed > 0 || done.Keys == 0 || done.Rows == 0 {
		t.Errorf("%+v, %v", done, err)
	}
	t.Logf("%+v after %d rounds", done, rounds.Load())
	pause()
	restart([]secret.String{newTask}, []secret.String{newMaster}, pause) // step 4
	close(stopped)
	workers.Wait()

	if done, err := api.Load().keys.Rekey(ctx, api.Load().store); err != nil || done.Keys+done.Rows+done.Failed > 0 {
		t.Errorf("something was left: %+v, %v", done, err)
	}
	old, err := keyring.New(keyring.Config{Master: []secret.String{oldMaster}}, api.Load().store, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Check(ctx, api.Load().store); err == nil {
		t.Error("the old key still opens keys of instances")
	}
}

func request(id string) wire.Request {
	return wire.Request{Method: "m", Version: "1.0", UniqueID: "u", Args: map[string]json.RawMessage{"instance_id": json.RawMessage(`"` + id + `"`)},
		Context: map[string]json.RawMessage{"request_id": json.RawMessage(`"r"`)}}
}
