package openstack

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"mime/multipart"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"maps"

	"go.yaml.in/yaml/v3"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/trove"
)

const (
	cloudConfig = "#cloud-config\n"
	// mostData is what Nova takes, in base64.
	mostData = 65535
	// mostOwn is the size of an operator's file, in bytes.
	mostOwn = 32 << 10
)

// file is an entry of cloud-init's write_files.
type file struct {
	Path        string `yaml:"path"`
	Owner       string `yaml:"owner,omitempty"`
	Permissions string `yaml:"permissions"`
	Encoding    string `yaml:"encoding"`
	Content     string `yaml:"content"`
}

// userData is what cloud-init does on the server: write the files, and what the
// operator's <manager>.cloudinit says. A cloud-config of the operator is merged
// into ours; anything else, such as a script, is sent beside it.
func (c *Cloud) userData(spec cloud.ServerSpec) ([]byte, error) {
	var files []file
	for _, path := range slices.Sorted(maps.Keys(spec.Files)) {
		files = append(files, file{Path: path, Owner: c.o.FileOwner, Permissions: "0640", Encoding: "b64",
			Content: base64.StdEncoding.EncodeToString(spec.Files[path])})
	}
	own, name, err := c.ownData(spec.Manager)
	if err != nil {
		return nil, err
	}
	config := map[string]any{}
	other := len(own) > 0 && !bytes.HasPrefix(own, []byte(strings.TrimSpace(cloudConfig)))
	if len(own) > 0 && !other {
		if err := yaml.Unmarshal(own, &config); err != nil {
			return nil, trove.Errorf(trove.KindInternal, "%s is not YAML: %w", name, err).WithAction("repair it: cloud-init schema -c %s", name)
		}
	}
	if len(files) > 0 {
		before, _ := config["write_files"].([]any)
		all := slices.Clone(before)
		for _, f := range files {
			all = append(all, f)
		}
		config["write_files"] = all
	}
	if len(config) == 0 && !other {
		return nil, nil
	}
	text, err := yaml.Marshal(config)
	if err != nil {
		return nil, err
	}
	data := append([]byte(cloudConfig), text...)
	if other {
		if data, err = both(data, own); err != nil {
			return nil, err
		}
	}
	if base64.StdEncoding.EncodedLen(len(data)) > mostData {
		return nil, trove.Errorf(trove.KindInternal, "The files of a server are too large for Nova: %d bytes, and %d are taken.", len(data), mostData/4*3).
			WithAction("make guest_config and %s smaller", name)
	}
	return data, nil
}

// ownData reads the operator's file for a manager.
func (c *Cloud) ownData(manager string) (data []byte, name string, err error) {
	name = filepath.Join(c.o.CloudInitDir, manager+".cloudinit")
	if c.o.CloudInitDir == "" || manager == "" || manager != filepath.Base(manager) {
		return nil, name, nil
	}
	data, err = os.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, name, nil
	case err != nil:
		return nil, name, trove.Errorf(trove.KindInternal, "[DEFAULT] cloudinit_location: %w", err)
	case len(data) > mostOwn:
		return nil, name, trove.Errorf(trove.KindInternal, "%s is larger than %d bytes", name, mostOwn)
	}
	return data, name, nil
}

// both puts a cloud-config and an operator's part of another kind together, as
// cloud-init takes them.
func both(config, own []byte) ([]byte, error) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	// Nothing random: a server made again gets the same data.
	if err := w.SetBoundary("==gotrove-part=="); err != nil {
		return nil, err
	}
	kind := "text/cloud-config"
	switch {
	case bytes.HasPrefix(own, []byte("#!")):
		kind = "text/x-shellscript"
	case bytes.HasPrefix(own, []byte("#include")):
		kind = "text/x-include-url"
	case bytes.HasPrefix(own, []byte("## template:")), bytes.HasPrefix(own, []byte("#template")):
		kind = "text/jinja2"
	}
	for _, part := range []struct {
		kind string
		text []byte
	}{{"text/cloud-config", config}, {kind, own}} {
		p, err := w.CreatePart(textproto.MIMEHeader{"Content-Type": {part.kind + `; charset="utf-8"`}, "MIME-Version": {"1.0"}})
		if err != nil {
			return nil, err
		}
		if _, err := p.Write(part.text); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return append(fmt.Appendf(nil, "Content-Type: multipart/mixed; boundary=%q\nMIME-Version: 1.0\n\n", w.Boundary()), b.Bytes()...), nil
}
