package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// CutLog empties a log that has grown past limit bytes and keeps its last half
// limit beside it, as path.1 in place of the one before. Whoever writes the log
// must append to it (O_APPEND); what is written during the cut may be lost. A
// log that is not there is short. Others may own the directory: no link is
// followed.
func CutLog(path string, limit int64) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && st.Size() <= limit {
		return nil
	}
	if err != nil {
		return Explain(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return Explain(err)
	}
	defer f.Close()
	if st, err = f.Stat(); err != nil || !st.Mode().IsRegular() {
		return errors.Join(err, fmt.Errorf("%s is not a file", path))
	}
	b := make([]byte, limit/2)
	n, err := f.ReadAt(b, st.Size()-limit/2)
	if err != nil && !errors.Is(err, io.EOF) {
		return Explain(err)
	}
	// A disk that is full for want of this very cut must not prevent it.
	kept := WriteFile(path+".1", b[:n], 0o600)
	return errors.Join(Explain(f.Truncate(0)), kept)
}
