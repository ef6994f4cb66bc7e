package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/gotrove/gotrove/internal/guest/runtime"
)

// Run runs a program of the image to its end, in a container of its own without
// a network. One that an agent left behind with the same directories is ended
// first: it would write into them still.
func (r *Runtime) Run(ctx context.Context, t runtime.Tool) (string, error) {
	out, err := r.tool(ctx, t)
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	return out, err
}

func (r *Runtime) tool(ctx context.Context, t runtime.Tool) (string, error) {
	sum := sha256.Sum256([]byte(strings.Join(append([]string{t.Dir}, t.Dirs...), "\x00")))
	name := "gotrove-tool-" + hex.EncodeToString(sum[:8])
	if t.Dir == "" && len(t.Dirs) == 0 {
		name = "" // it writes nowhere: any number may run
	} else if err := r.remove(ctx, name); err != nil {
		return "", err
	}
	h := r.hostConfig(append([]string{t.Dir}, t.Dirs...))
	h.NetworkMode, h.AutoRemove = "none", true
	o := client.ContainerCreateOptions{Name: name, HostConfig: h, Config: &container.Config{
		Image: r.o.Image, User: r.o.User, WorkingDir: t.Dir, Env: t.Env, Entrypoint: t.Argv[:1], Cmd: t.Argv[1:],
		AttachStdout: true, AttachStderr: true, Labels: map[string]string{labelTool: t.Argv[0]},
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
	}}
	made, err := r.api.ContainerCreate(ctx, o)
	if gone(err) {
		if err := r.Fetch(ctx, nil); err != nil {
			return "", err
		}
		made, err = r.api.ContainerCreate(ctx, o)
	}
	if err != nil {
		return "", r.explain(ctx, "make a container of image "+r.o.Image, err)
	}
	// Docker removes it at its end; if it does not come to that, we do.
	ended := false
	defer func() {
		if !ended {
			if err := r.remove(context.WithoutCancel(ctx), made.ID); err != nil {
				r.o.Log.WarnContext(ctx, "a container is left behind", "container", made.ID, "error", err)
			}
		}
	}()
	if t.Named {
		if err := r.giveName(ctx, made.ID); err != nil {
			return "", err
		}
	}
	stream, err := r.api.ContainerAttach(ctx, made.ID, client.ContainerAttachOptions{Stream: true, Stdout: true, Stderr: true})
	if err != nil {
		return "", r.explain(ctx, "listen to "+t.Argv[0], err)
	}
	var out runtime.Tail
	said := make(chan struct{})
	go func() {
		defer close(said)
		_, _ = stdcopy.StdCopy(&out, &out, stream.Reader) // ends with the program, or when it is closed
	}()
	defer func() { <-said }()
	defer stream.Close()
	wait := r.api.ContainerWait(ctx, made.ID, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	if _, err := r.api.ContainerStart(ctx, made.ID, client.ContainerStartOptions{}); err != nil {
		return "", r.explain(ctx, "run "+t.Argv[0], err)
	}
	select {
	case end := <-wait.Result:
		select {
		case <-said:
		case <-ctx.Done():
			return "", ctx.Err()
		}
		ended = true
		if end.StatusCode != 0 {
			return "", runtime.Failed(t, fmt.Errorf("exit code %d", end.StatusCode), out.String())
		}
		return out.String(), nil
	case err := <-wait.Error:
		return "", r.explain(ctx, "wait for "+t.Argv[0], err)
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// giveName gives the user of a container a name: the image knows none for it.
func (r *Runtime) giveName(ctx context.Context, id string) error {
	uid, gid, _ := strings.Cut(r.o.User, ":")
	passwd := "root:x:0:0:root:/root:/bin/sh\n"
	if uid != "0" {
		passwd += fmt.Sprintf("database:x:%s:%s::/:/bin/sh\n", uid, gid)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: "passwd", Mode: 0o644, Size: int64(len(passwd)), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = w.Write([]byte(passwd))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return err
	}
	_, err = r.api.CopyToContainer(ctx, id, client.CopyToContainerOptions{DestinationPath: "/etc", Content: &b})
	return r.explain(ctx, "name the user of a container", err)
}
