package osloconf

import (
	"os"
	"path/filepath"
)

// Find gives the files and directories that oslo.config reads for a program of
// a project when it is told none: <project>.conf and <program>.conf, each the
// first that is there of ~/.<project>, ~, /etc/<project> and /etc, and the same
// for <project>.conf.d and <program>.conf.d.
func Find(project, program string) (files, dirs []string) {
	var places []string
	if home, err := os.UserHomeDir(); err == nil {
		places = append(places, filepath.Join(home, "."+project), home)
	}
	places = append(places, filepath.Join("/etc", project), "/etc")
	return find(places, project, program)
}

func find(places []string, names ...string) (files, dirs []string) {
	first := func(name string, dir bool) []string {
		for _, p := range places {
			path := filepath.Join(p, name)
			if st, err := os.Stat(path); err == nil && st.IsDir() == dir {
				return []string{path}
			}
		}
		return nil
	}
	for _, name := range names {
		files = append(files, first(name+".conf", false)...)
		dirs = append(dirs, first(name+".conf.d", true)...)
	}
	return files, dirs
}
