package publish

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bgp/gobgptest"
	"github.com/routevigil/routevigil/ingest/bmp"
	"github.com/routevigil/routevigil/ingest/bus/kafkabus"
	"github.com/routevigil/routevigil/ingest/bus/kafkabus/kafkatest"
	"github.com/routevigil/routevigil/ingest/openbmp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 2 * time.Minute

// tables are what peers have, by who and what: the sum of what was said.
type tables map[ingest.Peer]map[bgp.NLRI]string

func (t tables) apply(u *ingest.Update) {
	if u.EndOfRIB != 0 {
		u = &ingest.Update{Peer: u.Peer, Time: u.Time, EndOfRIB: u.EndOfRIB, Announced: []bgp.NLRI{{PathID: uint32(u.EndOfRIB)}}} // kept as if it were a route
	}
	if t[u.Peer] == nil || u.Kind == ingest.PeerUp || u.Kind == ingest.PeerDown {
		t[u.Peer] = map[bgp.NLRI]string{}
	}
	for _, r := range u.Withdrawn {
		delete(t[u.Peer], r)
	}
	for _, r := range u.Announced {
		t[u.Peer][r] = fmt.Sprintf("%v %+v", u.Time, u.Attrs)
	}
}

// reader takes messages in as a consumer does.
type reader struct {
	sessions map[openbmp.Hash]*bmp.Session
	tables   tables
}

// message takes one in, and gives what BMP says in it.
func (r *reader) message(t failer, b []byte) []byte {
	var h openbmp.Header
	body, rest, err := h.Decode(b)
	if err != nil || len(rest) > 0 || h.Type != openbmp.TypeBMPRaw || h.Flags&openbmp.FlagRouter == 0 || h.Rows != 1 {
		t.Fatalf("%x is read as %+v, %v", b, h, err)
	}
	s := r.sessions[h.Router]
	if s == nil {
		s = bmp.NewSession(string(h.Group), false)
		s.TellEndOfRIB()
		r.sessions[h.Router] = s
	}
	it, err := s.Message(body, h.Time)
	if err != nil {
		t.Fatalf("%x: %v", body, err)
	}
	if err := s.Emit(it, func(u *ingest.Update) error { r.tables.apply(u); return nil }); err != nil {
		t.Fatalf("%v", err)
	}
	return body
}

type failer interface{ Fatalf(string, ...any) }

func genUpdate(t *rapid.T, peers []ingest.Peer, ids map[ingest.Peer]bool, at ingest.Time) *ingest.Update {
	u := &ingest.Update{Time: at, Peer: rapid.SampledFrom(peers).Draw(t, "peer")}
	if u.Kind = ingest.Kind(rapid.IntRange(0, 9).Draw(t, "kind")); u.Kind > ingest.PeerDown {
		u.Kind = ingest.Routes
	}
	if u.Kind == ingest.PeerUp || u.Kind == ingest.PeerDown {
		return u
	}
	if u.Kind == ingest.Routes && rapid.IntRange(0, 5).Draw(t, "end") == 0 {
		u.EndOfRIB = rapid.SampledFrom([]bgp.Family{bgp.IPv4Unicast, bgp.IPv6Unicast}).Draw(t, "table")
		return u
	}
	routes := func(most int) (list []bgp.NLRI) {
		for range rapid.IntRange(0, most).Draw(t, "routes") {
			n := byte(rapid.IntRange(0, 5).Draw(t, "prefix"))
			r := bgp.NLRI{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, n}), 16)}
			if rapid.Bool().Draw(t, "IPv6") {
				r.Prefix = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, n}), 24)
			}
			if ids[u.Peer] {
				r.PathID = uint32(rapid.IntRange(0, 2).Draw(t, "path id"))
			}
			if !slices.Contains(list, r) {
				list = append(list, r)
			}
		}
		return list
	}
	u.Withdrawn, u.Announced = routes(3), routes(3)
	// What is announced in the message that withdraws it is there afterwards, but for one that is cut by families.
	u.Withdrawn = slices.DeleteFunc(u.Withdrawn, func(r bgp.NLRI) bool { return slices.Contains(u.Announced, r) })
	if len(u.Announced) == 0 {
		return u
	}
	u.Attrs = bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop | bgp.HasCommunities | bgp.HasOTC | bgp.HasLargeCommunities,
		NextHop: netip.MustParseAddr("2001:db8::1"), OTC: 64499, Communities: []uint32{1}, LargeCommunities: []bgp.LargeCommunity{{Global: 1}},
		ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{u.Peer.ASN, 200000 + uint32(rapid.IntRange(0, 3).Draw(t, "origin"))}}}}
	if len(u.Announced) > 0 && !slices.ContainsFunc(u.Announced, func(r bgp.NLRI) bool { return r.Prefix.Addr().Is6() }) && rapid.Bool().Draw(t, "IPv4 next hop") {
		u.Attrs.NextHop = netip.MustParseAddr("192.0.2.1")
	}
	if rapid.IntRange(0, 9).Draw(t, "long") == 0 { // more than a message of 4096 octets holds
		u.Attrs.Communities = make([]uint32, 1200)
	}
	return u
}

