package irr

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestAutNum(t *testing.T) {
	d := build(t, `
aut-num: AS64500
as-name: EXAMPLE
remarks: a provider
import: from AS1 action pref=100; accept ANY
export: to AS1 announce AS-EXAMPLE AS64500
remarks: the same in IPv6, with bogons taken out, and continued
mp-import: afi ipv6.unicast from AS2 2001:db8::1 at 2001:db8::2
           action pref = 200;
+          accept ANY AND NOT { ::/0, 2001:db8::/32^+ }
mp-export: afi ipv6.unicast to AS2 announce as-example
remarks: a customer
import: from AS10 accept AS10:AS-CUSTOMERS
export: to AS10 announce ANY
remarks: a peer
import: from AS20 accept AS-PEER
export: to AS20 announce AS-EXAMPLE AND NOT AS-PARTS
remarks: everything both ways says nothing
import: from AS30 accept ANY
export: to AS30 announce ANY
remarks: several at once
import: from AS3 action pref=1; from AS4 action pref=2; accept ANY
import: { from AS5 action pref=1; accept ANY; from AS21 accept AS21; }
remarks: defaults
default: to AS6
default: to AS7 action pref=10; networks ANY
default: to AS22 networks 192.0.2.0/24
remarks: what is not understood
import: from AS-SET accept ANY
import: from PRNG-X accept ANY
import: from AS23 OR AS24 accept ANY
import: from AS25 accept ANY EXCEPT { from AS26 accept AS26; }
import: from AS27 accept ANY REFINE { from AS27 accept AS27; }
import: from AS28 accept <^AS28 ANY>
import: from accept ANY
import: accept ANY
import: from AS64500 accept ANY
export: to AS29
source: RIPE

aut-num: AS64500
import: from AS99 accept ANY
source: RADB

aut-num: AS64501
source: RADB
`)
	want := &AutNum{ASN: 64500, Source: "RIPE", Authoritative: true, Providers: []uint32{1, 2, 3, 4, 5, 6, 7}, Customers: []uint32{10}, Announces: []string{"AS-EXAMPLE"}}
	if diff := cmp.Diff(want, d.AutNum(64500), cmpopts.IgnoreUnexported(AutNum{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if a := d.AutNum(64501); a == nil || a.Authoritative || len(a.Providers)+len(a.Customers)+len(a.Announces) > 0 {
		t.Errorf("%+v", a)
	}
	if a := d.AutNum(1); a != nil {
		t.Errorf("%+v", a)
	}
}

func TestCone(t *testing.T) {
	d := build(t, `
aut-num: AS1
export: to AS9 announce AS-ONE
export: to AS8 announce RIPE::AS-MORE
source: RIPE

as-set: AS-ONE
members: AS1, AS2
source: RIPE

as-set: AS-MORE
members: AS3
source: RIPE

as-set: AS4:AS-CUSTOMERS
members: AS5
source: RIPE

as-set: AS4:AS-PEERS
members: AS6
source: RIPE

aut-num: AS7
export: to AS9 announce AS-GONE
source: RIPE
`)
	for asn, want := range map[uint32][]uint32{1: {1, 2, 3}, 4: {4, 5}, 7: {7}, 8: {8}} {
		if x := d.Cone(asn, maxMembers); !slices.Equal(x.ASNs, want) {
			t.Errorf("AS%d: %v, want %v", asn, x.ASNs, want)
		}
	}
	if x := d.Cone(7, maxMembers); !slices.Equal(x.Missing, []string{"AS-GONE"}) {
		t.Errorf("%+v", x)
	}
}
