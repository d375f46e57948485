package api

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/refresh"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/embedded"
)

var update = flag.Bool("update", false, "write testdata/openapi.json anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service is a running server and what it reads from.
type service struct {
	*Server
	t      *testing.T
	url    string
	client *http.Client
	store  store.Store
	health atomic.Pointer[Health]
	table  map[netip.Prefix]detect.PrefixState
	log    *bytes.Buffer
	stop   func() // and wait
}

func (s *service) Prefix(_ context.Context, p netip.Prefix) (detect.PrefixState, error) {
	state := s.table[p]
	state.Prefix = p
	return state, nil
}

// openStore makes an empty store for one test.
func openStore(t testing.TB) store.Store {
	t.Helper()
	c := embedded.DefaultConfiguration()
	c.Directory = t.TempDir()
	st, err := embedded.Open(c, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

// start runs a server; change and tune may adjust it before.
func start(t *testing.T, change func(*Configuration, *Dependencies), tune ...func(*Server)) *service {
	t.Helper()
	s := &service{t: t, store: openStore(t), log: &bytes.Buffer{}, table: map[netip.Prefix]detect.PrefixState{},
		client: &http.Client{Transport: &http.Transport{}}}
	s.health.Store(&Health{Mode: Live, Ready: true})
	c := DefaultConfiguration()
	c.Listen = "127.0.0.1:0"
	registry := prometheus.NewRegistry()
	d := Dependencies{
		Store: s.store, Table: s, Health: func() Health { return *s.health.Load() }, Version: "v1.2.3",
		Registerer: registry, Gatherer: registry, Logger: slog.New(slog.NewTextHandler(s.log, nil)),
		Web: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "page %s", r.URL.Path) }),
	}
	if change != nil {
		change(&c, &d)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	s.Server = New(c, d)
	for _, f := range tune {
		f(s.Server)
	}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	s.url = "http://" + s.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("the server does not stop")
		}
		s.client.CloseIdleConnections()
	}
	t.Cleanup(s.stop)
	return s
}

// do sends a request and returns the answer with its body read.
func (s *service) do(method, path string, header ...string) (*http.Response, string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp, string(body)
}

// get decodes a 200 answer.
func get200[T any](s *service, path string) T {
	s.t.Helper()
	var v T
	resp, body := s.do("GET", path)
	if resp.StatusCode != http.StatusOK {
		s.t.Fatalf("GET %s: %s: %s", path, resp.Status, body)
	}
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		s.t.Fatalf("GET %s: %v in %s", path, err, body)
	}
	return v
}

var t0 = time.Date(2008, 2, 24, 18, 47, 57, 0, time.UTC)

// event makes the event of sequence n about incident id. Options set what a test is about.
func event(n uint64, id string, options ...func(*incident.Event)) incident.Event {
	at := t0.Add(time.Duration(n) * time.Minute)
	e := incident.Event{Sequence: n, Time: at, Change: incident.Opened, Incident: incident.Incident{
		ID: id, Kind: incident.SubprefixHijack, Status: incident.Open, Severity: incident.High, Confidence: 0.97,
		Title: "AS17557 announces 208.65.153.0/24", StartedAt: at, DetectedAt: at, UpdatedAt: at,
		Offenders: []uint32{17557}, Accomplices: []uint32{3491}, Victims: []uint32{36561},
		Prefixes: []incident.Prefix{{Prefix: netip.MustParsePrefix("208.65.153.0/24")}}, PrefixCount: 1, Sequence: n,
	}}
	for _, o := range options {
		o(&e)
	}
	return e
}

func severity(v incident.Severity) func(*incident.Event) {
	return func(e *incident.Event) { e.Incident.Severity = v }
}
func ended(e *incident.Event) {
	e.Change, e.Incident.Status, e.Incident.EndedAt = incident.Closed, incident.Ended, &e.Time
}

func (s *service) commit(events ...incident.Event) {
	s.t.Helper()
	if err := s.store.CommitEvents(s.t.Context(), events, nil); err != nil {
		s.t.Fatal(err)
	}
}

func ids(p page[incident.Incident]) []string {
	out := []string{}
	for _, i := range p.Items {
		out = append(out, i.ID)
	}
	return out
}

