package volume

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/trove"
)

// fileSystem is what blkid finds on a device.
type fileSystem struct {
	Type, UUID, Label string
	Partitions        string // kind of the partition table
}

func (f fileSystem) ext() bool { return f.Type == "ext4" || f.Type == "ext3" || f.Type == "ext2" }

// mountable are the file systems that a volume may have.
func (f fileSystem) mountable() bool { return f.ext() || f.Type == "xfs" }

func (f fileSystem) String() string {
	switch {
	case f.Partitions != "":
		return "a partition table (" + f.Partitions + ")"
	case f.Type != "":
		return f.Type
	}
	return "nothing known"
}

// blkid's exit codes.
const (
	blkidNothing   = 2
	blkidAmbiguous = 8
)

// probe reads what is on a disk; a zero fileSystem is nothing known.
func (v *Volume) probe(ctx context.Context, d disk) (fileSystem, error) {
	out, err := v.output(ctx, time.Minute, "blkid", "-p", "-o", "export", d.path)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		switch exit.ExitCode() {
		case blkidNothing:
			// So it ends too when it could not look.
			if _, _, err := ends(d); err != nil {
				return fileSystem{}, err
			}
			if len(bytes.TrimSpace(out)) > 0 {
				return fileSystem{}, failed("blkid", err, out)
			}
			return fileSystem{}, nil
		case blkidAmbiguous:
			return fileSystem{}, trove.Errorf(trove.KindConflict, "The disk %s holds more than one thing: it is not touched.", d.name).
				WithAction("Look at it with `wipefs %s`.", d.path)
		}
	}
	if err != nil {
		return fileSystem{}, failed("blkid", err, out)
	}
	var f fileSystem
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch name {
		case "TYPE":
			f.Type = value
		case "UUID":
			f.UUID = value
		case "LABEL":
			f.Label = value
		case "PTTYPE":
			f.Partitions = value
		}
	}
	return f, nil
}

// begun is the state file: a file system that is being made. As long as it is
// there, nothing was ever written to that file system by anybody else.
type begun struct {
	Serial string `json:"serial"`
	Size   int64  `json:"size"`
	UUID   string `json:"uuid"`
}

// fileSystem gives the file system on a disk, making one if the disk is empty.
func (v *Volume) fileSystem(ctx context.Context, d disk) (fileSystem, error) {
	is, err := v.probe(ctx, d)
	if err != nil {
		return is, err
	}
	b, err := v.begun()
	if err != nil {
		return is, err
	}
	mine := b != nil && b.Serial == d.serial && b.Serial != "" && b.Size == d.size
	if mine && is.UUID == b.UUID {
		// A disk of the system that was put back, or a removal that did not
		// last, brings back a record that is over: data may be there since.
		used, err := extMounted(d.path)
		if err != nil {
			return is, err
		}
		if used {
			v.c.Log.WarnContext(ctx, "a file system that is said to be half made has been in use: it is left as it is", "device", d.name)
			return is, v.done()
		}
	}
	switch {
	case mine && (is == fileSystem{} || is.UUID == b.UUID):
		v.c.Log.WarnContext(ctx, "making the file system was cut off: it is made again", "device", d.name)
	case is.mountable() && is.Partitions == "":
		return is, v.known(d, is)
	case is != fileSystem{}:
		return is, trove.Errorf(trove.KindConflict, "The volume's disk %s holds %s: it is not touched.", d.name, is).
			WithAction("If nobody needs what is on it: wipefs --all %s", d.path)
	default:
		if err := empty(d); err != nil {
			return is, err
		}
		b = &begun{Serial: d.serial, Size: d.size, UUID: newUUID()}
		text, err := json.Marshal(b)
		if err == nil {
			err = durable.WriteFile(v.c.StateFile, text, 0o600)
		}
		if err != nil {
			return is, fmt.Errorf("write down that a file system is made: %w", err)
		}
	}
	// Tables are written by the kernel when there is time: on a large volume
	// they take minutes, of which a new database need not know.
	if err := v.run(ctx, formatLimit, 0, "mkfs.ext4", "-q", "-F", "-m", "1", "-U", b.UUID, "-L", label,
		"-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1", d.path); err != nil {
		return is, err
	}
	made, err := v.probe(ctx, d)
	if err == nil && made.UUID != b.UUID {
		err = trove.Errorf(trove.KindGuest, "A file system was made on %s, but it holds %s.", d.name, made)
	}
	if err == nil {
		err = v.done()
	}
	if err == nil {
		v.c.Reached(Formatted, fmt.Sprintf("%s %s UUID %s", d.name, made.Type, made.UUID))
	}
	return made, err
}

// label is what file systems are called that an agent made, by which it knows its
// own where it was not told the volume's id.
const label = "gotrove-volume"

// known refuses a file system of which nothing proves that it is this instance's:
// the disk was not named, and no agent made what is on it.
func (v *Volume) known(d disk, is fileSystem) error {
	if v.c.ID != "" || is.Label == label {
		return nil
	}
	return trove.Errorf(trove.KindConflict, "The disk %s holds %s, and nothing tells that it is this instance's volume: it is not touched.", d.name, is).
		WithAction("Name the volume's id in [gotrove] volume_id of the agent's configuration; or, if it is this instance's: e2label %s %s (XFS: xfs_admin -L)", d.path, label)
}

