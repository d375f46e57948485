package bgp

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/routevigil/routevigil/ingest/bgp/bgptest"
)

// checkUpdate holds for whatever was decoded.
func checkUpdate(t *testing.T, u *Update) {
	for _, list := range [...][]NLRI{u.Withdrawn, u.Announced, u.MulticastWithdrawn, u.MulticastAnnounced} {
		for _, r := range list {
			if !r.Prefix.IsValid() || r.Prefix != r.Prefix.Masked() {
				t.Errorf("prefix %v", r.Prefix)
			}
		}
	}
	if u.Demoted > len(u.Withdrawn) || u.Demoted > 0 && len(u.Announced) > 0 || u.Classic > len(u.Announced)+u.Demoted {
		t.Errorf("demoted %d, classic %d, withdrawn %d, announced %d", u.Demoted, u.Classic, len(u.Withdrawn), len(u.Announced))
	}
	switch withdraw := u.Faults.Treatment() == TreatAsWithdraw; {
	case u.Faults.Treatment() == ResetSession:
		t.Errorf("faults %v without an error", u.Faults)
	case withdraw && len(u.Announced)+len(u.MulticastAnnounced) > 0:
		t.Errorf("faults %v, but routes are announced", u.Faults)
	}
	a := &u.Attrs
	for _, s := range a.ASPath {
		if len(s.ASNs) == 0 || s.Type < ASSet || s.Type > ASConfedSet {
			t.Errorf("segment %+v", s)
		}
	}
	if a.Has&HasNextHop != 0 != a.NextHop.IsValid() || a.Has&HasAggregator != 0 && !a.Aggregator.Addr.Is4() ||
		a.Has&HasCommunities != 0 != (len(a.Communities) > 0) || a.Has&HasASPath == 0 && len(a.ASPath) > 0 {
		t.Errorf("attributes %+v", a)
	}
}

func FuzzUpdate(f *testing.F) {
	f.Add(typicalUpdate(f), false, uint8(0))
	f.Add(append(make([]byte, HeaderLength), body(f, route, needed+reach6+unreach, route)...), true, uint8(AllFamilies))
	for _, b := range bgptest.Fuzzed(f) {
		f.Add(b, false, uint8(0))
	}
	f.Fuzz(func(t *testing.T, b []byte, twoOctet bool, addPath uint8) {
		if len(b) < HeaderLength || len(b) > MaxExtendedLength {
			return
		}
		o := Options{TwoOctetAS: twoOctet, AddPath: FamilySet(addPath) & AllFamilies, ExtendedMessage: true}
		var d Decoder
		u, err := d.Update(b[HeaderLength:], o)
		if err != nil {
			if e, ok := err.(*Error); !ok || e.Fault.Treatment() != ResetSession {
				t.Errorf("error %#v", err)
			}
			return
		}
		checkUpdate(t, u)
		if u.Faults != 0 || u.Classic != 0 && u.Classic != len(u.Announced) {
			return
		}
		// What was decoded without a fault means the same when it is encoded and decoded again.
		want := Update{Withdrawn: u.Withdrawn, Announced: u.Announced, MulticastWithdrawn: u.MulticastWithdrawn,
			MulticastAnnounced: u.MulticastAnnounced, Attrs: u.Attrs.Clone()}
		again, err := AppendUpdate(nil, &want, o)
		if err != nil {
			return // an IPv4 next hop for IPv6 routes can be read, but not written
		}
		nWithdrawn, nAnnounced := len(u.Withdrawn), len(u.Announced)
		path := u.Attrs.ASPath.String()
		for len(again) > 0 {
			_, body, rest, err := Split(again)
			if err != nil {
				t.Fatal(err)
			}
			v, err := d.Update(body, o)
			if err != nil || v.Faults != 0 {
				t.Fatalf("again: %v, %v", err, v.Faults)
			}
			nWithdrawn -= len(v.Withdrawn)
			nAnnounced -= len(v.Announced)
			if len(v.Announced) > 0 && v.Attrs.ASPath.String() != path && !o.TwoOctetAS {
				t.Errorf("path %v, was %v", v.Attrs.ASPath, path)
			}
			again = rest
		}
		if nWithdrawn != 0 || nAnnounced != 0 {
			t.Errorf("%d withdrawn and %d announced too few", nWithdrawn, nAnnounced)
		}
	})
}

func FuzzSplit(f *testing.F) {
	f.Add(typicalUpdate(f))
	open, err := AppendOpen(nil, &Open{ASN: 70000, ID: netip.MustParseAddr("192.0.2.1"), Capabilities: []Capability{FourOctetAS(70000), AddPath(AddPathBoth, IPv4Unicast)}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(open)
	f.Add(AppendNotification(nil, Notification{6, 2, []byte("bye")}))
	f.Add(AppendRouteRefresh(nil, IPv4Unicast, 0))
	for _, b := range bgptest.Fuzzed(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		typ, body, rest, err := Split(b)
		if err != nil {
			return
		}
		if len(body)+len(rest)+HeaderLength != len(b) {
			t.Errorf("%d octets become %d and %d", len(b), len(body), len(rest))
		}
		switch typ {
		case TypeOpen:
			o, err := ParseOpen(body)
			if err != nil {
				return
			}
			Negotiate(o, o)
			if again, err := AppendOpen(nil, o); err == nil {
				if p, err := ParseOpen(again[HeaderLength:]); err != nil || p.HoldTime != o.HoldTime || len(p.Capabilities) != len(o.Capabilities) {
					t.Errorf("again: %+v, %v; was %+v", p, err, o)
				}
			}
		case TypeNotification:
			_, _ = ParseNotification(body)
		case TypeRouteRefresh:
			_, _, _ = ParseRouteRefresh(body)
		}
	})
}

// attributeList is the list of path attributes of an UPDATE, as far as it is there.
func attributeList(b []byte) ([]byte, bool) {
	if len(b) < HeaderLength+4 || Type(b[18]) != TypeUpdate {
		return nil, false
	}
	b = b[HeaderLength:]
	if w := int(binary.BigEndian.Uint16(b)); 2+w+2 <= len(b) {
		b = b[2+w:]
		return b[2:min(len(b), 2+int(binary.BigEndian.Uint16(b)))], true
	}
	return nil, false
}

func FuzzRIBEntry(f *testing.F) {
	f.Add(unhex(f, needed), false)
	f.Add(unhex(f, origin+path+"800e 11 10 20010db8000000000000000000000001"), false)
	f.Add(unhex(f, origin+path+reach6), true)
	for _, b := range bgptest.Fuzzed(f) {
		if attrs, ok := attributeList(b); ok {
			f.Add(attrs, false)
		}
	}
	f.Fuzz(func(t *testing.T, attrs []byte, twoOctet bool) {
		u, err := new(Decoder).RIBEntry(IPv4Unicast, NLRI{Prefix: netip.MustParsePrefix("192.0.2.0/24")}, attrs, Options{TwoOctetAS: twoOctet})
		if err == nil {
			checkUpdate(t, u)
			if len(u.Announced)+len(u.Withdrawn) == 0 {
				t.Error("the route is lost")
			}
		}
	})
}