func TestIncidents(t *testing.T) {
	s := start(t, nil)
	leak := func(e *incident.Event) {
		e.Incident.Kind, e.Incident.Offenders, e.Incident.Accomplices, e.Incident.Victims = incident.RouteLeak, []uint32{396531}, nil, []uint32{13335}
		e.Incident.Prefixes = []incident.Prefix{{Prefix: netip.MustParsePrefix("2001:db8::/32")}}
	}
	s.commit(event(1, "inc_a"), event(2, "inc_b", leak, severity(incident.Critical)), event(3, "inc_c", ended), event(4, "inc_a", severity(incident.Low)))

	for _, tt := range []struct {
		query string
		want  []string
	}{
		{"", []string{"inc_a", "inc_c", "inc_b"}},
		{"?status=open", []string{"inc_a", "inc_b"}},
		{"?status=ended", []string{"inc_c"}},
		{"?kind=route_leak", []string{"inc_b"}},
		{"?kind=route_leak,squatting", []string{"inc_b"}},
		{"?kind=route_leak&kind=subprefix_hijack", []string{"inc_a", "inc_c", "inc_b"}},
		{"?min_severity=high", []string{"inc_c", "inc_b"}},
		{"?asn=36561", []string{"inc_a", "inc_c"}},
		{"?asn=AS13335", []string{"inc_b"}},
		{"?asn=as13335", []string{"inc_b"}},
		{"?prefix=208.65.152.0/22", []string{"inc_a", "inc_c"}},
		{"?prefix=208.65.153.9", []string{"inc_a", "inc_c"}},
		{"?prefix=2001:db8:1::%2F48", []string{"inc_b"}},
		{"?from=2008-02-24T18:51:00Z", []string{"inc_a", "inc_b"}},
		{"?to=2008-02-24T18:50:00Z", []string{"inc_b"}},
		{"?limit=1", []string{"inc_a"}},
	} {
		t.Run(tt.query, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, ids(get200[page[incident.Incident]](s, "/api/v1/incidents"+tt.query))); diff != "" {
				t.Error(diff)
			}
		})
	}

	t.Run("one", func(t *testing.T) {
		got := get200[incident.Incident](s, "/api/v1/incidents/inc_a")
		if got.Severity != incident.Low || got.Sequence != 4 {
			t.Errorf("got %s at %d, want its last state", got.Severity, got.Sequence)
		}
	})
	t.Run("events", func(t *testing.T) {
		first := get200[page[incident.Event]](s, "/api/v1/incidents/inc_a/events?limit=1")
		if len(first.Items) != 1 || first.Items[0].Sequence != 1 || first.Next != "1" {
			t.Fatalf("first page: %+v", first)
		}
		second := get200[page[incident.Event]](s, "/api/v1/incidents/inc_a/events?after="+first.Next)
		if len(second.Items) != 1 || second.Items[0].Sequence != 4 || second.Next != "" {
			t.Errorf("second page: %+v", second)
		}
	})
	t.Run("deliveries", func(t *testing.T) {
		d := store.Delivery{Key: "k", IncidentID: "inc_b", Sequence: 2, Receiver: "noc", Body: []byte("kept to itself"), State: store.Delivered, Receipt: "200 OK"}
		if err := s.store.CommitEvents(t.Context(), nil, []store.Delivery{d}); err != nil {
			t.Fatal(err)
		}
		got := get200[page[store.Delivery]](s, "/api/v1/incidents/inc_b/deliveries")
		if len(got.Items) != 1 || got.Items[0].Receipt != "200 OK" || got.Items[0].Body != nil {
			t.Errorf("got %+v", got)
		}
		if empty := get200[map[string]any](s, "/api/v1/incidents/inc_a/deliveries"); cmp.Diff(map[string]any{"items": []any{}}, empty) != "" {
			t.Errorf("without deliveries: %v", empty)
		}
	})
}

// TestPaging pages while incidents change: those that do not change are each seen once.
func TestPaging(t *testing.T) {
	s := start(t, nil)
	for n := range uint64(25) {
		s.commit(event(n+1, fmt.Sprintf("inc_%02d", n)))
	}
	seen := map[string]int{}
	cursor, pages := "", 0
	for {
		p := get200[page[incident.Incident]](s, "/api/v1/incidents?limit=10"+cursor)
		for _, id := range ids(p) {
			seen[id]++
		}
		pages++
		if p.Next == "" {
			break
		}
		cursor = "&cursor=" + p.Next
		s.commit(event(uint64(100+pages), "inc_24")) // already seen: moves to the front
	}
	if pages != 3 || len(seen) != 25 {
		t.Errorf("%d incidents on %d pages, want 25 on 3", len(seen), pages)
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s was seen %d times", id, n)
		}
	}
}

