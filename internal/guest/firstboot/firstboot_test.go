package firstboot

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/trove"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func gz(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(s))
	_ = w.Close()
	return b.String()
}

// original is what OpenStack Trove writes, word for word.
var original = "#cloud-config\nwrite_files:\n" +
	"- encoding: b64\n  owner: ubuntu:root\n  path: /etc/trove/conf.d/guest_info.conf\n  content: " + b64("[DEFAULT]\nguest_id = 1\n") + "\n" +
	"- encoding: b64\n  owner: ubuntu:root\n  path: /etc/trove/conf.d/trove-guestagent.conf\n  content: " + b64("[DEFAULT]\ntransport_url = x\n") + "\n"

var originalFiles = []File{
	{Path: "/etc/trove/conf.d/guest_info.conf", Owner: "ubuntu:root", Content: []byte("[DEFAULT]\nguest_id = 1\n")},
	{Path: "/etc/trove/conf.d/trove-guestagent.conf", Owner: "ubuntu:root", Content: []byte("[DEFAULT]\ntransport_url = x\n")},
}

func TestParse(t *testing.T) {
	for name, c := range map[string]struct {
		text    string
		files   []File
		ignored []string
		fails   string
	}{
		"none":           {},
		"blank":          {text: "\n \n"},
		"the original's": {text: original, files: originalFiles},
		"the original's after an operator's": {text: "#cloud-config\nruncmd: [ls]\nwrite_files:\n- {path: /a, content: b}\n" + original,
			files: append([]File{{Path: "/a", Content: []byte("b")}}, originalFiles...), ignored: []string{"runcmd"}},
		"compressed": {text: gz(original), files: originalFiles},
		"in parts": {text: "Content-Type: multipart/mixed; boundary=\"==x\"\nMIME-Version: 1.0\n\n--==x\nContent-Type: text/cloud-config\n" +
			"Content-Transfer-Encoding: base64\n\n" + b64(original) + "\n--==x\nContent-Type: text/x-shellscript\n\n#!/bin/sh\ntrue\n--==x--\n",
			files: originalFiles, ignored: []string{`user data that begin with "#!/bin/sh"`}},
		"every encoding": {text: "#cloud-config\nwrite_files:\n- {path: /a, content: x}\n- {path: /b, content: " + b64("x") + ", encoding: base64}\n" +
			"- {path: /c, encoding: gz+b64, content: " + b64(gz("x")) + "}\n- {path: /d, content: x, permissions: '0640', append: true}\n",
			files: []File{{Path: "/a", Content: []byte("x")}, {Path: "/b", Content: []byte("x")}, {Path: "/c", Content: []byte("x")},
				{Path: "/d", Content: []byte("x"), Permissions: 0o640, Append: true}}},
		"nothing but the first line": {text: "#cloud-config\n"},
		"nothing to write":           {text: "#cloud-config\nhostname: x\n", ignored: []string{"hostname"}},
		"a script":                   {text: "#!/bin/sh\nls\n", ignored: []string{`user data that begin with "#!/bin/sh"`}},
		"something else":             {text: "hello", ignored: []string{"user data of an unknown kind"}},
		"no YAML":                    {text: "#cloud-config\n{", fails: "YAML"},
		"a list":                     {text: "#cloud-config\n- a\n", fails: "mapping"},
		"no list":                    {text: "#cloud-config\nwrite_files: secret\n", fails: "malformed write_files"},
		"no path":                    {text: "#cloud-config\nwrite_files: [{content: x}]\n", fails: "path"},
		"a relative path":            {text: "#cloud-config\nwrite_files: [{path: a/b}]\n", fails: "path"},
		"an unknown encoding":        {text: "#cloud-config\nwrite_files: [{path: /a, encoding: rot13}]\n", fails: "rot13"},
		"wrong base64":               {text: "#cloud-config\nwrite_files: [{path: /a, encoding: b64, content: '???'}]\n", fails: "base64"},
		"wrong permissions":          {text: "#cloud-config\nwrite_files: [{path: /a, permissions: '0999'}]\n", fails: "0999"},
		"a bomb":                     {text: gz(strings.Repeat(" ", maxUserData+2)), fails: "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			files, ignored, err := Parse([]byte(c.text))
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) || strings.Contains(err.Error(), "secret") {
					t.Errorf("%v, want %q", err, c.fails)
				}
				return
			}
			if diff := cmp.Diff(c.files, files); diff != "" || err != nil {
				t.Error(err, diff)
			}
			if diff := cmp.Diff(c.ignored, ignored); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(original))
	f.Add([]byte(gz(original)))
	f.Add([]byte("Content-Type: multipart/mixed; boundary=x\n\n--x\n\n#cloud-config\n--x--"))
	f.Fuzz(func(t *testing.T, text []byte) {
		files, _, _ := Parse(text)
		for _, w := range files {
			if !filepath.IsAbs(w.Path) || filepath.Clean(w.Path) != w.Path {
				t.Errorf("a file at %q", w.Path)
			}
		}
	})
}

