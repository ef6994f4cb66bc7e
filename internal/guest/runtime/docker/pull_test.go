package docker_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// registry has one image, private/engine:1, for one user. Its layer comes in
// small pieces until seen is closed.
type registry struct {
	*httptest.Server
	asked atomic.Int32
	seen  chan struct{}
}

func newRegistry(t *testing.T, user, password string) *registry {
	t.Helper()
	var plain, packed bytes.Buffer
	w := tar.NewWriter(&plain)
	content := make([]byte, 1<<20)
	_, _ = rand.Read(content) // never fails
	if err := w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(plain.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	digest := func(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[%q]}}`, digest(plain.Bytes()))
	const docker = "application/vnd.docker."
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"size":%d,"digest":%q},"layers":[{"mediaType":%q,"size":%d,"digest":%q}]}`,
		docker+"distribution.manifest.v2+json", docker+"container.image.v1+json", len(config), digest(config),
		docker+"image.rootfs.diff.tar.gzip", packed.Len(), digest(packed.Bytes()))

	r := &registry{seen: make(chan struct{})}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.asked.Add(1)
		w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		if u, p, _ := q.BasicAuth(); u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, blob, _ := strings.Cut(q.URL.Path, "/blobs/")
		switch {
		case strings.Contains(q.URL.Path, "/manifests/"):
			w.Header().Set("Content-Type", docker+"distribution.manifest.v2+json")
			w.Header().Set("Docker-Content-Digest", digest(manifest))
			w.Header().Set("Content-Length", fmt.Sprint(len(manifest)))
			_, _ = w.Write(manifest)
		case blob == digest(config):
			_, _ = w.Write(config)
		case blob == digest(packed.Bytes()):
			w.Header().Set("Content-Length", fmt.Sprint(packed.Len()))
			left := packed.Bytes()
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for seen := false; !seen && len(left) > packed.Len()/4; {
				_, _ = w.Write(left[:packed.Len()/64])
				left = left[packed.Len()/64:]
				w.(http.Flusher).Flush()
				select {
				case <-r.seen:
					seen = true
				case <-tick.C:
				}
			}
			_, _ = w.Write(left)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func TestPull(t *testing.T) {
	o := options(t)
	const password = "s3cret-of-the-registry"
	r := newRegistry(t, "puller", password)
	o.Registry = strings.TrimPrefix(r.URL, "http://") // Docker takes one of this machine without TLS
	o.Image = o.Registry + "/private/engine:1"
	for what, login := range map[string][2]string{"no login": {}, "a wrong login": {"puller", "wrong-password"}} {
		o.RegistryUser, o.RegistryPassword = login[0], secret.New(login[1])
		err := open(t, o).Fetch(t.Context(), nil)
		if !trove.IsKind(err, trove.KindGuest) || !strings.Contains(err.Error(), o.Image) || !strings.Contains(trove.ActionOf(err), "[guest_agent]") {
			t.Errorf("with %s: %v (%s)", what, err, trove.ActionOf(err))
		}
		if err != nil && login[1] != "" && strings.Contains(err.Error()+trove.ActionOf(err), login[1]) {
			t.Errorf("the error tells the password: %v", err)
		}
	}
	// A login is for its registry and no other.
	o.RegistryUser, o.RegistryPassword = "puller", secret.New(password)
	elsewhere := o
	elsewhere.Registry = "registry.example.com"
	if err := open(t, elsewhere).Fetch(t.Context(), nil); err == nil {
		t.Error("the login of another registry was sent")
	}

	var told []runtime.Progress
	held := true
	if err := open(t, o).Fetch(t.Context(), func(p runtime.Progress) {
		told = append(told, p)
		if held && p.Done > 0 && p.Done < p.Total {
			held = false
			close(r.seen)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if held {
		t.Errorf("nothing was told between beginning and end: %+v", told)
	}
	if last := told[len(told)-1]; last.Unit != "bytes" || !strings.Contains(last.Message, o.Image) {
		t.Errorf("progress is told as %+v", last)
	}

	asked := r.asked.Load()
	if err := open(t, o).Fetch(t.Context(), nil); err != nil || r.asked.Load() != asked {
		t.Errorf("an image that is here: %v, the registry was asked %d times more", err, r.asked.Load()-asked)
	}
}