func TestPrefix(t *testing.T) {
	s := start(t, nil)
	block, part := netip.MustParsePrefix("208.65.152.0/22"), netip.MustParsePrefix("208.65.153.0/24")
	host := netip.MustParsePrefix("208.65.152.1/32")
	s.table[part] = detect.PrefixState{Covering: []netip.Prefix{block}, Origins: []detect.OriginState{{ASN: 17557, RPKI: "not_found"}}, FullFeedPeers: 120}
	s.table[block] = detect.PrefixState{Origins: []detect.OriginState{{ASN: 36561}}}
	s.table[host] = detect.PrefixState{Covering: []netip.Prefix{block}}
	s.commit(event(1, "inc_a"))

	for _, tt := range []struct {
		name, path string
		prefix     netip.Prefix
		origins    []uint32
	}{
		{"prefix", "208.65.153.0/24", part, []uint32{17557}},
		{"escaped slash", "208.65.153.0%2F24", part, []uint32{17557}},
		{"address in an announced prefix", "208.65.152.1", block, []uint32{36561}},
		{"host prefix is meant as written", "208.65.152.1/32", host, nil},
		{"address that nothing contains", "192.0.2.1", netip.MustParsePrefix("192.0.2.1/32"), nil},
		{"IPv6", "2001:db8::/32", netip.MustParsePrefix("2001:db8::/32"), nil},
		{"IPv6 default", "::/0", netip.MustParsePrefix("::/0"), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := get200[PrefixAnswer](s, "/api/v1/prefixes/"+tt.path)
			var origins []uint32
			for _, o := range got.Origins {
				origins = append(origins, o.ASN)
			}
			if got.Prefix != tt.prefix || !slices.Equal(origins, tt.origins) {
				t.Errorf("got %s by %v, want %s by %v", got.Prefix, origins, tt.prefix, tt.origins)
			}
			if got.Covering == nil || got.Origins == nil || got.Incidents == nil {
				t.Error("an empty list is null")
			}
			if touched := part.Overlaps(tt.prefix); touched != (len(got.Incidents) == 1) {
				t.Errorf("%d incidents", len(got.Incidents))
			}
		})
	}
}

func TestUpdates(t *testing.T) {
	s := start(t, nil)
	// Three batches of two, two and three routes, by two origins in turn.
	origin := uint32(0)
	for _, n := range []int{2, 2, 3} {
		var b ingest.Batch
		for range n {
			b.Updates = append(b.Updates, ingest.Update{Time: ingest.TimeOf(t0), Peer: ingest.Peer{Collector: "rrc00", Addr: netip.MustParseAddr("192.0.2.1"), ASN: 3333},
				Announced: []bgp.NLRI{{Prefix: netip.MustParsePrefix("192.0.2.0/24")}},
				Attrs:     bgp.Attributes{Has: bgp.HasASPath, ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{3333, 64500 + origin%2}}}}})
			origin++
		}
		if _, err := s.store.AppendBatch(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
	}
	var got []uint32
	next := ""
	for pages := 0; pages == 0 || next != ""; pages++ {
		path := "/api/v1/updates?limit=3"
		if next != "" {
			path += "&cursor=" + next
		}
		p := get200[page[store.Route]](s, path)
		for _, r := range p.Items {
			got = append(got, r.OriginASN)
		}
		next = p.Next
	}
	if want := []uint32{64500, 64501, 64500, 64501, 64500, 64501, 64500}; !slices.Equal(got, want) {
		t.Errorf("got %v, want each row once and in order", got)
	}
	if p := get200[page[store.Route]](s, "/api/v1/updates?as_on_path=AS3333"); len(p.Items) != 7 {
		t.Errorf("with AS3333 on the path: %d rows, want 7", len(p.Items))
	}
	if p := get200[page[store.Route]](s, "/api/v1/updates?as_on_path=333"); len(p.Items) != 0 {
		t.Errorf("with AS333 on the path: %d rows, want none", len(p.Items))
	}
	if p := get200[page[store.Route]](s, "/api/v1/updates?origin=AS64501&prefix=192.0.2.0/24&match=exact&type=announce&peer_ip=192.0.2.1&peer_asn=3333&collector=rrc00&to=2030-01-01T00:00:00Z"); len(p.Items) != 3 {
		t.Errorf("filtered: %d rows, want 3", len(p.Items))
	}
}

