package detect

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/origins"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/archive"
)

const day = 24 * time.Hour

// chronicle is an engine in the made-up world whose prefix is originated by somebody, and what it said.
type chronicle struct {
	*Engine
	rows     []ingest.Update
	incident map[string]incident.Incident
}

// The prefix that changes hands in these tests, its rightful origin, and a stranger to it.
var disputed = prefixOf(3)

const (
	holder   = 20003
	stranger = 39999
	pastPeer = 10
)

func newPast(k Knowledge, shards int) *chronicle {
	p := &chronicle{rows: world(pastPeer, 20), incident: map[string]incident.Incident{}}
	c := DefaultConfiguration()
	c.Shards = shards
	p.Engine = New(c, k, func(ev incident.Event) { p.incident[ev.Incident.ID] = ev.Incident })
	return p
}

func (p *chronicle) baseline() *chronicle {
	for i := range p.rows {
		row := p.rows[i]
		row.Kind = ingest.RIB
		p.Apply(&row)
	}
	p.FinishBaseline()
	return p
}

// at has the peers from to upTo announce the disputed prefix by origin, d after the start.
func (p *chronicle) at(d time.Duration, origin uint32, from, upTo int) {
	for k := from; k < upTo; k++ {
		peer := p.rows[20*k].Peer
		u := announcement(peer, disputed, peer.ASN, 3356, origin)
		if origin == holder {
			u = announcement(peer, disputed, p.rows[20*k+3].Attrs.ASPath[0].ASNs...)
		}
		u.Time = ingest.TimeOf(start.Add(d))
		p.Apply(&u)
	}
	p.pass(d + time.Second)
}

// pass lets time go on, in steps of at most an hour.
func (p *chronicle) pass(to time.Duration) {
	for t := ingest.TimeOf(start.Add(to)); p.clock < t; {
		p.Advance(min(t, max(p.clock, ingest.TimeOf(start)).Add(time.Hour)))
	}
}

func (p *chronicle) facts(asn uint32) origins.Facts {
	s := p.shardOf(disputed)
	p.flush()
	id, _ := s.table.lookup(disputed)
	if o := s.table.origin(s.table.entry(id), asn); o != nil {
		return s.table.history.Facts(o, p.clock, p.peers.active)
	}
	return origins.Facts{}
}

func (p *chronicle) open() (n int) {
	for _, inc := range p.incident {
		if inc.Status == incident.Open {
			n++
		}
	}
	return n
}

// TestHijackOfADayTeachesNothing hijacks a prefix for a day at half of the peers: what is normal is then
// what it was, and the next time is as suspicious as the first.
func TestHijackOfADayTeachesNothing(t *testing.T) {
	p := newPast(Knowledge{}, 1).baseline()
	p.pass(10 * day)
	before := p.facts(holder)
	p.at(10*day, stranger, 0, 5)
	p.pass(11 * day)
	if p.open() != 1 {
		t.Fatalf("%d incidents are open after a day of hijack", p.open())
	}
	p.at(11*day, holder, 0, 5)
	p.pass(20 * day)
	after := p.facts(holder)
	if p.open() != 0 || !before.Usual || !after.Usual || p.facts(stranger).Usual {
		t.Errorf("%d incidents are open, usual before: %+v, after: %+v, stranger: %+v", p.open(), before, after, p.facts(stranger))
	}
	if !slices.Equal(before.FirstHops, after.FirstHops) || !slices.Equal(before.Upstreams, after.Upstreams) || !before.FirstSeen.Equal(after.FirstSeen) || after.TimeShare < 0.999 {
		t.Errorf("what is normal has changed:\n%+v\n%+v", before, after)
	}
	if f := p.facts(stranger); f.TimeShare < 0.02 || f.TimeShare > 0.08 || f.PeerShare < 0.45 || f.PeerShare > 0.55 {
		t.Errorf("of the stranger, one day in twenty at half of the peers, is known %+v", f)
	}
	known := len(p.incident)
	p.at(25*day, stranger, 0, 5)
	if p.open() != 1 || len(p.incident) != known+1 {
		t.Error("the second hijack was not found")
	}
}

