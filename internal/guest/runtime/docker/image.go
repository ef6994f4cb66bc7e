package docker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"

	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/trove"
)

const (
	// stalled is how long a registry may say nothing.
	stalled = 5 * time.Minute
	// reportEvery bounds how often progress is told.
	reportEvery = time.Second
)

// Fetch pulls the image unless it is here. report may be nil.
func (r *Runtime) Fetch(ctx context.Context, report func(runtime.Progress)) error {
	_, err := r.api.ImageInspect(ctx, r.o.Image)
	if err == nil {
		return nil
	}
	if !gone(err) {
		return r.explain(ctx, "look for image "+r.o.Image, err)
	}
	r.o.Log.InfoContext(ctx, "pulling an image", "image", r.o.Image)
	began := time.Now()
	if err := r.pull(ctx, report); err != nil {
		return r.explainPull(ctx, err)
	}
	r.o.Log.InfoContext(ctx, "image pulled", "image", r.o.Image, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

func (r *Runtime) pull(ctx context.Context, report func(runtime.Progress)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(stalled, func() { cancel(errSilent) })
	defer silence.Stop()
	var o client.ImagePullOptions
	if r.o.RegistryUser != "" && registryOf(r.o.Image) == registryOf(r.o.Registry+"/") {
		auth, err := authconfig.Encode(registry.AuthConfig{Username: r.o.RegistryUser, Password: r.o.RegistryPassword.Reveal(), ServerAddress: r.o.Registry})
		if err != nil {
			return err
		}
		o.RegistryAuth = auth
	}
	said, err := r.api.ImagePull(ctx, r.o.Image, o)
	if err != nil {
		return cause(ctx, err)
	}
	defer said.Close()
	layers := layers{}
	var told time.Time
	for m, err := range said.JSONMessages(ctx) {
		if err != nil {
			return cause(ctx, err)
		}
		silence.Reset(stalled)
		if m.Error != nil {
			return m.Error
		}
		layers.take(m)
		if report != nil && time.Since(told) >= reportEvery {
			told = time.Now()
			report(layers.progress(r.o.Image))
		}
	}
	return cause(ctx, nil)
}

var errSilent = fmt.Errorf("nothing was heard for %s", stalled)

// cause is why a pull ended: its own limit, rather than what came of that.
func cause(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errSilent) {
		return errSilent
	}
	return err
}

func (r *Runtime) explainPull(ctx context.Context, err error) error {
	if ctx.Err() != nil || client.IsErrConnectionFailed(err) {
		return r.explain(ctx, "pull image "+r.o.Image, err)
	}
	e := trove.Errorf(trove.KindGuest, "image %s is not here and cannot be pulled: %w", r.o.Image, err)
	if errdefs.IsUnauthorized(err) || errdefs.IsPermissionDenied(err) {
		return e.WithAction("Set container_registry, container_registry_username and container_registry_password in group [guest_agent].")
	}
	return e.WithAction("Check the image's name (docker_image in the engine's group, the datastore version is its tag), that this machine reaches the registry, " +
		"and its login in group [guest_agent]. An image may also be loaded beforehand: docker pull, docker load.")
}

// registryOf is the part of an image's name that says where it is from; that of
// a name without one is empty.
func registryOf(image string) string {
	image = strings.TrimPrefix(strings.TrimPrefix(image, "https://"), "http://")
	first, _, ok := strings.Cut(image, "/")
	if !ok || !strings.ContainsAny(first, ".:") && first != "localhost" {
		return ""
	}
	return first
}

// layers is how far each layer of an image is.
type layers map[string]layer

type layer struct{ done, total int64 }

// take notes what Docker says of a layer. Only its way through the network
// counts: unpacking is told in other numbers.
func (l layers) take(m jsonstream.Message) {
	if m.ID == "" {
		return
	}
	now := l[m.ID]
	switch m.Status {
	case "Downloading":
		if m.Progress != nil {
			now = layer{m.Progress.Current, m.Progress.Total}
		}
	case "Download complete", "Pull complete", "Extracting":
		now.done = now.total
	default:
		return
	}
	l[m.ID] = now
}

func (l layers) progress(image string) runtime.Progress {
	p := runtime.Progress{Message: "Pulling image " + image + ".", Unit: "bytes"}
	for _, one := range l {
		p.Done += one.done
		p.Total += one.total
	}
	return p
}

// Content is the image's id, which is the hash of all that is in it.
func (r *Runtime) Content(ctx context.Context) (string, error) {
	image, err := r.api.ImageInspect(ctx, r.o.Image)
	if gone(err) {
		if err := r.Fetch(ctx, nil); err != nil {
			return "", err
		}
		image, err = r.api.ImageInspect(ctx, r.o.Image)
	}
	if err != nil {
		return "", r.explain(ctx, "look for image "+r.o.Image, err)
	}
	return image.ID, nil
}

// Tags lists the images that are here of a name, by their tags.
func Tags(ctx context.Context, socket, name string) ([]string, error) {
	if socket == "" {
		socket = Socket
	}
	r, err := New(Options{Socket: socket, Image: name, User: "none"})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	images, err := r.api.ImageList(ctx, client.ImageListOptions{Filters: client.Filters{}.Add("reference", name)})
	if err != nil {
		return nil, r.explain(ctx, "list images", err)
	}
	var tags []string
	for _, i := range images.Items {
		for _, ref := range i.RepoTags {
			if tag, ok := strings.CutPrefix(ref, name+":"); ok {
				tags = append(tags, tag)
			}
		}
	}
	slices.Sort(tags)
	return tags, nil
}
