package firstboot

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"path"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// File is one that user data want written.
type File struct {
	Path        string // absolute
	Content     []byte
	Owner       string // user:group or empty
	Permissions uint32 // 0: not said
	Append      bool
}

// maxUserData bounds user data when they are unpacked, in bytes. Nova takes
// 64 KiB.
const maxUserData = 4 << 20

// Parse gives the files of cloud-init's user data: the section write_files of
// a cloud-config, plain, compressed, or in parts. What else they hold is told in
// ignored: this is no cloud-init.
func Parse(userData []byte) (files []File, ignored []string, err error) {
	if bytes.HasPrefix(userData, []byte{0x1f, 0x8b}) {
		if userData, err = gunzip(userData); err != nil {
			return nil, nil, fmt.Errorf("user data: %w", err)
		}
	}
	text := bytes.TrimLeft(userData, "\ufeff \t\r\n")
	first, _, _ := bytes.Cut(text, []byte("\n"))
	kind := strings.TrimSpace(string(first))
	switch {
	case len(text) == 0:
		return nil, nil, nil
	case kind == "#cloud-config":
		return parseConfig(text)
	case strings.HasPrefix(strings.ToLower(kind), "content-type:"), strings.HasPrefix(strings.ToLower(kind), "mime-version:"):
		return parseParts(text)
	case strings.HasPrefix(kind, "#"):
		return nil, []string{"user data that begin with " + strconv.Quote(kind)}, nil
	}
	return nil, []string{"user data of an unknown kind"}, nil
}

// parseParts reads a MIME message of several parts.
func parseParts(text []byte) (files []File, ignored []string, err error) {
	m, err := mail.ReadMessage(bytes.NewReader(text))
	if err != nil {
		return nil, nil, fmt.Errorf("user data: %w", err)
	}
	kind, parameters, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		return nil, nil, fmt.Errorf("user data: %w", err)
	}
	if !strings.HasPrefix(kind, "multipart/") {
		body, err := decode(m.Body, m.Header.Get("Content-Transfer-Encoding"))
		if err != nil {
			return nil, nil, err
		}
		return Parse(body)
	}
	parts := multipart.NewReader(m.Body, parameters["boundary"])
	for {
		p, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			return files, ignored, nil
		}
		if err != nil {
			return nil, nil, fmt.Errorf("user data: %w", err)
		}
		body, err := decode(p, p.Header.Get("Content-Transfer-Encoding"))
		if err != nil {
			return nil, nil, err
		}
		f, i, err := Parse(body)
		if err != nil {
			return nil, nil, err
		}
		files, ignored = append(files, f...), append(ignored, i...)
	}
}

func decode(r io.Reader, encoding string) ([]byte, error) {
	if strings.EqualFold(encoding, "base64") {
		r = base64.NewDecoder(base64.StdEncoding, r)
	}
	return limited(r)
}

// parseConfig reads a cloud-config. The original puts the operator's own before
// its own, so that a key may come twice: then both count.
func parseConfig(text []byte) (files []File, ignored []string, err error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, nil, fmt.Errorf("user data are no YAML: %w", err)
	}
	if len(document.Content) == 0 || document.Content[0].Kind == yaml.ScalarNode && document.Content[0].Tag == "!!null" {
		return nil, nil, nil
	}
	top := document.Content[0]
	if top.Kind != yaml.MappingNode {
		return nil, nil, errors.New("user data: a cloud-config must be a mapping")
	}
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		if key.Value != "write_files" {
			ignored = append(ignored, key.Value)
			continue
		}
		var list []struct {
			Path, Content, Encoding, Owner, Permissions string
			Append                                      bool
		}
		if err := value.Decode(&list); err != nil {
			return nil, nil, errors.New("user data: malformed write_files") // its text would quote contents
		}
		for n, w := range list {
			f := File{Path: path.Clean(w.Path), Owner: w.Owner, Append: w.Append}
			if !path.IsAbs(w.Path) || f.Path == "/" {
				return nil, nil, fmt.Errorf("user data: write_files[%d]: %q is not the path of a file", n, w.Path)
			}
			if f.Content, err = content(w.Content, w.Encoding); err != nil {
				return nil, nil, fmt.Errorf("user data: %s: %w", f.Path, err)
			}
			if w.Permissions != "" {
				mode, err := strconv.ParseUint(strings.TrimPrefix(w.Permissions, "0o"), 8, 12)
				if err != nil {
					return nil, nil, fmt.Errorf("user data: %s: permissions %q", f.Path, w.Permissions)
				}
				f.Permissions = uint32(mode)
			}
			files = append(files, f)
		}
	}
	return files, ignored, nil
}

// content decodes a file's text as cloud-init names the encodings.
func content(text, encoding string) ([]byte, error) {
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "", "text/plain":
		return []byte(text), nil
	case "b64", "base64":
		return unbase64(text)
	case "gz", "gzip":
		return gunzip([]byte(text))
	case "gz+b64", "gz+base64", "gzip+b64", "gzip+base64":
		packed, err := unbase64(text)
		if err != nil {
			return nil, err
		}
		return gunzip(packed)
	}
	return nil, fmt.Errorf("encoding %q is not known", encoding)
}

func unbase64(text string) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		return nil, errors.New("malformed base64")
	}
	return b, nil
}

func gunzip(b []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return limited(r)
}

func limited(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxUserData+1))
	if err == nil && len(b) > maxUserData {
		err = fmt.Errorf("more than %d bytes", maxUserData)
	}
	return b, err
}
