package service

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/irr/whois/whoistest"
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
