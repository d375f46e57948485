package service

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/irr/whois/whoistest"
	"github.com/routevigil/routevigil/detect/past"
)

// Where no registry is at hand a server says what the as-sets of watches hold, and the detector has it soon.
func TestSetsOfWatchesFromAServer(t *testing.T) {
	address, _ := whoistest.Serve(t, whoistest.Script{"!nroutevigil": "C\n", "!iAS-X,1": whoistest.Data("AS1 AS2\n")})
	c := config.Default()
	c.Store.Directory, c.Knowledge.IRR.Whois = t.TempDir(), address
	c.Watches = detect.WatchList{{Name: "customers", ASSets: []string{"AS-X", "AS-NONE"}}}
	k, err := newKeeper(c, "routevigil/test", slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	defer k.close()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { k.followSets(ctx) })
	eventually(t, func() string {
		if got := k.knowledge().WatchSets["AS-X"]; !slices.Equal(got, []uint32{1, 2}) {
			return fmt.Sprintf("the members are %v, want 1 and 2", got)
		}
		return ""
	})
	stop()
	running.Wait()
	select {
	case <-k.news:
	default:
		t.Error("the detector is not told")
	}
}

// Of a moment of the past is known whose incidents were those of a watch, by its as-sets too; where that is not known it is said.
func TestWatchesOfThePast(t *testing.T) {
	address, _ := whoistest.Serve(t, whoistest.Script{"!nroutevigil": "C\n", "!iAS-X,1": whoistest.Data("AS20001 AS20002\n")})
	c := config.Default()
	c.Store.Directory, c.Knowledge.IRR.Whois = t.TempDir(), address
	c.Watches = detect.WatchList{{Name: "own", Prefixes: []netip.Prefix{victim(3).prefix}, Origins: []uint32{victim(3).asn}}, {Name: "customers", ASSets: []string{"AS-X"}}}
	k, err := newKeeper(c, "routevigil/test", slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	defer k.close()
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { k.followSets(ctx) })
	known := func() bool {
		m, err := past.At(filepath.Join(k.folder, pastName), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		_, ok := m.Source(watchSets)
		return ok
	}
	eventually(t, func() string {
		if !known() {
			return "the members are not kept"
		}
		return ""
	})
	at := time.Now()
	stop()
	running.Wait()
	k.current.Watches, c.Watches = nil, nil // what is configured now does not matter

	watches := func(at time.Time, n network) (names []string, gaps string) {
		t.Helper()
		e, basis, err := EngineAt(t.Context(), c.Store.Directory, at)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range e.Watches() {
			if slices.Contains(w.Origins, n.asn) {
				names = append(names, w.Name)
			}
		}
		return names, strings.Join(basis.Gaps, "\n")
	}
	for i, want := range map[int][]string{1: {"customers"}, 3: {"own"}} {
		if names, gaps := watches(at, victim(i)); !slices.Equal(names, want) || strings.Contains(gaps, "as-sets") {
			t.Errorf("network %d is watched by %v, want %v; %s", i, names, want, gaps)
		}
	}
	if names, gaps := watches(before, victim(1)); len(names) > 0 || !strings.Contains(gaps, "What the as-sets of watches held then is not known") {
		t.Errorf("before the server was asked: %v, %s", names, gaps)
	}
}
