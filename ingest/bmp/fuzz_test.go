package bmp

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bgp/bgptest"
)

// seeds are messages of every type.
func seeds(f *testing.F) (all [][]byte) {
	plain := monitoring(peer4, update(f, bgp.Options{}, nlri("203.0.113.0/24", 0)))
	v4 := *plain
	v4.Version, v4.Capabilities = 4, []bgp.Capability{bgp.AddPath(bgp.AddPathBoth, bgp.IPv4Unicast)}
	for _, m := range []*Message{
		{Version: 3, Type: TypeInitiation, TLVs: []TLV{{Type: TLVSysName, Value: []byte("r1")}}},
		upMessage(peer4, open(65000), open(64500)),
		upMessage(peer6, open(65000, bgp.AddPath(bgp.AddPathBoth, bgp.IPv6Unicast)), open(64500)),
		upMessage(locRIB, open(65000), open(65000), TLV{Type: TLVTableName, Value: []byte("global")}),
		plain, &v4,
		monitoring(with(peer6, FlagAdjRIBOut), update(f, bgp.Options{}, nlri("2001:db8:1::/48", 0))),
		{Version: 3, Type: TypeStatistics, Peer: peer4, Statistics: []Statistic{{Type: 7, Value: 1}, {Type: 9, Family: bgp.IPv4Unicast, Value: 2}, {Type: 0, Value: 3}}},
		{Version: 3, Type: TypeRouteMirroring, Peer: peer4, TLVs: []TLV{{Type: TLVInformation, Value: []byte{0, 1}}}},
		downMessage(peer4),
		{Version: 3, Type: TypeTermination, TLVs: []TLV{{Type: TLVReason, Value: []byte{0, 0}}}},
	} {
		all = append(all, encode(f, m))
	}
	return all
}

// FuzzDecode: what was decoded means the same when it is encoded and decoded again.
func FuzzDecode(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b)
	}
	// Of BGP messages only the OPENs are decoded here.
	up := encode(f, upMessage(peer4, open(65000), open(64500)))
	for _, b := range bgptest.Fuzzed(f) {
		if t, n, err := bgp.ParseHeader(b); err == nil && t == bgp.TypeOpen {
			b = append(bytes.Clone(up[:HeaderLength+PeerHeaderLength+20]), b[:min(n, len(b))]...)
			b, err = bgp.AppendOpen(b, open(64500))
			if err != nil {
				f.Fatal(err)
			}
			binary.BigEndian.PutUint32(b[1:], uint32(len(b)))
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := new(Decoder).Decode(b)
		if err != nil {
			if e, ok := err.(*Error); !ok || e.Reason == "" {
				t.Errorf("error %#v", err)
			}
			return
		}
		again, err := Append(nil, m)
		if err != nil {
			return // an OPEN can have capabilities in a way that ours never has
		}
		n, err := new(Decoder).Decode(again)
		if err != nil {
			t.Fatalf("again: %v", err)
		}
		if m.Peer.Time%1e6 == 0 { // octets for microseconds that are none are not kept
			if diff := cmp.Diff(m, n, compareMessages...); diff != "" {
				t.Errorf("-first +again\n%s", diff)
			}
		}
	})
}

// FuzzSession: a stream, whatever it is made of, leaves a state that is sound, and every view that came up
// goes down.
func FuzzSession(f *testing.F) {
	all := seeds(f)
	f.Add(bytes.Join(all, nil))
	for _, b := range all {
		f.Add(b)
	}
	up := encode(f, upMessage(peer4, open(65000), open(64500)))
	both := bgp.AddPath(bgp.AddPathBoth, bgp.IPv4Unicast)
	paths := bgp.Options{AddPath: bgp.Families(bgp.IPv4Unicast)}
	f.Add(bytes.Join([][]byte{ // path identifiers that are missing, and are there again
		encode(f, upMessage(peer4, open(65000, both), open(64500, both))), encode(f, monitoring(peer4, update(f, bgp.Options{}, nlri("203.0.113.0/24", 0)))),
		encode(f, monitoring(peer4, update(f, paths, nlri("203.0.113.0/24", 1)))), encode(f, monitoring(peer4, update(f, paths, nlri("203.0.113.0/24", 1)))),
	}, nil))
	for _, b := range bgptest.Fuzzed(f) {
		f.Add(append(bytes.Clone(up), encode(f, monitoring(peer4, b))...))
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		r, s := NewReader(bytes.NewReader(stream), MaxLength), NewSession("r", len(stream)%2 == 0)
		up := map[ingest.Peer]bool{}
		h := func(u *ingest.Update) error {
			if u.Peer.View > ingest.LocRIB {
				t.Errorf("view %v", u.Peer.View)
			}
			switch u.Kind {
			case ingest.PeerUp:
				up[u.Peer] = true
			case ingest.PeerDown:
				delete(up, u.Peer)
			case ingest.Routes:
				if len(u.Announced)+len(u.Withdrawn) == 0 {
					t.Error("an update without routes")
				}
			}
			for _, list := range [...][]bgp.NLRI{u.Withdrawn, u.Announced} {
				for _, n := range list {
					if !n.Prefix.IsValid() || n.Prefix != n.Prefix.Masked() {
						t.Errorf("prefix %v", n.Prefix)
					}
				}
			}
			return nil
		}
		var bad uint64
		for {
			b, err := r.Next()
			if err != nil {
				break
			}
			it, err := s.Message(b, received)
			if err != nil {
				bad++
				continue
			}
			if err := s.Emit(it, h); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Emit(s.End(received), h); err != nil {
			t.Fatal(err)
		}
		if len(up) > 0 || s.Peers() > 0 {
			t.Errorf("%v are still up, %d peers are kept", up, s.Peers())
		}
		var counted uint64
		for _, n := range s.Counts().Malformed {
			counted += n
		}
		if counted < bad {
			t.Errorf("%d messages were refused, %d counted", bad, counted)
		}
	})
}