// looked is how much of a disk's beginning and end must be zero for it to be
// empty, in bytes: everything that is known to say what is on a disk is there.
const looked = 1 << 20

// empty refuses a disk that is not provably empty although nothing known is on
// it: it may hold what this machine does not know (an encrypted disk).
func empty(d disk) error {
	begin, end, err := ends(d)
	if err != nil {
		return err
	}
	for _, part := range [][]byte{begin, end} {
		if int64(len(part)) < min(looked, d.size) || len(part) == 0 || len(bytes.Trim(part, "\x00")) > 0 {
			return trove.Errorf(trove.KindConflict, "The volume's disk %s is not empty, and what is on it is not known: it is not touched.", d.name).
				WithAction("If nobody needs what is on it: dd if=/dev/zero of=%s bs=1M count=1; dd if=/dev/zero of=%[1]s bs=1M seek=%d", d.path, max(0, d.size-looked)>>20)
		}
	}
	return nil
}

// ends reads a disk's beginning and end.
func ends(d disk) (begin, end []byte, err error) {
	f, err := os.Open(d.path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	begin, err = io.ReadAll(io.NewSectionReader(f, 0, looked))
	if err == nil {
		end, err = io.ReadAll(io.NewSectionReader(f, max(0, d.size-looked), looked))
	}
	if err != nil {
		err = fmt.Errorf("read %s: %w", d.path, err)
	}
	return begin, end, err
}

func (v *Volume) begun() (*begun, error) {
	text, err := os.ReadFile(v.c.StateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var b begun
	if err := json.Unmarshal(text, &b); err != nil {
		return nil, fmt.Errorf("read %s: %w", v.c.StateFile, err)
	}
	return &b, nil
}

// done forgets that a file system was begun: from now on it may hold data.
func (v *Volume) done() error {
	err := os.Remove(v.c.StateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(v.c.StateFile))
}

// extBlockMax is the largest block of ext2, ext3 and ext4, in bytes.
const extBlockMax = 64 << 10

// extSuper reads the superblock of a file system of these kinds.
func extSuper(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	super := make([]byte, 1024)
	if _, err := f.ReadAt(super, 1024); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	const magic = 0xef53 // s_magic
	if binary.LittleEndian.Uint16(super[0x38:]) != magic {
		return nil, trove.Errorf(trove.KindGuest, "%s holds no ext file system any more", path)
	}
	return super, nil
}

// extMounted reports whether such a file system was ever mounted: it notes when
// it was last, and how often.
func extMounted(path string) (bool, error) {
	super, err := extSuper(path)
	if err != nil {
		return false, err
	}
	return binary.LittleEndian.Uint32(super[0x2c:]) != 0 || binary.LittleEndian.Uint16(super[0x34:]) != 0, nil
}

// extSize reads how large such a file system is, in bytes.
func extSize(path string) (int64, error) {
	super, err := extSuper(path)
	if err != nil {
		return 0, err
	}
	const wide = 0x80 // INCOMPAT_64BIT
	blocks := int64(binary.LittleEndian.Uint32(super[4:]))
	if binary.LittleEndian.Uint32(super[0x60:])&wide != 0 {
		blocks |= int64(binary.LittleEndian.Uint32(super[0x150:])) << 32
	}
	return blocks << (10 + binary.LittleEndian.Uint32(super[0x18:])&7), nil
}

// checkOK is the greatest exit code of e2fsck that lets a file system be used:
// 1 is repaired, 2 is repaired and best not mounted, which it is not.
const checkOK = 2

// check repairs what a crash left, as far as that needs no one to decide.
func (v *Volume) check(ctx context.Context, d disk, fsys fileSystem) error {
	if !fsys.ext() {
		return nil // XFS replays its journal when it is mounted
	}
	return v.run(ctx, checkLimit, checkOK, "e2fsck", "-p", d.path)
}

// run runs a program; exit codes up to most are success.
func (v *Volume) run(ctx context.Context, limit time.Duration, most int, name string, args ...string) error {
	out, err := v.output(ctx, limit, name, args...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() > 0 && exit.ExitCode() <= most {
		err = nil
	}
	if err != nil {
		return failed(name, err, out)
	}
	if text := last(out); text != "" {
		v.c.Log.InfoContext(ctx, name, "output", text)
	}
	return nil
}

func (v *Volume) output(ctx context.Context, limit time.Duration, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	cmd.WaitDelay = time.Second
	return cmd.CombinedOutput()
}

func failed(name string, err error, out []byte) error {
	text := last(out)
	if text != "" {
		text = ": " + text
	}
	return trove.Errorf(trove.KindGuest, "%s failed: %w%s", name, err, text)
}

// last is the end of what a program wrote, on one line.
func last(out []byte) string {
	const most = 400
	text := strings.Join(strings.Fields(string(out)), " ")
	if len(text) > most {
		text = "…" + text[len(text)-most:]
	}
	return text
}

func newUUID() string {
	var u [16]byte
	rand.Read(u[:])
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
