package api

import (
	"context"
	"encoding"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/rpki/journal"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/store"
)

func TestCursors(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sent := updateCursor{store.Cursor{Position: rapid.Uint64Min(1).Draw(t, "position"), Row: rapid.IntRange(0, math.MaxInt32).Draw(t, "row")}}
		var got updateCursor
		if err := got.UnmarshalText([]byte(sent.String())); err != nil || got != sent {
			t.Fatalf("%v came back as %v, %v", sent, got, err)
		}
		var wrong incidentCursor
		if err := wrong.UnmarshalText([]byte(sent.String())); err == nil {
			t.Fatalf("a cursor of updates passed as one of incidents")
		}
		in := incidentCursor{rapid.Uint64Min(1).Draw(t, "before")}
		var back incidentCursor
		if err := back.UnmarshalText([]byte(in.String())); err != nil || back != in {
			t.Fatalf("%v came back as %v, %v", in, back, err)
		}
	})
}

// FuzzParameters: no text makes a parameter panic, and what a cursor accepts is the very text it
// would write.
func FuzzParameters(f *testing.F) {
	for _, seed := range []string{"", "AS64500", "64500", "192.0.2.0/24", "2001:db8::/32", "::ffff:1.2.3.4/120", "fe80::1%eth0", "2008-02-24T18:47:57Z",
		"9999-12-31T23:59:59-12:00", incidentCursor{1}.String(), incidentCursor{math.MaxUint64}.String(),
		updateCursor{store.Cursor{Position: 7, Row: 3}}.String(), encodeCursor(updateTag, 1, math.MaxUint64), changeCursor{journal.Position{Segment: 1, Index: math.MaxUint64}}.String(), "aYAA", "18446744073709551615"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var (
			a asnParam
			p prefixParam
			i addrParam
			w timeParam
			n sequenceParam
			c incidentCursor
			u updateCursor
			r changeCursor
		)
		accepted := func(v encoding.TextUnmarshaler) bool { return v.UnmarshalText([]byte(text)) == nil }
		if accepted(&a) && a.value == 0 {
			t.Errorf("%q is AS 0", text)
		}
		if accepted(&p) && (!p.value.IsValid() || p.value != p.value.Masked() || p.value.Addr().Zone() != "" || p.value.Addr().Is4In6()) {
			t.Errorf("%q is prefix %s", text, p.value)
		}
		if accepted(&i) && (!i.value.IsValid() || i.value.Zone() != "" || i.value.Is4In6()) {
			t.Errorf("%q is address %s", text, i.value)
		}
		if accepted(&w) && (w.value.Location() != time.UTC || w.value.Year() > 9999) {
			t.Errorf("%q is time %s", text, w.value)
		}
		accepted(&n)
		if accepted(&c) && c.String() != text {
			t.Errorf("%q is cursor %s", text, c)
		}
		if accepted(&r) && (r.String() != text || r.before == (journal.Position{})) {
			t.Errorf("%q is cursor %s", text, r)
		}
		if accepted(&u) && (u.String() != text || u.after.Row < 0) {
			t.Errorf("%q is cursor %s", text, u)
		}
	})
}

// FuzzRequest: whatever the URL, the answer is a page or a problem, never a failure of ours.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{"/api/v1/incidents?asn=AS1&kind=a,b&limit=3", "/api/v1/updates?prefix=10.0.0.0/8&match=covered&cursor=dQcD",
		"/api/v1/prefixes/2001:db8::%2F32", "/api/v1/incidents/%00/events?after=1", "/api/v1/prefixes/..%2f..", "/api/v1/incidents?from=%ff&to=;", "//x",
		"/api/v1/explain?prefix=192.0.2.0/24&as_path=3333+0+{1,2}+AS64500", "/api/v1/explain?prefix=::&as_path={}", "/api/v1/rpki/changes?asn=1&prefix=::/0&limit=1&cursor=cgEBAQ",
		"/api/v1/validate?prefix=192.0.2.0/24&origin=1"} {
		f.Add(seed)
	}
	st := openStore(f)
	if err := st.CommitEvents(f.Context(), []incident.Event{event(1, "inc_a")}, nil); err != nil {
		f.Fatal(err)
	}
	engine := detect.New(detect.DefaultConfiguration(), detect.Knowledge{}, func(incident.Event) {})
	engine.FinishBaseline()
	h := New(DefaultConfiguration(), Dependencies{Store: st, Table: &service{}, Health: func() Health { return Health{Ready: true} },
		RPKIChanges: func(context.Context, journal.Query) ([]journal.Change, journal.Position, error) {
			return nil, journal.Position{}, nil
		},
		RPKI: func(context.Context, time.Time) (*rpki.Set, time.Time, error) { return nil, time.Time{}, nil },
		Explain: func(_ context.Context, p netip.Prefix, path bgp.ASPath) (detect.Explanation, error) {
			return engine.Explain(p, path), nil
		},
		Watches: func(context.Context) ([]detect.WatchState, error) { return engine.Watches(), nil }}).handler()
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.Parse(target)
		if err != nil || u.Path == "/api/v1/stream" {
			t.Skip()
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, &http.Request{Method: "GET", URL: u, Host: "x", Header: http.Header{}, Body: http.NoBody})
		if w.Code >= 500 {
			t.Errorf("%q: %d %s", target, w.Code, w.Body)
		}
	})
}
