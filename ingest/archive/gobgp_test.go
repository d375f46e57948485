package archive

import (
	"bufio"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bgp/bgptest"
	"github.com/routevigil/routevigil/ingest/bgp/gobgptest"
	"github.com/routevigil/routevigil/ingest/bmp"
)

// TestCapturesEqualGoBGP has GoBGP decode the BMP of real routers, of version 3, message by message.
func TestCapturesEqualGoBGP(t *testing.T) {
	files, err := filepath.Glob(bgptest.Data(t, "bmp", "*", "*.pcap"))
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob(bgptest.Data(t, "bmp", "*.pcap*"))
	if err != nil {
		t.Fatal(err)
	}
	if files = append(files, more...); len(files) == 0 {
		t.Skip("no captures here")
	}
	messages, updates := 0, 0
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			in := bufio.NewReader(f)
			head, err := in.Peek(512)
			if err != nil && err != io.EOF {
				t.Fatal(err)
			}
			r := newBMP(in, head, file, "", true)
			for {
				b, s, at, received, err := r.source.next()
				if _, ok := errors.AsType[*bmp.Error](err); ok {
					continue
				}
				if err != nil {
					return
				}
				it, err := s.Message(b, received)
				if err != nil {
					t.Errorf("%d: %v", at, err)
					continue
				}
				m := it.Message
				if m.Version != 3 || m.Type == bmp.TypeTermination || m.Type == bmp.TypeRouteMirroring {
					continue
				}
				o := bgp.Options{TwoOctetAS: m.Peer.Type != bmp.LocRIBInstance && m.Peer.Flags&bmp.FlagTwoOctetAS != 0}
				if it.AddPath {
					o.AddPath = bgp.AllFamilies
				}
				theirs, update, err, updateErr := gobgptest.BMP(b, o)
				if err != nil {
					// GoBGP refuses an ADD-PATH capability that names no family. RFC 7911 §4 expects one at least, but
					// has no error for it, and RFC 5492 none for a capability: it says nothing.
					if m.Type != bmp.TypePeerUp || !slices.ContainsFunc(m.PeerUp.Sent.Capabilities, func(c bgp.Capability) bool {
						return c.Code == bgp.CapAddPath && len(c.Value) == 0
					}) {
						t.Errorf("%d: GoBGP: %v", at, err)
					}
					continue
				}
				messages++
				theirs.BGP = m.BGP
				if diff := cmp.Diff(theirs, m, gobgptest.SameBMP); diff != "" {
					t.Errorf("%d: -GoBGP +ours\n%s", at, diff)
				}
				if it.BGP == nil || it.BGP.Faults.Has(bgp.FaultFamily) {
					continue // of a family that is not decoded
				}
				if updateErr != nil {
					t.Errorf("%d: GoBGP: %v; ours: %+v", at, updateErr, it.BGP)
					continue
				}
				updates++
				if diff := cmp.Diff(update, it.BGP, sameUpdate); diff != "" {
					t.Errorf("%d: -GoBGP +ours\n%s", at, diff)
				}
			}
		})
	}
	if t.Logf("%d messages, %d of them with UPDATEs", messages, updates); messages == 0 || updates == 0 {
		t.Error("nothing was compared")
	}
}

// sameUpdate compares what an UPDATE says, not how it was found.
var sameUpdate = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmpopts.EquateEmpty(),
	cmpopts.IgnoreFields(bgp.Update{}, "RawAttributes", "EndOfRIB", "Faults", "Demoted"),
}
