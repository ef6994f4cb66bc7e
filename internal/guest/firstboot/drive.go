package firstboot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gotrove/gotrove/internal/trove"
)

// label is what a config drive is called.
const label = "config-2"

// drive finds the config drive among the block devices: its path and its file
// system; empty if there is none (yet).
func (b *boot) drive() (device, fstype string, err error) {
	entries, err := os.ReadDir(filepath.Join(b.o.sys, "block"))
	if err != nil {
		return "", "", err
	}
	for _, e := range entries {
		device := filepath.Join(b.o.dev, e.Name())
		if strings.HasPrefix(e.Name(), "loop") || strings.HasPrefix(e.Name(), "ram") {
			continue
		}
		if fstype := driveType(device); fstype != "" {
			return device, fstype, nil
		}
	}
	return "", "", nil
}

// driveType reads whether a device is a config drive; a drive without a medium
// is none.
func driveType(device string) string {
	f, err := os.Open(device)
	if err != nil {
		return ""
	}
	defer f.Close()
	at := func(offset int64, n int) string {
		text := make([]byte, n)
		if _, err := f.ReadAt(text, offset); err != nil {
			return ""
		}
		return strings.TrimRight(string(text), " \x00")
	}
	const iso = 16 * 2048 // the primary volume descriptor of ISO 9660
	switch {
	case at(iso+1, 5) == "CD001" && strings.EqualFold(at(iso+40, 32), label):
		return "iso9660"
	case strings.HasPrefix(at(54, 8), "FAT") && strings.EqualFold(at(43, 11), label), // FAT12, FAT16
		strings.HasPrefix(at(82, 8), "FAT") && strings.EqualFold(at(71, 11), label): // FAT32
		return "vfat"
	}
	return ""
}

// source reads what the cloud holds for this server, by paths such as
// openstack/latest/meta_data.json; fs.ErrNotExist for what there is not.
type source interface {
	read(ctx context.Context, name string) ([]byte, error)
	String() string
}

type directory struct{ dir, what string }

func (d directory) String() string { return d.what }

func (d directory) read(_ context.Context, name string) ([]byte, error) {
	root, err := os.OpenRoot(d.dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return limited(f)
}

// service is Nova's metadata service.
type service struct {
	url    string
	client *http.Client
}

func (s service) String() string { return "the metadata service" }

func (s service) read(ctx context.Context, name string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/"+name, nil)
	if err != nil {
		return nil, err
	}
	answer, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	switch {
	case answer.StatusCode == http.StatusNotFound:
		return nil, fs.ErrNotExist
	case answer.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("the metadata service answers %s", answer.Status)
	}
	return limited(answer.Body)
}

// open waits for a source: the config drive, or the metadata service for a
// server that has no config drive. close ends it.
func (b *boot) open(ctx context.Context) (s source, close func() error, err error) {
	web := service{b.o.MetadataURL, &http.Client{Timeout: 10 * time.Second}}
	started, lastErr := time.Now(), error(nil)
	pause, ask := firstAsk, started.Add(b.o.DriveWait)
	for {
		device, fstype, err := b.drive()
		if err != nil {
			return nil, nil, err
		}
		if device != "" {
			return b.mount(device, fstype)
		}
		// A drive is there soon after the kernel or never.
		if web.url != "" && !time.Now().Before(ask) {
			if _, lastErr = web.read(ctx, metaData); lastErr == nil {
				return web, func() error { return nil }, nil
			}
			ask = time.Now().Add(pause - pause/4 + rand.N(pause/2))
			pause = min(2*pause, mostAsk)
		}
		t := time.NewTimer(lookEvery)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, nil, trove.Errorf(trove.KindNotFound, "There is no config drive and no metadata service: %w", errors.Join(lastErr, ctx.Err())).
				WithAction("Have the server made with a config drive: [DEFAULT] use_nova_server_config_drive.")
		}
	}
}

// mount makes the drive readable for this process.
func (b *boot) mount(device, fstype string) (source, func() error, error) {
	dir, err := os.MkdirTemp(b.o.RunDir, "config-drive-")
	if err != nil {
		return nil, nil, err
	}
	if err := unix.Mount(device, dir, fstype, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("mount the config drive %s (%s): %w", device, fstype, err), os.Remove(dir))
	}
	return directory{dir, "config drive " + filepath.Base(device)}, func() error {
		return errors.Join(unix.Unmount(dir, 0), os.Remove(dir))
	}, nil
}

// inDrive is the path of a file that meta_data.json points to.
func inDrive(content string) string { return path.Join("openstack", strings.TrimPrefix(content, "/")) }

// optional is read for what there may not be.
func optional(ctx context.Context, s source, name string) ([]byte, error) {
	text, err := s.read(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text, err
}
