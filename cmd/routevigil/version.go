package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the linker where the build cannot see the repository, as in the container image.
var version string

// VersionCmd prints what was built, from what, with what.
type VersionCmd struct{}

func (VersionCmd) Run(g *Globals) error {
	_, err := fmt.Fprintf(g.Stdout, "routevigil %s (%s, %s/%s)\n", Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// Version is the release, or the pseudo-version of the commit that was built ("+dirty" if it was changed), or "(devel)".
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