const (
	meta  = `{"uuid":"7c0b","name":"my db!","public_keys":{"op":"ssh-ed25519 AAAA op"},"files":[{"path":"/etc/motd","content_path":"/content/0000"}]}`
	other = `{"uuid":"7c0c","name":"---"}`
)

// cloud answers as Nova's metadata service does.
func cloud(t *testing.T, files map[string]string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := files[strings.TrimPrefix(r.URL.Path, "/")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, text)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func options(t *testing.T) Options {
	o := Options{Root: t.TempDir(), RunDir: t.TempDir(), MarkFile: "/var/lib/gotrove/first-boot", Secret: "/etc/trove",
		DriveWait: time.Nanosecond, sys: t.TempDir(), dev: t.TempDir()}
	for _, d := range []string{o.Root + "/etc", o.Root + "/usr/sbin", o.sys + "/block"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(o.Root+"/usr/sbin/sshd", nil, 0o755); err != nil {
		t.Fatal(err)
	}
	return o
}

func run(t *testing.T, o Options) (Result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return Run(ctx, o)
}

func TestRunWritesOnce(t *testing.T) {
	o := options(t)
	files := map[string]string{metaData: meta, userData: original, "openstack/content/0000": "hello",
		networkData: `{"links":[{"ethernet_mac_address":"fa:16:3e:00:00:01"},{"ethernet_mac_address":"fa:16:3e:00:00:02"}]}`}
	o.MetadataURL = cloud(t, files)
	got, err := run(t, o)
	want := Result{Server: "7c0b", Source: "the metadata service", Fresh: true,
		Files: []string{"/etc/trove/conf.d/guest_info.conf", "/etc/trove/conf.d/trove-guestagent.conf", "/etc/motd"}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Fatal(err, diff)
	}
	for path, c := range map[string]struct {
		text string
		mode os.FileMode
	}{
		"etc/trove/conf.d/guest_info.conf":       {"[DEFAULT]\nguest_id = 1\n", 0o600},
		"etc/trove/conf.d/trove-guestagent.conf": {"[DEFAULT]\ntransport_url = x\n", 0o600},
		"etc/motd":                               {"hello", 0o644},
		"etc/hostname":                           {"my-db\n", 0o644},
		"etc/hosts":                              {"127.0.0.1 localhost my-db\n::1 localhost\n", 0o644},
		"root/.ssh/authorized_keys":              {"ssh-ed25519 AAAA op\n", 0o600},
	} {
		text, err := os.ReadFile(filepath.Join(o.Root, path))
		if err != nil || string(text) != c.text {
			t.Errorf("%s: %q, %v", path, text, err)
			continue
		}
		if i, err := os.Stat(filepath.Join(o.Root, path)); err != nil || i.Mode().Perm() != c.mode {
			t.Errorf("%s: mode %v, %v", path, i.Mode(), err)
		}
	}

	network, err := os.ReadFile(filepath.Join(o.Root, managementFile))
	if err != nil || !strings.Contains(string(network), "MACAddress=fa:16:3e:00:00:02") {
		t.Errorf("the management network: %q, %v", network, err)
	}

	// What the agent made of its files since is not undone by the next boot.
	mine := filepath.Join(o.Root, "etc/motd")
	if err := os.WriteFile(mine, []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := run(t, o); err != nil || got.Fresh {
		t.Errorf("the second boot: %+v, %v", got, err)
	}
	if text, _ := os.ReadFile(mine); string(text) != "changed" {
		t.Errorf("the second boot wrote %q", text)
	}
	// An image made of this disk is another server.
	files[metaData] = other
	if got, err := run(t, o); err != nil || !got.Fresh || got.Server != "7c0c" {
		t.Errorf("another server: %+v, %v", got, err)
	}
}

// However its path is written, a file of secrets is one.
func TestSecretByAnotherPath(t *testing.T) {
	for _, path := range []string{"//etc/trove/x", "/etc//trove/x", "/usr/../etc/trove/x", "../etc/trove/x"} {
		o := options(t)
		o.MetadataURL = cloud(t, map[string]string{metaData: `{"uuid":"7c0d","files":[{"path":"` + path + `","content_path":"/content/0000"}]}`,
			"openstack/content/0000": "secret"})
		if _, err := run(t, o); err != nil {
			t.Fatal(err)
		}
		i, err := os.Stat(filepath.Join(o.Root, "etc/trove/x"))
		if err != nil || i.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, i, err)
		}
	}
}

func TestRunWithoutACloud(t *testing.T) {
	for name, url := range map[string]string{"none": "", "nobody there": "http://127.0.0.1:1", "no such thing": cloud(t, nil)} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			o.MetadataURL = url
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			defer cancel()
			if _, err := Run(ctx, o); !trove.IsKind(err, trove.KindNotFound) || trove.ActionOf(err) == "" {
				t.Errorf("%v", err)
			}
		})
	}
}