// What a consumer gets that reads with our decoder is what the feeds said, and GoBGP reads the same in every message.
func TestConsumersGetWhatWasSaid(t *testing.T) {
	peers := []ingest.Peer{
		{Collector: "rrc00", Addr: netip.MustParseAddr("192.0.2.1"), ASN: 64500},
		{Collector: "rrc00", Addr: netip.MustParseAddr("2001:db8::7"), ASN: 4200000001},
		{Collector: "rrc01", Addr: netip.MustParseAddr("192.0.2.1"), ASN: 64500},
		{Collector: "edge", Addr: netip.MustParseAddr("192.0.2.3"), ASN: 64502, View: ingest.AdjRIBInPost},
		{Collector: "edge", Addr: netip.MustParseAddr("192.0.2.9"), ASN: 64509, View: ingest.LocRIB},
	}
	rapid.Check(t, func(t *rapid.T) {
		said, got := tables{}, reader{sessions: map[openbmp.Hash]*bmp.Session{}, tables: tables{}}
		e, q, ids, first := newEncoder("test"), &queue{}, map[ingest.Peer]bool{}, map[ingest.Peer]bool{}
		for _, p := range peers {
			ids[p] = rapid.Bool().Draw(t, "ADD-PATH")
		}
		at := ingest.TimeOf(time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC))
		for range rapid.IntRange(1, 40).Draw(t, "updates") {
			at++
			u := genUpdate(t, peers, ids, at)
			if hasIDs(u) && !first[u.Peer] { // only now it shows that there are any: the session is told anew
				first[u.Peer] = true
				said[u.Peer] = nil
			}
			said.apply(u)
			if err := e.append(q, u, at); err != nil {
				t.Fatalf("%+v: %v", u, err)
			}
			q.each(func(b []byte, _ uint32) {
				ours, err := new(bmp.Decoder).Decode(got.message(t, b))
				if err != nil {
					t.Fatal(err)
				}
				o := bgp.Options{}
				if first[u.Peer] {
					o.AddPath = bgp.Unicast
				}
				body, _, _ := new(openbmp.Header).Decode(b)
				theirs, update, err, updateErr := gobgptest.BMP(body, o)
				if err != nil || updateErr != nil {
					t.Fatalf("GoBGP, of %+v: %v, %v", u, err, updateErr)
				}
				if update != nil {
					decoded, err := new(bgp.Decoder).Update(ours.BGP[bgp.HeaderLength:], o)
					if err != nil || decoded.Faults != 0 {
						t.Fatalf("%v, %v", err, decoded.Faults)
					}
					if diff := cmp.Diff(fmt.Sprint(update.Announced, update.Withdrawn, update.Attrs.ASPath, update.Attrs.OTC), fmt.Sprint(decoded.Announced, decoded.Withdrawn, decoded.Attrs.ASPath, decoded.Attrs.OTC)); diff != "" {
						t.Fatalf("-GoBGP +ours\n%s", diff)
					}
				}
				theirs.BGP = ours.BGP
				if diff := cmp.Diff(theirs, ours, gobgptest.SameBMP); diff != "" {
					t.Fatalf("-GoBGP +ours\n%s", diff)
				}
			})
			q.reset()
		}
		for _, p := range peers {
			if len(said[p])+len(got.tables[p]) > 0 {
				if diff := cmp.Diff(said[p], got.tables[p]); diff != "" {
					t.Fatalf("%v: -said +got\n%s", p, diff)
				}
			}
		}
	})
}

