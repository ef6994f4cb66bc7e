package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// fillUp leaves n bytes free below the data directory and goes on to take all
// that becomes free, until empty is called.
func (s *standalone) fillUp(n int64) (empty func()) {
	s.t.Helper()
	f, err := os.Create(filepath.Join(s.home, "filler"))
	if err != nil {
		s.t.Fatal(err)
	}
	var size int64
	take := func() (full bool, err error) {
		var fs syscall.Statfs_t
		if err := syscall.Statfs(s.home, &fs); err != nil {
			return false, err
		}
		more := int64(fs.Bfree)*fs.Bsize - n
		if more <= 0 {
			return true, nil
		}
		// Others take some too, and not all that is free can be had.
		for ; more >= 4096; more /= 2 {
			err := syscall.Fallocate(int(f.Fd()), 0, size, more)
			if err == nil {
				size += more
				return false, nil
			}
			if err != syscall.ENOSPC {
				return false, err
			}
		}
		return true, nil
	}
	s.eventually("the disk is full", func() error {
		full, err := take()
		if err == nil && !full {
			err = errors.New("there is room left")
		}
		return err
	})
	ctx, cancel := context.WithCancel(context.Background())
	var taking sync.WaitGroup
	taking.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if _, err := take(); err != nil {
				s.t.Error(err)
				return
			}
		}
	})
	stop := sync.OnceFunc(func() {
		cancel()
		taking.Wait()
		f.Close()
	})
	s.t.Cleanup(stop)
	return func() {
		s.t.Helper()
		stop()
		if err := os.Remove(f.Name()); err != nil {
			s.t.Fatal(err)
		}
	}
}

// refusesForRoom asks for instances that there is no room for: each is refused
// at once, with the cause, and nothing of it is written.
func (s *standalone) refusesForRoom(instances int) {
	s.t.Helper()
	for _, datastore := range datastores {
		began := time.Now()
		code, err := s.rest("POST", "instances", request("refused", datastore, password), nil)
		if code != http.StatusServiceUnavailable {
			s.t.Errorf("%s on a full disk: %d, %v", datastore, code, err)
		}
		says(s.t.Errorf, "the API", fmt.Sprint(err), "disk", "is full", s.home, "free")
		if took := time.Since(began); took > patience/3 {
			s.t.Errorf("it took %s", took)
		}
		s.refuses(4, []string{"disk", "is full", s.home}, "instance", "create", "refused", "--datastore", datastore,
			"--flavor", "db.tiny", "--wait")
	}
	s.quota(instances)
}

// roomHeld waits until the reserve is whole.
func (s *standalone) roomHeld() {
	s.t.Helper()
	s.eventually("the reserve is whole", func() error {
		var st syscall.Stat_t
		if err := syscall.Stat(filepath.Join(s.home, "reserve"), &st); err != nil {
			return err
		}
		if got := st.Blocks * 512; got < 32<<20 {
			return fmt.Errorf("%d bytes are held", got)
		}
		return nil
	})
}

// prepareFull makes a standalone on a disk of so many bytes, with all templates
// built.
func prepareFull(t *testing.T, size string) *standalone {
	t.Helper()
	needRoot(t)
	s := prepare(t)
	s.mount("size=" + size)
	s.start()
	s.again()
	return s
}

// again makes sure that all is as it should be.
func (s *standalone) again() {
	s.t.Helper()
	s.roomHeld()
	for _, i := range s.both(10) {
		s.remove(i.ID)
	}
	s.exactly()
	s.quota(0)
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	s := prepareFull(t, "512m")
	for _, left := range []int64{8 << 20, 0} {
		all := s.both(10)
		empty := s.fillUp(left)
		s.refusesForRoom(len(all))
		// Deleting is how people make room.
		s.remove(all[0].ID)
		s.quota(1)
		empty()
		s.unharmed(all[1], 10)
		s.exactly(all[1])
		s.remove(all[1].ID)
		s.again()
	}
}

// TestDiskFillsUp: at some moment of a creation there is no byte left. It ends,
// and says why; it can be deleted without anybody making room before.
func TestDiskFillsUp(t *testing.T) {
	t.Parallel()
	r := random(t)
	s := prepareFull(t, "512m") // what is left of it is taken quickly
	for n := range 6 {
		datastore := datastores[n%2]
		id, err := s.build("caught", datastore, password)
		if err != nil {
			t.Fatal(err)
		}
		pause := time.Duration(r.Int64N(int64(200 * time.Millisecond)))
		<-time.After(pause)
		empty := s.fillUp(0)
		var i instance
		s.eventually(fmt.Sprintf("the creation of %s that was caught after %s ends", datastore, pause), func() error {
			if i, err = s.show(id); err != nil {
				return err
			}
			if i.Status == "BUILD" {
				return fmt.Errorf("it is %s", i.Status)
			}
			return nil
		})
		t.Logf("%s after %s: %s, %s", datastore, pause, i.Status, i.fault())
		if i.Status == "ERROR" {
			says(t.Errorf, "the fault of "+datastore, i.fault(), "full")
		}
		s.refusesForRoom(1)
		s.remove(id)
		empty()
		s.again()
	}
}