// The routes of a past moment, with what is known of it.
func TestState(t *testing.T) {
	s := start(t, nil)
	began := time.Date(2024, 6, 27, 18, 0, 0, 0, time.UTC)
	prefix := netip.MustParsePrefix("192.0.2.0/24")
	said := func(second int, peer byte, kind ingest.Kind, origin uint32) ingest.Update {
		u := ingest.Update{Time: ingest.TimeOf(began.Add(time.Duration(second) * time.Second)), Kind: kind,
			Peer: ingest.Peer{Collector: "rrc00", ASN: 3333, Addr: netip.AddrFrom4([4]byte{192, 0, 2, peer})}}
		if kind == ingest.Routes && origin == 0 {
			u.Withdrawn = []bgp.NLRI{{Prefix: prefix}}
		} else if kind == ingest.Routes {
			u.Announced = []bgp.NLRI{{Prefix: prefix}}
			u.Attrs = bgp.Attributes{Has: bgp.HasASPath, ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{3333, origin}}}}
		}
		return u
	}
	b := ingest.Batch{Updates: []ingest.Update{said(0, 1, ingest.Routes, 64500), said(1, 2, ingest.Routes, 64501), said(2, 1, ingest.Routes, 64502),
		said(3, 2, ingest.PeerDown, 0), said(4, 1, ingest.Routes, 0)}}
	if _, err := s.store.AppendBatch(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	for second, want := range [][]uint32{{64500}, {64500, 64501}, {64502, 64501}, {64502}, {}} {
		a := get200[StateAnswer](s, fmt.Sprintf("/api/v1/state?prefix=192.0.2.1&match=covering&at=2024-06-27T18:00:%02dZ", second))
		got := []uint32{}
		for _, r := range a.Routes {
			got = append(got, r.OriginASN)
		}
		if !slices.Equal(got, want) || a.Total != len(want) || !a.Since.Equal(began) || !a.Whole {
			t.Errorf("second %d: origins %v of %d, since %s, whole %t; want %v, all since %s", second, got, a.Total, a.Since, a.Whole, want, began)
		}
	}
	if a := get200[StateAnswer](s, "/api/v1/state?prefix=0.0.0.0/0&match=covered&at=2024-06-27T18:00:01Z&limit=1"); len(a.Routes) != 1 || a.Total != 2 {
		t.Errorf("%d of %d routes, want 1 of 2", len(a.Routes), a.Total)
	}
	if a := get200[StateAnswer](s, "/api/v1/state?prefix=0.0.0.0/0&match=covered&at=2024-06-27T18:00:01Z&peer_ip=192.0.2.2&peer_asn=3333&collector=rrc00"); len(a.Routes) != 1 {
		t.Errorf("%d routes of one peer, want 1", len(a.Routes))
	}
}