// TestTransferWithROA hands the prefix over, with a ROA: it is normal at once.
func TestTransferWithROA(t *testing.T) {
	vrps := rpki.NewSet(rpki.Data{VRPs: []rpki.VRP{{Prefix: disputed, MaxLength: 24, ASN: stranger}}}, "test")
	p := newPast(Knowledge{VRPs: vrps}, 1).baseline()
	p.at(day, stranger, 0, pastPeer)
	if f := p.facts(stranger); !f.Usual || len(p.incident) != 0 || !slices.Equal(f.FirstHops, []uint32{3356}) {
		t.Errorf("%d incidents, known is %+v", len(p.incident), f)
	}
}

// TestSettling lets a new origin stay: it becomes normal after the settling time where only its being
// new speaks against it, and else never.
func TestSettling(t *testing.T) {
	invalid := rpki.NewSet(rpki.Data{VRPs: []rpki.VRP{{Prefix: disputed, MaxLength: 24, ASN: holder}}}, "test")
	for name, c := range map[string]struct {
		know   Knowledge
		peers  int           // that see the new origin; the others stay with the old one
		breaks time.Duration // when it goes and comes back; 0: never
		usual  time.Duration // from when it is normal, to a day; 0: never
	}{
		"handed over":               {Knowledge{}, pastPeer, 0, 7 * day},
		"against the old origin":    {Knowledge{}, pastPeer - 1, 0, 0},
		"against a ROA":             {Knowledge{VRPs: invalid}, pastPeer, 0, 0},
		"with a break on day three": {Knowledge{}, pastPeer, 3 * day, 10 * day},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPast(c.know, 1).baseline()
			p.at(0, stranger, 0, c.peers)
			usual := time.Duration(0)
			for d := day / 2; d < 20*day && usual == 0; d += day / 2 {
				p.pass(d)
				if d == c.breaks {
					for k := range pastPeer {
						p.Apply(&ingest.Update{Time: p.clock, Peer: p.rows[20*k].Peer, Withdrawn: p.rows[20*k+3].Announced})
					}
					p.at(d+time.Minute, stranger, 0, c.peers)
				}
				if p.facts(stranger).Usual {
					usual = d
				} else if p.open() != 1 {
					t.Fatalf("%d incidents are open after %v", p.open(), d)
				}
			}
			if c.usual == 0 && usual != 0 || usual < c.usual || usual > c.usual+day {
				t.Errorf("usual from %v, want %v", usual, c.usual)
			}
			if p.pass(21 * day); (p.open() == 0) != (c.usual != 0) {
				t.Errorf("%d incidents are open at the end", p.open())
			}
		})
	}
}

// TestHistoryOutlivesTheState starts anew with nothing but the saved history, while a hijack is already in
// the table: it is found. Without the history it is what is normal.
func TestHistoryOutlivesTheState(t *testing.T) {
	p := newPast(Knowledge{}, 3).baseline()
	p.pass(10 * day)
	saved := historyOf(t, p.Engine)
	for _, remembers := range []bool{true, false} {
		q := newPast(Knowledge{}, 2)
		if remembers {
			if err := q.LoadHistory(saved); err != nil {
				t.Fatal(err)
			}
		}
		for i := range q.rows {
			if i%20 == 3 {
				q.rows[i].Attrs.ASPath[0].ASNs = []uint32{q.rows[i].Peer.ASN, 3356, stranger}
			}
			q.rows[i].Time = ingest.TimeOf(start.Add(11 * day))
		}
		q.baseline()
		q.pass(12 * day)
		if found := q.open() == 1; found != remembers || q.facts(stranger).Usual == remembers {
			t.Errorf("with history %t: %d incidents are open, the stranger is usual: %t", remembers, q.open(), q.facts(stranger).Usual)
		}
		if f := q.facts(holder); remembers && (!f.Usual || f.TimeShare < 0.8 || f.TimeShare > 0.95) {
			t.Errorf("of the holder, who was there ten days and then not for one, is known %+v", f)
		}
	}
}