// What has no form in BMP costs nothing but itself.
func TestWhatCannotBeEncoded(t *testing.T) {
	p := New(kafkabus.OpenBMP{Topic: "x", Name: "test", MaxBytes: 1 << 20}, nil, slog.New(slog.DiscardHandler), nil)
	peer := ingest.Peer{Collector: "rrc00", Addr: netip.MustParseAddr("192.0.2.1"), ASN: 64500}
	for i, u := range []ingest.Update{
		{Peer: ingest.Peer{Collector: "rrc00"}, Announced: []bgp.NLRI{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}}}, // no address
		{Peer: peer, Announced: []bgp.NLRI{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}}},                            // no next hop
		{Peer: ingest.Peer{Collector: "r", Addr: netip.MustParseAddr("2001:db8::1"), View: ingest.LocRIB}, Withdrawn: []bgp.NLRI{{}}},
	} {
		p.Update(&u)
		if n := testutil.ToFloat64(p.lost.WithLabelValues(lostEncoding)); n != float64(i+1) {
			t.Fatalf("update %d: %v are counted as lost", i, n)
		}
	}
	p.Update(&ingest.Update{Time: 1, Peer: peer, Withdrawn: []bgp.NLRI{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}}})
	r := reader{sessions: map[openbmp.Hash]*bmp.Session{}, tables: tables{}}
	types := []bmp.Type{}
	p.waiting.each(func(b []byte, _ uint32) { types = append(types, bmp.Type(r.message(t, b)[5])) })
	// Of the Loc-RIB's router only its Initiation and Peer Up are there as well.
	want := []bmp.Type{bmp.TypeInitiation, bmp.TypePeerUp, bmp.TypePeerUp, bmp.TypeRouteMonitoring}
	if !slices.Equal(types[:2], want[:2]) || types[len(types)-1] != bmp.TypeRouteMonitoring {
		t.Errorf("%v was told", types)
	}
}

// A full queue loses what comes, counts it, and holds nobody up; that a session ended meanwhile is told later.
func TestFullQueue(t *testing.T) {
	p := New(kafkabus.OpenBMP{Topic: "x", Name: "test", MaxBytes: 8 << 10}, nil, slog.New(slog.DiscardHandler), nil)
	u := ingest.Update{Time: ingest.TimeOf(time.Now()), Peer: ingest.Peer{Collector: "rrc00", Addr: netip.MustParseAddr("192.0.2.1"), ASN: 64500}}
	said := tables{}
	announce := func(n int) {
		u.Kind, u.Announced = ingest.Routes, []bgp.NLRI{{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n)}), 24)}}
		u.Attrs = bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop, NextHop: u.Peer.Addr, ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{64500}}}}
		p.Update(&u)
	}
	lost := func() float64 { return testutil.ToFloat64(p.lost.WithLabelValues(lostFull)) }
	n := 0
	for ; lost() == 0; n++ {
		announce(n)
	}
	if size := len(p.waiting.b); size < 4<<10 || size > 5<<10 {
		t.Errorf("%d octets wait after %d updates", size, n)
	}
	p.Update(&ingest.Update{Time: u.Time, Peer: u.Peer, Kind: ingest.PeerDown})
	if lost() != 2 {
		t.Errorf("%v are counted as lost", lost())
	}
	r := reader{sessions: map[openbmp.Hash]*bmp.Session{}, tables: tables{}}
	take := func() {
		p.waiting.each(func(b []byte, _ uint32) { r.message(t, b) })
		p.waiting.reset()
	}
	take()
	if len(r.tables[u.Peer]) != n-1 {
		t.Errorf("a consumer has %d routes of %d", len(r.tables[u.Peer]), n-1)
	}
	announce(n)
	take()
	said.apply(&u)
	if diff := cmp.Diff(said[u.Peer], r.tables[u.Peer]); diff != "" {
		t.Errorf("after the session had ended, -said +got\n%s", diff)
	}
}