func TestStatus(t *testing.T) {
	s := start(t, func(_ *Configuration, d *Dependencies) {
		d.Feeds = func() []ingest.Status { return []ingest.Status{{Name: "ris", State: ingest.Connecting}} }
		d.Samples = func(feed string) ([]ingest.Sample, bool) {
			return []ingest.Sample{{Reason: "json", Octets: []byte("rubbish")}}, feed == "ris"
		}
		d.Sources = func() []refresh.Status { return []refresh.Status{{Name: "vrps", State: refresh.Stale, Entries: 7}} }
	})
	s.health.Store(&Health{Mode: Demo, Reasons: []string{"cannot reach ris-live.ripe.net"}, EventTime: t0})
	s.commit(event(1, "inc_a"), event(2, "inc_b", severity(incident.Low)), event(3, "inc_c", ended))
	wait(t, "the counts", func() bool { return s.tail.position() == 3 })

	got := get200[map[string]any](s, "/api/v1/status")
	delete(got, "started_at")
	if stored, ok := got["store"].(map[string]any); !ok || stored["last_sequence"] != 3.0 || stored["incidents"] != 3.0 {
		t.Errorf("store: %v", got["store"])
	}
	delete(got, "store")
	want := map[string]any{"version": "v1.2.3", "mode": "demo", "ready": false, "reasons": []any{"cannot reach ris-live.ripe.net"},
		"event_time": "2008-02-24T18:47:57Z",
		"counts":     map[string]any{"open_incidents": 2.0, "by_severity": map[string]any{"info": 0.0, "low": 1.0, "medium": 0.0, "high": 1.0, "critical": 0.0}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if feeds := get200[page[ingest.Status]](s, "/api/v1/feeds"); len(feeds.Items) != 1 || feeds.Items[0].Name != "ris" {
		t.Errorf("feeds: %+v", feeds)
	}
	if samples := get200[page[ingest.Sample]](s, "/api/v1/feeds/ris/malformed"); len(samples.Items) != 1 || string(samples.Items[0].Octets) != "rubbish" {
		t.Errorf("samples: %+v", samples)
	}
	if sources := get200[page[refresh.Status]](s, "/api/v1/sources"); len(sources.Items) != 1 || sources.Items[0] != (refresh.Status{Name: "vrps", State: refresh.Stale, Entries: 7}) {
		t.Errorf("sources: %+v", sources)
	}
	if resp, body := s.do("GET", "/readyz"); resp.StatusCode != 503 || !strings.Contains(body, "cannot reach") {
		t.Errorf("/readyz while not ready: %s %s", resp.Status, body)
	}
	s.health.Store(&Health{Ready: true})
	if resp, _ := s.do("GET", "/readyz"); resp.StatusCode != 200 {
		t.Errorf("/readyz when ready: %s", resp.Status)
	}
	if resp, _ := s.do("GET", "/healthz"); resp.StatusCode != 200 {
		t.Errorf("/healthz: %s", resp.Status)
	}
	if _, body := s.do("GET", "/metrics"); !strings.Contains(body, `routevigil_api_requests_total{method="GET",route="/readyz",status="503"} 1`) {
		t.Errorf("/metrics lacks the request above:\n%s", body)
	}
}

// TestOpenIncidentsAtStart: the counts include what the store held before.
func TestOpenIncidentsAtStart(t *testing.T) {
	s := start(t, func(_ *Configuration, d *Dependencies) {
		var events []incident.Event
		for n := range uint64(loadPageSize + 3) {
			events = append(events, event(n+1, fmt.Sprint("inc_", n)))
		}
		if err := d.Store.CommitEvents(t.Context(), events, nil); err != nil {
			t.Fatal(err)
		}
	})
	wait(t, "the load", func() bool { return s.tail.position() == loadPageSize+3 })
	if c := s.tail.counts(); c.OpenIncidents != loadPageSize+3 {
		t.Errorf("%d open, want %d", c.OpenIncidents, loadPageSize+3)
	}
}

func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestProblems(t *testing.T) {
	s := start(t, nil)
	s.commit(event(1, "inc_a"))
	for _, tt := range []struct {
		name, method, path string
		status             int
		say                []string // what the detail must contain: the place, the fault, the remedy
	}{
		{"rubbish AS number", "GET", "/api/v1/incidents?asn=google", 400, []string{"query.asn", `"google"`, "AS64500"}},
		{"AS 0", "GET", "/api/v1/incidents?asn=0", 400, []string{"query.asn", "from 1"}},
		{"AS number too large", "GET", "/api/v1/incidents?asn=4294967296", 400, []string{"4294967295"}},
		{"signed AS number", "GET", "/api/v1/incidents?asn=%2B5", 400, []string{"query.asn"}},
		{"host bits", "GET", "/api/v1/incidents?prefix=208.65.153.7/24", 400, []string{"query.prefix", "208.65.153.0/24"}},
		{"rubbish prefix", "GET", "/api/v1/incidents?prefix=youtube", 400, []string{"query.prefix", "192.0.2.0/24"}},
		{"zone", "GET", "/api/v1/incidents?prefix=fe80::1%25eth0", 400, []string{"query.prefix"}},
		{"rubbish time", "GET", "/api/v1/incidents?from=yesterday", 400, []string{"query.from", "RFC 3339"}},
		{"times the wrong way round", "GET", "/api/v1/incidents?from=2020-01-02T00:00:00Z&to=2020-01-01T00:00:00Z", 400, []string{"query.to", "later than from"}},
		{"unknown status", "GET", "/api/v1/incidents?status=closed", 400, []string{"query.status", "open", "ended"}},
		{"unknown kind", "GET", "/api/v1/incidents?kind=hijack", 400, []string{"query.kind", "origin_hijack"}},
		{"unknown severity", "GET", "/api/v1/incidents?min_severity=urgent", 400, []string{"query.min_severity", "critical"}},
		{"limit too large", "GET", "/api/v1/incidents?limit=501", 400, []string{"query.limit", "500"}},
		{"limit too small", "GET", "/api/v1/incidents?limit=0", 400, []string{"query.limit", "1"}},
		{"limit not a number", "GET", "/api/v1/incidents?limit=all", 400, []string{"query.limit", "integer"}},
		{"rubbish cursor", "GET", "/api/v1/incidents?cursor=2", 400, []string{"query.cursor", "next"}},
		{"another list's cursor", "GET", "/api/v1/incidents?cursor=" + updateCursor{store.Cursor{Position: 1}}.String(), 400, []string{"query.cursor"}},
		{"unknown parameter", "GET", "/api/v1/incidents?severity=high", 400, []string{"query.severity", "min_severity"}},
		{"parameter where none is", "GET", "/api/v1/feeds?x=1", 400, []string{"query.x", "takes none"}},
		{"repeated parameter", "GET", "/api/v1/incidents?asn=1&asn=2", 400, []string{"query.asn", "once"}},
		{"broken query", "GET", "/api/v1/incidents?asn=%zz", 400, []string{"%zz"}},
		{"two faults", "GET", "/api/v1/incidents?asn=x&limit=x", 400, []string{"query.asn", "query.limit"}},
		{"match without prefix", "GET", "/api/v1/updates?match=covered", 400, []string{"query.match", "prefix"}},
		{"activity of no time", "GET", "/api/v1/activity?from=2024-06-27T18:00:00Z", 400, []string{"query.to"}},
		{"activity in too many buckets", "GET", "/api/v1/activity?from=2024-06-01T00:00:00Z&to=2024-06-30T00:00:00Z&bucket=1m", 400, []string{"query.bucket", "41760", "1000"}},
		{"activity of ages", "GET", "/api/v1/activity?from=1970-01-01T00:00:00Z&to=9999-06-30T00:00:00Z&bucket=1s", 400, []string{"query.bucket"}},
		{"activity in rubbish", "GET", "/api/v1/activity?from=2024-06-01T00:00:00Z&to=2024-06-30T00:00:00Z&bucket=hour", 400, []string{"query.bucket", "5m"}},
		{"activity by a match without prefix", "GET", "/api/v1/activity?from=2024-06-01T00:00:00Z&to=2024-06-02T00:00:00Z&match=covered", 400, []string{"query.match"}},
		{"a past moment of no prefix", "GET", "/api/v1/state?at=2024-06-27T18:00:00Z", 400, []string{"query.prefix"}},
		{"a prefix of no moment", "GET", "/api/v1/state?prefix=192.0.2.0/24", 400, []string{"query.at"}},
		{"a moment of which nothing is kept", "GET", "/api/v1/state?prefix=192.0.2.0/24&at=1999-06-27T18:00:00Z", 404, []string{"1999-06-27", "/api/v1/status"}},
		{"rubbish peer", "GET", "/api/v1/updates?peer_ip=rrc00", 400, []string{"query.peer_ip", "192.0.2.1"}},
		{"rubbish prefix in the path", "GET", "/api/v1/prefixes/208.65.153.0/33", 400, []string{"path.prefix"}},
		{"no prefix in the path", "GET", "/api/v1/prefixes/", 400, []string{"path.prefix"}},
		{"rubbish position in the stream", "GET", "/api/v1/stream?after=-1", 400, []string{"query.after", "sequence"}},
		{"no such incident", "GET", "/api/v1/incidents/inc_x", 404, []string{"inc_x", "/api/v1/incidents"}},
		{"events of no such incident", "GET", "/api/v1/incidents/inc_x/events", 404, []string{"inc_x"}},
		{"deliveries of no such incident", "GET", "/api/v1/incidents/inc_x/deliveries", 404, []string{"inc_x"}},
		{"malformed messages of no such feed", "GET", "/api/v1/feeds/x/malformed", 404, []string{`"x"`, "/api/v1/feeds"}},
		{"no such resource", "GET", "/api/v1/hijacks", 404, []string{"/api/v1/hijacks", "/api/openapi.json"}},
		{"no such resource to post to", "POST", "/api/v1/hijacks", 404, []string{"/api/v1/hijacks"}},
		{"wrong method", "POST", "/api/v1/incidents", 405, []string{"POST", "GET"}},
		{"wrong method on one", "DELETE", "/api/v1/incidents/inc_a", 405, []string{"DELETE"}},
		{"wrong method on a prefix", "PUT", "/api/v1/prefixes/192.0.2.0/24", 405, []string{"PUT"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, body := s.do(tt.method, tt.path)
			var p Problem
			if err := json.Unmarshal([]byte(body), &p); err != nil {
				t.Fatalf("%v in %q", err, body)
			}
			if resp.StatusCode != tt.status || p.Status != tt.status || p.Title != http.StatusText(tt.status) {
				t.Errorf("status %d, in the body %d %q, want %d", resp.StatusCode, p.Status, p.Title, tt.status)
			}
			if ct := resp.Header.Get("Content-Type"); ct != "application/problem+json" {
				t.Errorf("content type %q", ct)
			}
			if tt.status == 405 && resp.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("Allow: %q", resp.Header.Get("Allow"))
			}
			for _, word := range tt.say {
				if !strings.Contains(p.Detail, word) {
					t.Errorf("the detail does not mention %s: %s", word, p.Detail)
				}
			}
		})
	}
}

// failing is a store whose reads fail, or never end.
type failing struct {
	store.Store
	err error // nil: wait for the deadline
}

func (f failing) Incident(ctx context.Context, _ string) (incident.Incident, error) {
	if f.err == nil {
		<-ctx.Done()
		return incident.Incident{}, fmt.Errorf("select: %w", ctx.Err())
	}
	return incident.Incident{}, f.err
}

func TestStoreFails(t *testing.T) {
	t.Run("with an error", func(t *testing.T) {
		s := start(t, func(_ *Configuration, d *Dependencies) {
			d.Store = failing{d.Store, errors.New("open /var/lib/secret.db: disk on fire")}
		})
		resp, body := s.do("GET", "/api/v1/incidents/inc_a")
		if resp.StatusCode != 500 || strings.Contains(body, "secret.db") {
			t.Errorf("%s %s; the client must not see the cause", resp.Status, body)
		}
		s.stop()
		if !strings.Contains(s.log.String(), "disk on fire") {
			t.Errorf("the log does not say why: %s", s.log)
		}
	})
	t.Run("by taking too long", func(t *testing.T) {
		s := start(t, func(c *Configuration, d *Dependencies) {
			c.QueryTimeout = 20 * time.Millisecond
			d.Store = failing{d.Store, nil}
		})
		resp, body := s.do("GET", "/api/v1/incidents/inc_a")
		if resp.StatusCode != 503 || !strings.Contains(body, "narrow it") {
			t.Errorf("%s %s", resp.Status, body)
		}
	})
	t.Run("by panicking", func(t *testing.T) {
		s := start(t, func(_ *Configuration, d *Dependencies) { d.Store = panicking{d.Store} })
		resp, body := s.do("GET", "/api/v1/incidents/inc_a")
		if resp.StatusCode != 500 || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s", resp.Status, body)
		}
		if _, body := s.do("GET", "/metrics"); !strings.Contains(body, `route="/api/v1/incidents/{id}",status="500"} 1`) {
			t.Error("the metrics do not count it as a 500")
		}
		s.stop()
		if !strings.Contains(s.log.String(), "out of range") {
			t.Errorf("the log does not say why: %s", s.log)
		}
	})
}

