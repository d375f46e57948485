//go:build !race

package detect

import (
	"runtime"
	"testing"

	"github.com/routevigil/routevigil/detect/incident"
)

// TestMemory fills tables of more and more peers and prefixes, and takes the differences for what a route, a node and
// a prefix take. Under the race detector small objects take more.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("loads five million routes")
	}
	const prefixes, peers = 120_000, 40
	c := newCrowd()
	e := New(DefaultConfiguration(), Knowledge{}, func(incident.Event) {})
	base := heap()
	size := func() int64 {
		e.shareLearned()
		paths := e.shards[0].table.paths
		return heap() - base - int64(cap(paths.nodes))*16 - paths.children.octets()
	}
	c.load(e, 1, prefixes/6) // by then every path of a peer has a node, and all links are known
	few := size()
	c.load(e, 1, prefixes)
	one := size()
	c.load(e, peers, prefixes)
	all, st := size(), e.Stats()
	paths := e.shards[0].table.paths
	perPrefix := float64(one-few)/float64(prefixes-prefixes/6) - 8
	perRoute := float64(all-one) / float64(st.Routes-prefixes)
	perNode := float64(int64(cap(paths.nodes))*16+paths.children.octets()) / float64(st.Paths)
	t.Logf("%d routes, %d nodes: %.1f octets a route, %.1f a node with its place in the index, %.1f a prefix with one origin",
		st.Routes, st.Paths, perRoute, perNode, perPrefix)
	if perRoute > 10 {
		t.Errorf("%.1f octets a route, want at most 10", perRoute)
	}
	if perNode > 25 {
		t.Errorf("%.1f octets a node, want at most 25: 16, 7 in the index, and room to grow", perNode)
	}
	if perPrefix > 160 {
		t.Errorf("%.1f octets a prefix, want at most 160", perPrefix)
	}
	runtime.KeepAlive(e)
}