// Through Kafka, and with our own source as the consumer, everything arrives, in each peer's order. What was
// published before the topic is there waits for it.
func TestThroughKafka(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, address string) {
		log := slog.New(slog.NewTextHandler(t.Output(), nil))
		c := kafkabus.DefaultConfiguration()
		c.Brokers, c.Prefix = []string{address}, fmt.Sprintf("test%d.", time.Now().UnixNano())
		c.OpenBMP.Topic, c.OpenBMP.Partitions = c.Prefix+"openbmp.bmp_raw", 3
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
		k, err := kafkabus.Connect(c, log)
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		p := New(c.OpenBMP, k, log, prometheus.NewPedanticRegistry())
		publishing, stop := context.WithCancel(t.Context())
		defer stop()
		done := make(chan error, 1)
		go func() { done <- p.Run(publishing) }()

		const routers, each = 5, 2000
		said := tables{}
		var mu sync.Mutex
		handle := p.Tap(func(u *ingest.Update) error {
			mu.Lock()
			defer mu.Unlock()
			said.apply(u)
			return nil
		})
		var wg sync.WaitGroup
		for n := range routers {
			wg.Go(func() {
				u := ingest.Update{Peer: ingest.Peer{Collector: fmt.Sprintf("rrc%02d", n), Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), ASN: 64500 + uint32(n)}}
				for i := range each {
					u.Time = ingest.TimeOf(time.Now())
					u.Announced = append(u.Announced[:0], bgp.NLRI{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i % 7)}), 16)})
					u.Attrs = bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop, NextHop: u.Peer.Addr, ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{u.Peer.ASN, uint32(1 + i)}}}}
					if err := handle(&u); err != nil {
						t.Error(err)
					}
				}
			})
		}
		if err := k.Init(t.Context(), func(string, string) {}); err != nil {
			t.Fatal(err)
		}

		in := openbmp.DefaultConfiguration()
		in.Enabled, in.Brokers, in.Start, in.Topics = true, []string{address}, "earliest", "^"+c.OpenBMP.Topic+"$"
		in.MaxWait, in.RefreshEvery = 50*time.Millisecond, 200*time.Millisecond
		source, err := openbmp.New(in, t.TempDir(), log, prometheus.NewPedanticRegistry())
		if err != nil {
			t.Fatal(err)
		}
		reading, stopReading := context.WithTimeout(t.Context(), patience)
		defer stopReading()
		got, last, count := tables{}, map[ingest.Peer]uint32{}, 0
		source.Run(reading, func(u *ingest.Update) error {
			mu.Lock()
			defer mu.Unlock()
			got.apply(u)
			if len(u.Announced) > 0 {
				asn, _ := u.Attrs.ASPath.Origin()
				if asn <= last[u.Peer] {
					t.Errorf("%v: %d comes after %d", u.Peer, asn, last[u.Peer])
				}
				last[u.Peer] = asn
				if count++; count == routers*each {
					stopReading()
				}
			}
			return nil
		})
		wg.Wait()
		if diff := cmp.Diff(said, got); diff != "" {
			t.Errorf("-said +got\n%s", diff)
		}
		if st := source.Status(); len(st.Malformed) > 0 {
			t.Errorf("malformed: %v", st.Malformed)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := testutil.ToFloat64(p.messages); n != routers*(each+2) {
			t.Errorf("%v messages are counted, want %d", n, routers*(each+2))
		}
		p.Update(&ingest.Update{Peer: ingest.Peer{Addr: netip.MustParseAddr("192.0.2.1")}})
		if n := testutil.ToFloat64(p.lost.WithLabelValues(lostEnd)); n != 1 {
			t.Errorf("%v are counted as lost after the end", n)
		}
	})
}

// BenchmarkUpdate is what publishing costs a feed.
func BenchmarkUpdate(b *testing.B) {
	p := New(kafkabus.OpenBMP{Topic: "x", Name: "test", MaxBytes: 1 << 40}, nil, slog.New(slog.DiscardHandler), nil)
	u := update()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p.Update(&u)
		if i%10000 == 0 {
			p.waiting.reset()
		}
	}
}

func update() ingest.Update {
	peer := ingest.Peer{Collector: "rrc00", Addr: netip.MustParseAddr("192.0.2.1"), ASN: 64500}
	return ingest.Update{Time: 1e15, Peer: peer, Announced: []bgp.NLRI{{Prefix: netip.MustParsePrefix("203.0.113.0/24")}},
		Attrs: bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop | bgp.HasCommunities, NextHop: peer.Addr, Communities: []uint32{1, 2, 3},
			ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{64500, 3356, 64501}}}}}
}
