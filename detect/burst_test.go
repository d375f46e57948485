package detect

import (
	"bytes"
	"encoding/gob"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
)

// TestBursts counts what each burst's scenario announces: all of it is one incident.
func TestBursts(t *testing.T) {
	for name, want := range map[string]struct {
		kind                incident.Kind
		prefixes, incidents int
		victims             int
		severity            incident.Severity
	}{
		"internal-specifics-leak.":         {incident.InternalSpecifics, 40, 1, 0, incident.Low},
		"internal-specifics-leak-long.":    {incident.InternalSpecifics, 32, 1, 0, incident.Info}, // the ROA makes it doubtful
		"internal-specifics-leak-invalid.": {incident.InternalSpecifics, 30, 1, 0, incident.Low},
		"reorigination-leak.":              {incident.ReoriginationLeak, 24, 2, 8, incident.Critical},
	} {
		t.Run(name, func(t *testing.T) {
			for _, shards := range []int{1, 2, 8} {
				c := scenarioConfiguration()
				c.Shards = shards
				o := play(scenarioNamed(t, name), c)
				if len(o.incidents) != want.incidents {
					t.Errorf("%d shards: %d incidents, want %d", shards, len(o.incidents), want.incidents)
				}
				most, victims := 0, 0
				var last incident.Incident
				for _, ev := range o.events {
					if ev.Incident.Kind == want.kind {
						last = ev.Incident
						most, victims = max(most, last.PrefixCount), max(victims, len(last.Victims))
					}
				}
				if most != want.prefixes || victims != want.victims || last.PeakSeverity != want.severity {
					t.Errorf("%d shards: %d prefixes, %d victims, %s; want %d, %d, %s", shards, most, victims, last.PeakSeverity,
						want.prefixes, want.victims, want.severity)
				}
				if last.Confidence < raiseAt {
					t.Errorf("%d shards: confidence %.2f", shards, last.Confidence)
				}
				if begin := scenarioNamed(t, name).Start.Add(time.Minute); want.incidents == 1 && !last.StartedAt.Equal(begin) {
					t.Errorf("%d shards: started at %v, but its first route came at %v", shards, last.StartedAt, begin)
				}
			}
		})
	}
}

// TestHijackEndsAsPartOfMore wants the re-origination told first, and the hijack to end with a word of it.
func TestHijackEndsAsPartOfMore(t *testing.T) {
	var id string
	closed := 0
	for _, ev := range play(scenarioNamed(t, "reorigination-leak."), scenarioConfiguration()).events {
		switch {
		case ev.Incident.Kind == incident.ReoriginationLeak && ev.Change == incident.Opened:
			id = ev.Incident.ID
		case ev.Incident.Kind == incident.OriginHijack && ev.Change == incident.Closed:
			closed++
			if id == "" || !strings.Contains(ev.Incident.Explanation, id) {
				t.Errorf("the hijack ends without a word of %q: %s", id, ev.Incident.Explanation)
			}
		}
	}
	if closed != 1 {
		t.Errorf("the hijack ended %d times", closed)
	}
}

// TestGatherKeepsTheOrder takes the removal of one hijack and the addition of another of the same prefix, whose keys
// sort the other way round: both belong to the re-origination, which must keep the prefix.
func TestGatherKeepsTheOrder(t *testing.T) {
	c := newCorrelator(DefaultConfiguration(), newPeerSet(), nil, nil)
	k := caseKey{incident.ReoriginationLeak, 7007, 0}
	p := prefixOf(1)
	ic := &incidentCase{findingSet: newFindingSet(), key: k, state: open}
	ic.add(&finding{prefix: p, asns: 3, verdict: &verdict{}}, 3)
	c.cases[k] = ic
	now := &finding{prefix: p, asns: 3, verdict: &verdict{}}
	for _, ch := range c.gather([]findingChange{
		{caseKey{incident.SubprefixHijack, 7007, 3}, p, 0, nil},
		{caseKey{incident.OriginHijack, 7007, 2}, p, 0, now},
	}, 3, 0) {
		if ch.key != k {
			t.Errorf("a change went to %+v", ch.key)
		}
		ic.replace(ch, 3)
	}
	if ic.findings[p] != now || ic.confirmed != 1 {
		t.Errorf("the prefix was lost: %+v", ic.findings)
	}
}

// TestBurstIsAsCertainAsItsBest has one part that is beyond doubt and one with much against it.
func TestBurstIsAsCertainAsItsBest(t *testing.T) {
	sure, doubted := newLedger(), newLedger()
	sure.add("burst.specifics", 4, "", "", "")
	doubted.add("burst.specifics", 5, "", "", "")
	doubted.add("irr.registered", -3, "", "", "")
	ps := []netip.Prefix{prefixOf(1), prefixOf(2)}
	ic := &incidentCase{findingSet: newFindingSet(), key: caseKey{incident.InternalSpecifics, 2, 0}}
	ic.add(&finding{prefix: ps[0], verdict: &verdict{ledger: doubted}}, 3)
	ic.add(&finding{prefix: ps[1], verdict: &verdict{ledger: sure}}, 3)
	if got := mergeLedgers(ic).confidence(); got != sure.confidence() {
		t.Errorf("confidence %.3f, want that of the part beyond doubt, %.3f", got, sure.confidence())
	}
}

