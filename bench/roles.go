package main

import (
	"context"
	"fmt"
	"syscall"
	"time"
)

const (
	roleStarts = 5
	roleWait   = time.Minute
	// roleRest is how long a role rests before its memory counts as idle.
	roleRest = 10 * time.Second
)

// roles measures start and idle memory of each role.
func (b *bench) roles(ctx context.Context, r *backbone) error {
	for _, name := range []string{"api", "taskmanager", "conductor"} {
		var times []float64
		for range roleStarts {
			p, err := b.startRole(ctx, r, name)
			if err != nil {
				return err
			}
			times = append(times, p.took.Seconds())
			p.end(syscall.SIGTERM)
		}
		if err := b.most(name+"_start", median(times), "s", "<=", 0.3,
			fmt.Sprintf("exec to serving, as told to systemd, median of %d", roleStarts)); err != nil {
			return err
		}
		p, err := b.startRole(ctx, r, name)
		if err != nil {
			return err
		}
		rest := time.NewTimer(roleRest)
		select {
		case <-ctx.Done():
		case <-rest.C:
		}
		rest.Stop()
		value, err := rss(p.pid())
		if err != nil {
			return err
		}
		if err := b.most(name+"_idle_rss", value, "MiB", "<=", 40, fmt.Sprintf("resident, %s after it serves", roleRest)); err != nil {
			return err
		}
		p.end(syscall.SIGTERM)
	}
	return nil
}

func (b *bench) startRole(ctx context.Context, r *backbone, name string) (*role, error) {
	ctx, cancel := context.WithTimeout(ctx, roleWait)
	defer cancel()
	return r.start(ctx, name)
}
