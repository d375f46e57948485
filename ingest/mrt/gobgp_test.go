package mrt_test

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"encoding/binary"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/mrt"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bgp/bgptest"
	"github.com/routevigil/routevigil/ingest/bgp/gobgptest"
	"github.com/routevigil/routevigil/ingest/mrt"
)

// TestFilesEqualGoBGP reads real files with GoBGP too, record by record: each message of BGP4MP and each entry of
// TABLE_DUMP_V2 says the same to both. GoBGP's MRT is used for the tables only: in messages it ignores ADD-PATH
// (RFC 8050 §3), takes two octets of AS number for four, and does not know microseconds (RFC 6396 §3).
func TestFilesEqualGoBGP(t *testing.T) {
	var files []string
	for _, pattern := range []string{"*.gz", "*.bz2", "legacy/*.gz", "samples/*"} {
		found, err := filepath.Glob(bgptest.Data(t, "mrt", pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) == 0 {
		t.Skip("no MRT files here")
	}
	messages, entries := 0, 0
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			m, e := compare(t, read(t, file))
			messages, entries = messages+m, entries+e
		})
	}
	if messages == 0 || entries == 0 {
		t.Errorf("%d messages and %d entries were compared", messages, entries)
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var r io.Reader = f
	switch filepath.Ext(file) {
	case ".gz":
		if r, err = gzip.NewReader(f); err != nil {
			t.Fatal(err)
		}
	case ".bz2":
		r = bzip2.NewReader(f)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Types and subtypes of records that have something to compare (RFC 6396 §4, RFC 8050).
const (
	tableDumpV2, bgp4mp, bgp4mpET = 13, 16, 17
	peerIndexTable                = 1
)

// messages are the subtypes of BGP4MP that hold a message.
var messages = map[uint16]struct{ twoOctets, addPath bool }{
	1: {true, false}, 4: {false, false}, 6: {true, false}, 7: {false, false},
	8: {true, true}, 9: {false, true}, 10: {true, true}, 11: {false, true},
}

// tables are the subtypes of TABLE_DUMP_V2 that hold entries of a family.
var tables = map[uint16]bgp.Family{
	2: bgp.IPv4Unicast, 3: bgp.IPv4Multicast, 4: bgp.IPv6Unicast, 5: bgp.IPv6Multicast,
	8: bgp.IPv4Unicast, 9: bgp.IPv4Multicast, 10: bgp.IPv6Unicast, 11: bgp.IPv6Multicast,
}

// Of a file, the first messages or table records are compared, and then one of some, so that the largest files do not
// take minutes with the race detector.
const (
	allOfFirst = 10_000
	thenOneOf  = 16
)

func chosen(n int) bool { return n < allOfFirst || n%thenOneOf == 0 }

// compare returns how many messages and entries are the same.
func compare(t *testing.T, file []byte) (same, entries int) {
	var index *gobgp.PeerIndexTable
	skipped, met := 0, 0
	items := mrt.NewReader(bytes.NewReader(file), "file", "")
	for offset := 0; len(file)-offset >= 12; {
		header, length := file[offset:offset+12], int(binary.BigEndian.Uint32(file[offset+8:]))
		typ, subtype := binary.BigEndian.Uint16(header[4:]), binary.BigEndian.Uint16(header[6:])
		if length > len(file)-offset-12 {
			t.Logf("ends in a record, at offset %d", offset)
			break
		}
		body := file[offset+12 : offset+12+length]
		offset += 12 + length
		_, isTable := tables[subtype]
		form, isMessage := messages[subtype]
		switch {
		case (typ == bgp4mp || typ == bgp4mpET) && isMessage:
			if typ == bgp4mpET {
				body = body[4:]
			}
			header := 8 // AS numbers, interface, family
			if !form.twoOctets {
				header = 12
			}
			addresses := 8
			if binary.BigEndian.Uint16(body[header-2:]) == 2 {
				addresses = 32
			}
			o := bgp.Options{TwoOctetAS: form.twoOctets}
			if form.addPath {
				o.AddPath = bgp.AllFamilies
			}
			met++
			if !chosen(met) {
				continue
			}
			if compareMessage(t, offset-length-12, body[header+addresses:], o) {
				same++
			} else {
				skipped++
			}
		case typ == tableDumpV2 && (subtype == peerIndexTable || isTable):
			if met++; isTable && !chosen(met) {
				continue
			}
			h, err := gobgp.ParseHeader(header)
			if err != nil {
				t.Fatal(err)
			}
			m, err := gobgp.ParseBody(body, h)
			if err != nil {
				t.Fatalf("GoBGP, record of type %d/%d at offset %d: %v", typ, subtype, offset-length-12, err)
			}
			switch b := m.Body.(type) {
			case *gobgp.PeerIndexTable:
				index = b
			case *gobgp.Rib:
				for _, e := range b.Entries {
					compareEntry(t, next(t, items, int64(offset-length-12)), index, b, e)
					entries++
				}
			}
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d messages and %d entries are the same, %d messages hold no routes or are malformed to both", same, entries, skipped)
	return same, entries
}

// compareMessage reports whether there was an UPDATE to compare.
func compareMessage(t *testing.T, offset int, message []byte, o bgp.Options) bool {
	t.Helper()
	typ, body, rest, err := bgp.Split(message)
	if err != nil || typ != bgp.TypeUpdate {
		return false
	}
	theirs, theirError := gobgptest.Update(message[:len(message)-len(rest)], o)
	ours, err := new(bgp.Decoder).Update(body, o)
	if err != nil && theirError != nil {
		return false // path identifiers that the record does not speak of, for instance
	}
	if err != nil || theirError != nil {
		t.Errorf("offset %d: GoBGP: %v, ours: %v", offset, theirError, err)
		return false
	}
	if diff := different(theirs, ours); diff != "" {
		t.Errorf("offset %d, faults %v: -GoBGP +ours\n%s", offset, ours.Faults, diff)
	}
	return true
}

// next takes from our reader the next entry of the record at an offset.
func next(t *testing.T, items *mrt.Reader, offset int64) *mrt.Item {
	t.Helper()
	for {
		it, err := items.NextItem()
		if err != nil {
			t.Fatal(err)
		}
		if it.Kind == ingest.RIB && it.Offset == offset {
			return it
		}
	}
}

func compareEntry(t *testing.T, it *mrt.Item, index *gobgp.PeerIndexTable, rib *gobgp.Rib, e *gobgp.RibEntry) {
	t.Helper()
	prefix := netip.MustParsePrefix(rib.Prefix.String())
	peer := index.Peers[e.PeerIndex]
	if it.Peer.ASN != peer.AS || it.Peer.Addr != peer.IpAddress || it.Originated != ingest.TimeOf(time.Unix(int64(e.OriginatedTime), 0)) {
		t.Errorf("%s: peer %v of GoBGP, %+v", prefix, peer, it)
	}
	theirs := &bgp.Update{Announced: []bgp.NLRI{{Prefix: prefix, PathID: e.PathIdentifier}}}
	route := theirs.Announced
	if rib.Family.Safi() == 2 {
		theirs.Announced, theirs.MulticastAnnounced = nil, route
	}
	if err := gobgptest.Attributes(theirs, e.PathAttributes, bgp.Options{}); err != nil {
		t.Fatal(err)
	}
	if theirs.MPReach != 0 && !theirs.MPNextHop.IsValid() {
		// RIS and others write MP_REACH_NLRI in full, as in a message, where RFC 6396 §4.3.4 wants the next hop alone:
		// GoBGP takes its first octet, which is 0, for the length of a next hop. It can read it as in a message.
		hop, local, err := gobgptest.NextHop(it.BGP.RawAttributes)
		if err != nil {
			t.Fatalf("GoBGP: %v", err)
		}
		theirs.Attrs.NextHop, theirs.Attrs.LinkLocal = hop, local
		theirs.Attrs.Has |= bgp.HasNextHop
	}
	theirs.Announced, theirs.MulticastAnnounced = nil, nil
	if rib.Family.Safi() == 2 {
		theirs.MulticastAnnounced = route
	} else {
		theirs.Announced = route
	}
	if diff := different(theirs, it.BGP); diff != "" {
		t.Errorf("%s of %v, faults %v: -GoBGP +ours\n%s", prefix, it.Peer, it.BGP.Faults, diff)
	}
}

// different says how two updates differ, in what they say and not in how it was found, and not where we know of it:
//   - Routes with AS 0 in the path are to be treated as withdrawn (RFC 7607 §2); GoBGP announces them.
//   - An AGGREGATOR of AS 0 is to be discarded (RFC 7607 §2); GoBGP keeps it.
//   - GoBGP makes a transitive link bandwidth, which routers send, the non-transitive one of the draft; the T bit is
//     part of what was received (RFC 4360 §2).
//   - GoBGP decodes more families than ours, and knows the next hop of their routes, which ours passes over.
func different(theirs, ours *bgp.Update) string {
	if ours.Faults.Has(bgp.FaultASPathASZero) {
		theirs.Withdrawn, theirs.Announced = append(theirs.Withdrawn, theirs.Announced...), nil
	}
	if ours.Faults.Has(bgp.FaultAggregatorASZero) && theirs.Attrs.Aggregator == ours.Attrs.Aggregator {
		theirs.Attrs.Has &^= bgp.HasAggregator
	}
	if n := len(theirs.Attrs.ExtCommunities); n == len(ours.Attrs.ExtCommunities) {
		for i, c := range ours.Attrs.ExtCommunities {
			if c>>48 == 0x0004 && theirs.Attrs.ExtCommunities[i] == c|0x40<<56 {
				theirs.Attrs.ExtCommunities[i] = c
			}
		}
	}
	if ours.Faults.Has(bgp.FaultFamily) && theirs.Classic == 0 {
		theirs.Attrs.Has &^= bgp.HasNextHop
		theirs.Attrs.NextHop, theirs.Attrs.LinkLocal = netip.Addr{}, netip.Addr{}
	}
	x, y := said(theirs), said(ours)
	if reflect.DeepEqual(x, y) { // a hundred times as fast as cmp.Diff
		return ""
	}
	return cmp.Diff(x, y, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }))
}

func said(u *bgp.Update) bgp.Update {
	s := bgp.Update{Withdrawn: some(u.Withdrawn), Announced: some(u.Announced), Attrs: u.Attrs,
		MulticastWithdrawn: some(u.MulticastWithdrawn), MulticastAnnounced: some(u.MulticastAnnounced)}
	a := &s.Attrs
	a.ASPath, a.Communities, a.ExtCommunities = some(a.ASPath), some(a.Communities), some(a.ExtCommunities)
	a.LargeCommunities, a.ClusterList, a.Unknown = some(a.LargeCommunities), some(a.ClusterList), some(a.Unknown)
	return s
}

// some is s, or nil if it is empty.
func some[S ~[]E, E any](s S) S {
	if len(s) == 0 {
		return nil
	}
	return s
}
