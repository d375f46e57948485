package service

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/routevigil/routevigil/api"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/refresh"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/rpki/rtr"
)

// cache is an RTR server that gives every query the whole of what it holds.
type cache struct {
	listener net.Listener

	mu     sync.Mutex
	vrps   []rpki.VRP
	serial uint32
}

func newCache(t *testing.T, vrps ...rpki.VRP) *cache {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cache{listener: l, vrps: vrps, serial: 1}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { c.serve(conn) })
		}
	})
	return c
}

// serve answers what may have changed since the last query with a Cache Reset, and then with all.
func (c *cache) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for {
		query := make([]byte, 8)
		if _, err := io.ReadFull(in, query); err != nil {
			return
		}
		var answer []byte
		add := func(p rtr.PDU) { p.Version = 2; answer = p.Append(answer) }
		if rtr.Type(query[1]) == rtr.SerialQuery {
			if _, err := in.Discard(4); err != nil {
				return
			}
			add(rtr.PDU{Type: rtr.CacheReset})
		} else {
			c.mu.Lock()
			add(rtr.PDU{Type: rtr.CacheResponse, Session: 7})
			for _, v := range c.vrps {
				add(rtr.PDU{Type: rtr.IPv4Prefix, Announce: true, Prefix: v.Prefix, MaxLength: v.MaxLength, ASN: v.ASN})
			}
			add(rtr.PDU{Type: rtr.EndOfData, Session: 7, Serial: c.serial, Refresh: 1, Retry: 1, Expire: 600})
			c.mu.Unlock()
		}
		if _, err := conn.Write(answer); err != nil {
			return
		}
	}
}

func (c *cache) hold(vrps ...rpki.VRP) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.vrps, c.serial = vrps, c.serial+1
}

func roa(n network) rpki.VRP {
	return rpki.VRP{Prefix: n.prefix, MaxLength: uint8(n.prefix.Bits()), ASN: n.asn}
}

// TestVRPsByRTR lets what the RPKI says change under a running service.
func TestVRPsByRTR(t *testing.T) {
	wrong := roa(victim(1))
	wrong.ASN = 65551
	cache := newCache(t, roa(victim(0)), wrong)
	f := newFeed(t)
	c := configuration(t, f.url())
	c.Knowledge.RTR.Caches = []rtr.CacheConfiguration{{Address: cache.listener.Addr().String()}}
	slurm := [...]string{filepath.Join(t.TempDir(), "first.json"), filepath.Join(t.TempDir(), "second.json")}
	allow := func(file string, n network) { // writes the whole of it at once, as an operator should
		t.Helper()
		err := os.WriteFile(file+".new", fmt.Appendf(nil, `{"slurmVersion":1,"validationOutputFilters":{"prefixFilters":[],"bgpsecFilters":[]},
			"locallyAddedAssertions":{"prefixAssertions":[{"asn":%d,"prefix":%q}],"bgpsecAssertions":[]}}`, n.asn, n.prefix), 0o600)
		if err := errors.Join(err, os.Rename(file+".new", file)); err != nil {
			t.Fatal(err)
		}
	}
	allow(slurm[0], victim(2))
	allow(slurm[1], victim(4))
	c.Knowledge.SLURM, c.Knowledge.Refresh.VRPs = slurm[:], time.Second
	s := start(t, c)
	s.whenReady(f)
	says := func(i int, want string) {
		t.Helper()
		eventually(t, func() string {
			var answer struct{ Origins []struct{ RPKI string } }
			if code := s.get("/api/v1/prefixes/"+victim(i).prefix.String(), &answer); code != http.StatusOK || len(answer.Origins) != 1 || answer.Origins[0].RPKI != want {
				return fmt.Sprintf("AS%d is not %s: %d %+v", victim(i).asn, want, code, answer)
			}
			return ""
		})
	}
	says(0, "valid")
	says(1, "invalid")
	says(2, "valid") // by the local exception
	says(3, "not_found")
	cache.hold(roa(victim(1)), roa(victim(3)))
	says(0, "not_found")
	says(1, "valid")
	says(2, "valid")
	says(3, "valid")
	// The exceptions change while what the caches say does not.
	says(4, "valid")
	says(5, "not_found")
	allow(slurm[1], victim(5))
	says(4, "not_found")
	says(5, "valid")
	says(2, "valid")
	// Exceptions that cannot be read leave those in use that there are, and somebody is told.
	if err := os.Rename(slurm[0], slurm[0]+".gone"); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		var sources struct{ Items []refresh.Status }
		s.get("/api/v1/sources", &sources)
		for _, st := range sources.Items {
			if st.Name == "slurm" && st.LastError != "" && st.Entries == 2 {
				return ""
			}
		}
		return fmt.Sprintf("sources are %+v", sources.Items)
	})
	says(2, "valid")
	allow(slurm[0], victim(6))
	says(2, "not_found")
	says(6, "valid")
	// How it has changed is told, the newest first.
	var changes struct{ Items []api.RPKIChange }
	s.get("/api/v1/rpki/changes?prefix="+victim(3).prefix.String(), &changes)
	if len(changes.Items) != 1 || changes.Items[0].Change != "added" || changes.Items[0].VRP == nil || changes.Items[0].VRP.ASN != victim(3).asn {
		t.Errorf("changes of %s: %+v", victim(3).prefix, changes.Items)
	}
	s.get(fmt.Sprintf("/api/v1/rpki/changes?asn=%d", victim(0).asn), &changes)
	if len(changes.Items) != 1 || changes.Items[0].Change != "removed" {
		t.Errorf("changes of AS%d: %+v", victim(0).asn, changes.Items)
	}
	if n, ok := s.metric("routevigil_rtr_vrps"); !ok || n != 2 {
		t.Errorf("%v VRPs in the metrics", n)
	}
	// The verdict on a hijack has it as evidence.
	if err := f.tell(hijack(3, 0, sessions)...); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		inc, ok := s.incidentOf(3)
		if !ok {
			return "no incident"
		}
		for _, e := range inc.Evidence {
			if e.Rule == "rpki.invalid_asn" && inc.Kind == incident.OriginHijack {
				return ""
			}
		}
		return fmt.Sprintf("no evidence of the RPKI: %+v", inc)
	})
	if err := s.stop(); err != nil {
		t.Error(err)
	}
}

