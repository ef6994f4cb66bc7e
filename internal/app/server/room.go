package server

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/trove"
)

const (
	reserveName = "reserve"
	// reserveSize is what is held for the control plane: enough to record
	// thousands of steps while a disk is full.
	reserveSize = 32 << 20
	// roomEvery is how often the reserve is looked at.
	roomEvery = 2 * time.Second
)

// instanceNeeds is what a new instance takes of the disk, and something for its
// first data, by datastore manager. A fresh data directory is 40 MiB of
// PostgreSQL and 27 MiB of MariaDB, whose server adds as much when it starts.
var instanceNeeds = map[string]int64{"mariadb": 160 << 20, "postgresql": 96 << 20}

// otherNeeds is the same for a manager that is not in the table.
const otherNeeds = 160 << 20

// room is the disk that the control plane shares with the databases. A part of
// it is held for the control plane, so that it can record what failed and carry
// deletions out, which make room, when databases have filled the rest.
type room struct {
	dir     string
	reserve *durable.Reserve
	log     *slog.Logger
}

// openRoom finds the reserve of the data directory, and gives a piece of it up
// if there is no room to start in.
func openRoom(dir string, log *slog.Logger) (*room, error) {
	r, err := durable.OpenReserve(filepath.Join(dir, reserveName), reserveSize)
	if err != nil {
		return nil, err
	}
	room := &room{dir, r, log}
	if free, err := durable.FreeSpace(dir); err == nil && free < reserveSize/8 {
		room.make()
	}
	return room, nil
}

// make gives up a piece of the reserve; false if there is none left.
func (r *room) make() bool {
	if !r.reserve.Release() {
		return false
	}
	r.log.Warn("the disk is full: a part of the reserve is given up, nothing can be created", "path", r.dir,
		"reserve_left_mib", (reserveSize-r.reserve.Missing())>>20)
	return true
}

// keep makes the reserve whole whenever there is room for it, until ctx ends.
func (r *room) keep(ctx context.Context) error {
	tick := time.NewTicker(roomEvery)
	defer tick.Stop()
	failed := false
	for {
		if missing := r.reserve.Missing(); missing > 0 {
			switch whole, err := r.reserve.Fill(); {
			case err != nil && !failed:
				failed = true // once is enough: there are file systems that cannot
				r.log.WarnContext(ctx, "no room is held for a full disk", "path", r.dir, "error", err)
			case whole:
				failed = false
				r.log.InfoContext(ctx, "room is held for a full disk", "path", r.dir, "mib", reserveSize>>20)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// check refuses another instance for which there is no room. What the reserve
// misses counts as needed.
func (r *room) check(manager string) error {
	need, known := instanceNeeds[manager]
	if !known {
		need = otherNeeds
	}
	free, err := durable.FreeSpace(r.dir)
	if err != nil {
		return trove.Errorf(trove.KindUnavailable, "%w", durable.Explain(err))
	}
	if need += r.reserve.Missing(); free >= need {
		return nil
	}
	const mib = 1 << 20
	return trove.Errorf(trove.KindUnavailable, "The disk of %s is full: another instance needs %d MiB and %d MiB are free.",
		r.dir, (need+mib-1)/mib, free/mib).WithAction("Delete instances, or make room on the file system that holds it.")
}