// endless is a store whose history can be searched for ever.
type endless struct {
	store.Store
	searches *atomic.Int32
}

func (e endless) Updates(ctx context.Context, _ store.UpdateQuery) iter.Seq2[store.Route, error] {
	return func(yield func(store.Route, error) bool) {
		e.searches.Add(1)
		<-ctx.Done()
		yield(store.Route{}, ctx.Err())
	}
}

func TestSearchesAreBounded(t *testing.T) {
	var searches atomic.Int32
	s := start(t, func(c *Configuration, d *Dependencies) {
		c.QueryTimeout = time.Second
		d.Store = endless{d.Store, &searches}
	})
	answers := make(chan string)
	for range maxSearches + 2 {
		go func() {
			resp, err := s.client.Get(s.url + "/api/v1/updates")
			if err != nil {
				answers <- err.Error()
				return
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			answers <- fmt.Sprint(resp.StatusCode, string(body))
		}()
	}
	var long, busy int
	for range maxSearches + 2 {
		a := <-answers
		if strings.HasPrefix(a, "503") && strings.Contains(a, "narrow it") {
			long++
		}
		if strings.HasPrefix(a, "503") && strings.Contains(a, "are under way") {
			busy++
		}
	}
	// Those that waited may get their turn in the very moment in which their own time ends.
	if long < maxSearches || long+busy != maxSearches+2 || searches.Load() < maxSearches {
		t.Errorf("%d took too long, %d had to wait, %d began; want %d, 2, %d", long, busy, searches.Load(), maxSearches, maxSearches)
	}
}

type panicking struct{ store.Store }

func (panicking) Incident(context.Context, string) (incident.Incident, error) {
	panic("index out of range")
}

func TestHeaders(t *testing.T) {
	s := start(t, func(c *Configuration, _ *Dependencies) {
		c.FrameAncestors = []string{"https://*.example.net"}
		c.CORSOrigins = []string{"https://noc.example.net"}
	})
	for _, tt := range []struct{ name, path, policy, frame string }{
		{"embed", "/embed/incidents", "frame-ancestors https://*.example.net", ""},
		{"page", "/", "frame-ancestors 'none'", "DENY"},
		{"API", "/api/v1/incidents", "frame-ancestors 'none'", "DENY"},
	} {
		resp, _ := s.do("GET", tt.path)
		if p := resp.Header.Get("Content-Security-Policy"); !strings.HasSuffix(p, tt.policy) {
			t.Errorf("%s: policy %q", tt.name, p)
		}
		if f := resp.Header.Get("X-Frame-Options"); f != tt.frame {
			t.Errorf("%s: X-Frame-Options %q, want %q", tt.name, f, tt.frame)
		}
	}
	for _, tt := range []struct{ name, method, origin, path, want string }{
		{"allowed origin", "GET", "https://noc.example.net", "/api/v1/incidents", "https://noc.example.net"},
		{"preflight", "OPTIONS", "https://noc.example.net", "/api/v1/stream", "https://noc.example.net"},
		{"other origin", "GET", "https://evil.example", "/api/v1/incidents", ""},
		{"preflight of another", "OPTIONS", "https://evil.example", "/api/v1/stream", ""},
		{"not the API", "GET", "https://noc.example.net", "/", ""},
	} {
		resp, _ := s.do(tt.method, tt.path, "Origin", tt.origin, "Access-Control-Request-Method", "GET")
		if got := resp.Header.Get("Access-Control-Allow-Origin"); got != tt.want {
			t.Errorf("%s: allowed %q, want %q", tt.name, got, tt.want)
		}
	}
	if _, body := s.do("GET", "/anything/else"); body != "page /anything/else" {
		t.Errorf("the dashboard does not get its path: %s", body)
	}
}

func TestCompression(t *testing.T) {
	s := start(t, nil)
	for n := range uint64(50) {
		s.commit(event(n+1, fmt.Sprint("inc_", n)))
	}
	resp, body := s.do("GET", "/api/v1/incidents", "Accept-Encoding", "gzip")
	if resp.Header.Get("Content-Encoding") != "gzip" {
		t.Fatalf("a list of %d bytes is not compressed", len(body))
	}
	z, err := gzip.NewReader(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	var p page[incident.Incident]
	if err := json.NewDecoder(z).Decode(&p); err != nil || len(p.Items) != 50 {
		t.Errorf("%d items, %v", len(p.Items), err)
	}
}

func TestOpenAPI(t *testing.T) {
	s := start(t, nil)
	_, got := s.do("GET", "/api/openapi.json")
	const golden = "testdata/openapi.json"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("the document changed; if that is meant, run go test ./api -update, and say so in the CHANGELOG:\n%s", diff)
	}
	var document struct {
		OpenAPI string `json:"openapi"`
		Paths   map[string]map[string]any
	}
	if err := json.Unmarshal([]byte(got), &document); err != nil {
		t.Fatal(err)
	}
	if document.OpenAPI != "3.1.0" {
		t.Errorf("OpenAPI %s, want 3.1.0", document.OpenAPI)
	}
	for _, route := range s.routes {
		if document.Paths[route]["get"] == nil {
			t.Errorf("%s is served but not in the document", route)
		}
	}
	if len(s.routes) != len(document.Paths) {
		t.Errorf("%d routes are served, %d are in the document", len(s.routes), len(document.Paths))
	}
}

func TestListen(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	c := DefaultConfiguration()
	c.Listen = taken.Addr().String()
	err = New(c, Dependencies{Store: openStore(t)}).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "already uses "+c.Listen) || !strings.Contains(err.Error(), "another port") {
		t.Errorf("a taken port: %v", err)
	}
}