func historyOf(t *testing.T, e *Engine) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := e.SaveHistory(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestHistoryIsDeterministic plays every scenario, and a real event, on several numbers of shards, and once with
// a restart on the way: byte for byte the history is the same.
func TestHistoryIsDeterministic(t *testing.T) {
	for _, sc := range allScenarios(t) {
		t.Run(sc.Name, func(t *testing.T) {
			var want []byte
			for i, shards := range []int{1, 1, 2, 8} {
				restart := i%2 == 1
				c := scenarioConfiguration()
				c.Shards = shards
				e := New(c, knowledgeOf(sc), func(incident.Event) {})
				for _, u := range sc.RIB() {
					e.Apply(&u)
				}
				e.FinishBaseline()
				updates := sc.Updates()
				for i, u := range updates {
					if restart && i == len(updates)/2 {
						state, err := e.Snapshot()
						if err != nil {
							t.Fatal(err)
						}
						if e = New(c, knowledgeOf(sc), func(incident.Event) {}); e.Restore(state) != nil {
							t.Fatal("not restored")
						}
					}
					e.Apply(&u)
				}
				e.Advance(ingest.TimeOf(sc.Start.Add(sc.Duration())))
				got := historyOf(t, e)
				if want == nil {
					want = got
				}
				if !bytes.Equal(want, got) {
					t.Errorf("%d shards, restart %t: the history differs", shards, restart)
				}
			}
		})
	}
}

func TestHistoryOfARealEventIsDeterministic(t *testing.T) {
	labels(t)
	var want []byte
	for _, shards := range []int{1, 2, 8} {
		c := DefaultConfiguration()
		c.Shards = shards
		e := New(c, Knowledge{}, func(incident.Event) {})
		for _, part := range []string{".rib.mrt.gz", ".updates.mrt.gz"} {
			r, err := archive.Open([]string{events + "/pakistan_1" + part}, archive.Options{Collector: "events"})
			if err != nil {
				t.Fatal(err)
			}
			if part == ".rib.mrt.gz" {
				err = e.LoadBaseline(r.Next)
			} else {
				for u, next := r.Next(); next == nil; u, next = r.Next() {
					e.Apply(u)
				}
			}
			r.Close()
			if err != nil {
				t.Fatal(err)
			}
		}
		e.Finish()
		got := historyOf(t, e)
		if want == nil {
			want = got
		}
		if !bytes.Equal(want, got) {
			t.Errorf("%d shards: the history differs", shards)
		}
	}
}

func TestNeighbours(t *testing.T) {
	tree := newPathTree(nil, nil, newLinkMemory())
	for _, c := range []struct{ path, want []uint32 }{
		{[]uint32{1, 2, 3, 4}, []uint32{3, 2}},
		{[]uint32{1, 2, 2, 3, 3, 4, 4, 4}, []uint32{3, 2}},
		{[]uint32{3, 4}, []uint32{3, 0}},
		{[]uint32{4}, []uint32{0, 0}},
	} {
		u := announcement(ingest.Peer{}, netip.Prefix{}, c.path...)
		if hop, up := tree.neighbours(tree.intern(u.Attrs.ASPath, rootPlain)); hop != c.want[0] || up != c.want[1] {
			t.Errorf("%v: %d and %d, want %v", c.path, hop, up, c.want)
		}
	}
}

// A link that one shard has learned is nothing new to another, where a path over it is older: what is remembered does not depend on
// how many shards there are.
func TestHistoryOfALinkByShards(t *testing.T) {
	first, second := netip.MustParsePrefix("20.0.0.0/24"), netip.MustParsePrefix("21.0.0.0/24")
	remembered := func(shards int) []byte {
		c := DefaultConfiguration()
		c.Shards = shards
		e := New(c, Knowledge{}, func(ev incident.Event) { t.Errorf("%s", ev.Incident.Title) })
		announce := func(p netip.Prefix, kind ingest.Kind, at time.Duration, by uint32) {
			for i := range uint32(5) {
				u := announcement(ingest.Peer{Collector: "test", ASN: 7000 + i}, p, 7000+i, by, 2000, 64400)
				u.Kind, u.Time = kind, ingest.TimeOf(start.Add(at))
				e.Apply(&u)
			}
		}
		announce(first, ingest.RIB, 0, 3356)
		announce(second, ingest.RIB, 0, 3356)
		e.FinishBaseline()
		announce(first, ingest.Routes, time.Second, 174)
		announce(second, ingest.Routes, time.Second, 174)
		announce(second, ingest.Routes, time.Second, 3356) // before it is judged
		announce(second, ingest.Routes, 2*time.Second, 174)
		e.Finish()
		var b bytes.Buffer
		if err := e.SaveHistory(&b); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	if !bytes.Equal(remembered(1), remembered(2)) {
		t.Error("one shard remembers other things than two")
	}
}