// TestSpecificsStayFew floods the memory with the parts of blocks, slowly and by many.
func TestSpecificsStayFew(t *testing.T) {
	s := newSpecifics()
	now := ingest.TimeOf(start)
	for i := range 100_000 {
		now = now.Add(burstWindow / (burstSpecifics - 1))
		s.note([]ownSpecific{{uint32(1 + i%3), prefixOf(i), now}}, now)
	}
	n := 0
	for _, r := range s.recent {
		n += len(r)
	}
	if len(s.bursts) != 0 || n == 0 || n >= 3*burstSpecifics {
		t.Errorf("%d are kept of three ASes, %d bursts", n, len(s.bursts))
	}
	s.prune(now.Add(2 * burstWindow))
	if len(s.recent) != 0 {
		t.Errorf("%d ASes are kept of what is long past", len(s.recent))
	}
}

// TestSpecificsAnyOrder hands over the same specifics in either order, as shards may.
func TestSpecificsAnyOrder(t *testing.T) {
	now := ingest.TimeOf(start)
	var forth, back []ownSpecific
	for i := range burstSpecifics {
		f := ownSpecific{2, prefixOf(i), now.Add(time.Duration(i) * time.Second)}
		forth, back = append(forth, f), append([]ownSpecific{f}, back...)
	}
	for _, fresh := range [][]ownSpecific{forth, back} {
		s := newSpecifics()
		parts := s.note(fresh, now.Add(time.Minute))
		if len(parts) != burstSpecifics || parts[0] != forth[0] || s.bursts[2] != (specificsBurst{now, burstSpecifics}) {
			t.Errorf("%d parts, the first %+v, of %+v", len(parts), parts[0], s.bursts[2])
		}
	}
}

// TestBurstWithoutIncidentEnds begins a burst of which no part is worth an incident.
func TestBurstWithoutIncidentEnds(t *testing.T) {
	s := newSpecifics()
	now := ingest.TimeOf(start)
	s.bursts[2] = specificsBurst{now, burstSpecifics}
	s.end(nil, now.Add(burstWindow))
	if len(s.bursts) != 1 {
		t.Error("it ends before its time")
	}
	s.end(nil, now.Add(burstWindow+time.Second))
	if len(s.bursts) != 0 {
		t.Error("it never ends")
	}
}

// TestNewPathIDIsNoNewSession sees further path identifiers on a session, before and after a restart, and then a
// session that comes anew.
func TestNewPathIDIsNoNewSession(t *testing.T) {
	e := New(DefaultConfiguration(), Knowledge{}, func(incident.Event) {})
	peer := world(1, 1)[0].Peer
	began, later := ingest.TimeOf(start), ingest.TimeOf(start.Add(time.Hour))
	e.peers.intern(peer, 1, began)
	since := func(e *Engine, pathID uint32, now ingest.Time) ingest.Time {
		id, _ := e.peers.intern(peer, pathID, now)
		return e.peers.list[id].since
	}
	if got := since(e, 2, later); got != began {
		t.Errorf("a further identifier has a session since %v", got.Time())
	}
	state, err := e.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	restored := New(DefaultConfiguration(), Knowledge{}, func(incident.Event) {})
	if err := restored.Restore(state); err != nil {
		t.Fatal(err)
	}
	if got := since(restored, 3, later); got != began {
		t.Errorf("after a restart a further identifier has a session since %v", got.Time())
	}
	e.peers.down(peer)
	if got := since(e, 4, later); got != later {
		t.Errorf("the new session is there since %v", got.Time())
	}
	if got := since(e, 1, later.Add(time.Minute)); got != later {
		t.Errorf("an identifier of old has a session since %v", got.Time())
	}
}

// TestStragglersOutliveTheirCase keeps one offending route beyond the time in which its incident could reopen:
// the state must still be whole.
func TestStragglersOutliveTheirCase(t *testing.T) {
	c := scenarioConfiguration()
	c.Reopen = time.Minute
	us := world(5, 3)
	var events []incident.Event
	emit := func(ev incident.Event) { events = append(events, ev) }
	e := New(c, Knowledge{}, emit)
	for _, u := range us {
		u.Kind = ingest.RIB
		e.Apply(&u)
	}
	e.FinishBaseline()
	at := func(d time.Duration, i int, u ingest.Update) {
		u.Time = ingest.TimeOf(start.Add(d + time.Duration(i)*time.Second))
		e.Apply(&u)
	}
	for i := range 5 {
		at(time.Minute, i, announcement(us[3*i].Peer, prefixOf(0), us[3*i].Peer.ASN, 3356, 666))
	}
	for i := range 4 {
		at(2*time.Minute, i, us[3*i])
	}
	e.Advance(ingest.TimeOf(start.Add(10 * time.Minute)))
	if n := len(e.Incidents()); n != 0 || len(events) == 0 {
		t.Fatalf("%d incidents are still known after %d events", n, len(events))
	}
	state, err := e.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	e = New(c, Knowledge{}, emit)
	if err := e.Restore(state); err != nil {
		t.Fatal(err)
	}
	events = nil
	for i := range 4 {
		at(20*time.Minute, i, announcement(us[3*i].Peer, prefixOf(0), us[3*i].Peer.ASN, 3356, 666))
	}
	e.Finish()
	if len(events) == 0 || events[0].Change != incident.Opened {
		t.Errorf("it comes again, and this is told: %+v", events)
	}
}

// TestRestoreRefusesOtherFormats reads a state of the format before.
func TestRestoreRefusesOtherFormats(t *testing.T) {
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if err := gob.NewEncoder(z).Encode(&snapshot{Version: snapshotVersion - 1}); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	e := New(DefaultConfiguration(), Knowledge{}, func(incident.Event) {})
	if err := e.Restore(b.Bytes()); err == nil || !strings.Contains(err.Error(), "format") {
		t.Errorf("got %v", err)
	}
}