func TestConfiguration(t *testing.T) {
	if err := DefaultConfiguration().Validate(); err != nil {
		t.Errorf("the default: %v", err)
	}
	for _, tt := range []struct {
		name   string
		change func(*Configuration)
		want   string
	}{
		{"no port", func(c *Configuration) { c.Listen = "localhost" }, "listen: "},
		{"port too large", func(c *Configuration) { c.Listen = "localhost:70000" }, "listen: "},
		{"origin with a path", func(c *Configuration) { c.CORSOrigins = []string{"*", "https://a.example/x"} }, "cors_origins[1]: "},
		{"a second policy", func(c *Configuration) { c.FrameAncestors = []string{"https://a.example; script-src *"} }, "frame_ancestors[0]: "},
		{"bare host", func(c *Configuration) { c.FrameAncestors = []string{"a.example"} }, "frame_ancestors[0]: "},
		{"no streams", func(c *Configuration) { c.MaxStreams = 0 }, "max_streams: "},
		{"no time", func(c *Configuration) { c.QueryTimeout = 0 }, "query_timeout: "},
		{"no grace", func(c *Configuration) { c.ShutdownTimeout = -1 }, "shutdown_timeout: "},
	} {
		c := DefaultConfiguration()
		tt.change(&c)
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s…", tt.name, err, tt.want)
		}
	}
}
