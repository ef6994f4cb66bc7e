// Package firstboot gives a new server what the cloud holds for it: it reads
// the config drive, or the metadata service, and writes the files of the user
// data, the server's name and its operator's keys. An image of ours has it in
// cloud-init's place, which takes minutes on a slow machine.
//
// It owns the mark that says for which server this was done, so that it is done
// once. What else user data may ask for it does not do, and says so. It knows
// nothing of what the files mean.
package firstboot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gotrove/gotrove/internal/durable"
)

// Options say where things are.
type Options struct {
	Root        string        // of the file system that is written; / if empty
	RunDir      string        // of this boot only; /run if empty
	MarkFile    string        // whose server this is, below Root
	MetadataURL string        // for servers without a config drive; empty: none
	DriveWait   time.Duration // how long a drive may take to appear before the service is asked; 5 s if 0
	// Secret is a directory whose files only SecretUser may read; it is root
	// where there is no such user.
	Secret, SecretUser string

	sys, dev string // for tests: in place of /sys, /dev
}

// Result is what was done.
type Result struct {
	Server  string // Nova's id
	Source  string
	Fresh   bool     // false: it had been done for this server
	Files   []string // that were written
	Ignored []string // what user data asked for that is not done here
}

const (
	metaData  = "openstack/latest/meta_data.json"
	userData  = "openstack/latest/user_data"
	lookEvery = 200 * time.Millisecond // for a drive; it costs nobody else anything
	// The metadata service is asked again after a pause that doubles, with a jitter
	// of a quarter: many servers may start at once while it is away.
	firstAsk, mostAsk = 250 * time.Millisecond, 8 * time.Second
)

type boot struct{ o Options }

// metadata is what is read of meta_data.json.
type metadata struct {
	UUID       string            `json:"uuid"`
	Name       string            `json:"name"`
	PublicKeys map[string]string `json:"public_keys"`
	Files      []struct {        // the API's personality, in Nova before 2.57
		Path        string `json:"path"`
		ContentPath string `json:"content_path"`
	} `json:"files"`
}

// Run does what is to be done, waiting for the cloud until ctx ends.
func Run(ctx context.Context, o Options) (r Result, err error) {
	for _, d := range []struct {
		at  *string
		std string
	}{{&o.Root, "/"}, {&o.RunDir, "/run"}, {&o.sys, "/sys"}, {&o.dev, "/dev"}} {
		if *d.at == "" {
			*d.at = d.std
		}
	}
	if o.DriveWait == 0 {
		o.DriveWait = 5 * time.Second
	}
	b := &boot{o}
	from, close, err := b.open(ctx)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, close()) }()
	r.Source = from.String()
	text, err := from.read(ctx, metaData)
	if err != nil {
		return r, err
	}
	var m metadata
	if err := json.Unmarshal(text, &m); err != nil || m.UUID == "" {
		return r, errors.Join(errors.New("the cloud's meta_data.json is malformed"), err)
	}
	r.Server = m.UUID
	if done, err := os.ReadFile(b.path(o.MarkFile)); err == nil && string(bytes.TrimSpace(done)) == m.UUID {
		return r, nil
	}
	r.Fresh = true
	data, err := optional(ctx, from, userData)
	if err != nil {
		return r, err
	}
	files, ignored, err := Parse(data)
	if err != nil {
		return r, err
	}
	r.Ignored = ignored
	for _, f := range m.Files {
		content, err := from.read(ctx, inDrive(f.ContentPath))
		if err != nil {
			return r, err
		}
		files = append(files, File{Path: path.Clean("/" + f.Path), Content: content}) // clean: its directory tells whether it is secret
	}
	for _, f := range files {
		if err := b.write(f); err != nil {
			return r, err
		}
		r.Files = append(r.Files, f.Path)
	}
	if err := errors.Join(b.name(m.Name), b.keys(m.PublicKeys), b.management(ctx, from)); err != nil {
		return r, err
	}
	if err := os.MkdirAll(filepath.Dir(b.path(o.MarkFile)), 0o755); err != nil {
		return r, err
	}
	return r, durable.WriteFile(b.path(o.MarkFile), []byte(m.UUID+"\n"), 0o644)
}

func (b *boot) path(p string) string { return filepath.Join(b.o.Root, p) }

// write writes a file as cloud-init does, but for secrets: they come without
// permissions and with an owner that an image of ours need not have.
func (b *boot) write(f File) error {
	at := b.path(f.Path)
	secret := b.o.Secret != "" && strings.HasPrefix(f.Path, b.o.Secret+"/")
	mode, dirs := fs.FileMode(0o644), fs.FileMode(0o755)
	if secret {
		mode, f.Owner = 0o600, b.o.SecretUser
	}
	if f.Permissions != 0 && !secret {
		mode = fs.FileMode(f.Permissions & 0o777)
	}
	if err := os.MkdirAll(filepath.Dir(at), dirs); err != nil {
		return err
	}
	if f.Append {
		before, err := os.ReadFile(at)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		f.Content = append(before, f.Content...)
	}
	uid, gid := owner(f.Owner)
	return durable.WriteFileAs(at, f.Content, mode, uid, gid)
}

// owner looks user:group up. Who is not there, as the original's user ubuntu is
// not, is us.
func owner(text string) (uid, gid int) {
	name, group, _ := strings.Cut(text, ":")
	uid, gid = -1, -1
	if u, err := user.Lookup(name); err == nil {
		uid, _ = strconv.Atoi(u.Uid)
	}
	if g, err := user.LookupGroup(group); err == nil {
		gid, _ = strconv.Atoi(g.Gid)
	}
	return uid, gid
}

// name gives the machine the server's name.
func (b *boot) name(name string) error {
	host := strings.Map(func(r rune) rune {
		if r < 0x80 && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-') {
			return r
		}
		return '-'
	}, name)
	host = strings.Trim(host[:min(len(host), 63)], "-")
	if host == "" {
		return nil
	}
	if err := durable.WriteFile(b.path("etc/hostname"), []byte(host+"\n"), 0o644); err != nil {
		return err
	}
	if err := durable.WriteFile(b.path("etc/hosts"), fmt.Appendf(nil, "127.0.0.1 localhost %s\n::1 localhost\n", host), 0o644); err != nil {
		return err
	}
	if b.o.Root != "/" {
		return nil
	}
	return unix.Sethostname([]byte(host))
}

// keys lets the operator's keys in, where the image has a server for them.
func (b *boot) keys(keys map[string]string) error {
	if _, err := os.Stat(b.path("usr/sbin/sshd")); err != nil || len(keys) == 0 {
		return nil
	}
	var text strings.Builder
	for _, k := range keys {
		if strings.ContainsAny(strings.TrimSpace(k), "\r\n") {
			return errors.New("a public key of the server has several lines")
		}
		fmt.Fprintln(&text, strings.TrimSpace(k))
	}
	if err := os.MkdirAll(b.path("root/.ssh"), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(b.path("root/.ssh/authorized_keys"), []byte(text.String()), 0o600)
}