// A metadata service that is away is asked less and less: many servers may start at
// once.
func TestServiceThatIsAwayIsNotStormed(t *testing.T) {
	var asked atomic.Int64
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	t.Cleanup(busy.Close)
	o := options(t)
	o.MetadataURL = busy.URL
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if _, err := Run(ctx, o); !trove.IsKind(err, trove.KindNotFound) {
		t.Errorf("%v", err)
	}
	if n := asked.Load(); n < 2 || n > 7 {
		t.Errorf("it was asked %d times in 3 s", n)
	}
}

func TestRunRefuses(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"malformed metadata":     {metaData: "{"},
		"metadata of nobody":     {metaData: "{}"},
		"malformed networks":     {metaData: other, networkData: "{"},
		"a card without address": {metaData: other, networkData: `{"links":[{},{}]}`},
		"malformed user data":    {metaData: other, userData: "#cloud-config\n{"},
		"a file that is missing": {metaData: meta},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			o.MetadataURL = cloud(t, files)
			if r, err := run(t, o); err == nil {
				t.Errorf("%+v", r)
			}
			if _, err := os.Stat(filepath.Join(o.Root, o.MarkFile)); err == nil {
				t.Error("it counts as done")
			}
		})
	}
}

// TestConfigDrive reads a drive as Nova makes it.
func TestConfigDrive(t *testing.T) {
	iso, err := exec.LookPath("genisoimage")
	if err != nil || os.Getuid() != 0 {
		t.Skip("needs root and genisoimage")
	}
	o, content := options(t), t.TempDir()
	for name, text := range map[string]string{metaData: meta, userData: original, "openstack/content/0000": "hello"} {
		path := filepath.Join(content, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	image := filepath.Join(t.TempDir(), "drive")
	if out, err := exec.Command(iso, "-o", image, "-ldots", "-allow-lowercase", "-allow-multidot", "-l", "-J", "-r", "-quiet", "-V", label, content).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	out, err := exec.Command("losetup", "-r", "-f", "--show", image).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device: %s", out)
	}
	loop := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "-d", loop).Run() })
	for _, d := range []string{"vda", "sr0"} {
		if err := os.Mkdir(filepath.Join(o.sys, "block", d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(o.dev, "vda"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(loop, filepath.Join(o.dev, "sr0")); err != nil {
		t.Fatal(err)
	}
	got, err := run(t, o)
	if err != nil && strings.Contains(err.Error(), "no such device") {
		t.Skip("this kernel knows no ISO 9660")
	}
	if err != nil || got.Source != "config drive sr0" || len(got.Files) != 3 {
		t.Errorf("%+v, %v", got, err)
	}
	if left, _ := os.ReadDir(o.RunDir); len(left) > 0 {
		t.Errorf("%s is left behind", left[0].Name())
	}
}