// TestVRPsHeldBack follows a cache that loses most of what it had.
func TestVRPsHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := func(n int) *rpki.Set {
			var d rpki.Data
			for i := range n {
				p := netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i)}), 24)
				d.VRPs = append(d.VRPs, rpki.VRP{Prefix: p, MaxLength: 24, ASN: 1})
			}
			return rpki.NewSet(d, fmt.Sprint(n))
		}
		holds := 0
		l := &liveVRPs{heldBack: func(string, error) { holds++ }, log: slog.New(slog.DiscardHandler), newest: make(chan *rpki.Set, 1), client: rtr.New(nil, nil, nil)}
		engine := make(chan *rpki.Set, 1)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.follow(ctx, func(s *rpki.Set) { engine <- s }) }()
		given := func() int {
			synctest.Wait()
			select {
			case s := <-engine:
				return s.Len()
			default:
				return -1 // nothing
			}
		}
		for _, step := range []struct {
			comes, given int
			held         bool
			after        time.Duration
		}{
			{5000, 5000, false, 0},
			{4600, 4600, false, 0},          // operators may do that
			{10, -1, true, 0},               // but not that
			{9, -1, true, 30 * time.Minute}, // nor more of it
			{4700, 4700, false, 0},          // it was a fault
			{10, -1, true, 30 * time.Minute},
			{11, -1, true, 29 * time.Minute},
			{-1, 11, false, 2 * time.Minute}, // it has been so for an hour
		} {
			if step.comes >= 0 {
				l.publish(set(step.comes))
			}
			synctest.Wait()
			time.Sleep(step.after)
			if got := given(); got != step.given {
				t.Errorf("%+v: the engine was given %d", step, got)
			}
			if held := strings.Contains(l.trouble(), "held back"); held != step.held {
				t.Errorf("%+v: %q", step, l.trouble())
			}
		}
		l.publish(nil) // expired: that must never wait
		if got := given(); got != 0 {
			t.Errorf("%d VRPs after expiry", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if holds != 2 {
			t.Errorf("told of sets that are held back %d times, want 2", holds)
		}
	})
}

// That a file of VRPs lost most of what it had is told among the changes.
func TestHeldBackIsTold(t *testing.T) {
	f := newFeed(t)
	c := configuration(t, f.url())
	c.Knowledge.VRPs, c.Knowledge.Refresh.VRPs = filepath.Join(t.TempDir(), "vrps.json"), time.Second
	write := func(n int) {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf(`{"asn":1,"prefix":"20.%d.%d.0/24","maxLength":24,"ta":"ripe"}`, i>>8, i&255))
		}
		replaceFile(t, c.Knowledge.VRPs, `{"roas":[%s]}`, strings.Join(list, ","))
	}
	write(3000)
	s := start(t, c)
	s.whenReady(f)
	write(30)
	eventually(t, func() string {
		var changes struct{ Items []api.RPKIChange }
		s.get("/api/v1/rpki/changes", &changes)
		if len(changes.Items) != 1 || changes.Items[0].Change != "held_back" || changes.Items[0].What != "all" ||
			!strings.Contains(changes.Items[0].Reason, "ripe") || changes.Items[0].Source != c.Knowledge.VRPs {
			return fmt.Sprintf("changes are %+v", changes.Items)
		}
		return ""
	})
}
