package archive

import (
	"bufio"
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"github.com/routevigil/routevigil/ingest/bgp/bgptest"
	"github.com/routevigil/routevigil/ingest/bmp"
	"github.com/routevigil/routevigil/ingest/mrt"
)

// FuzzBMP reads anything that begins as BMP or as a capture does: it must come to an end, and nothing
// may make it panic, be it in the packets or in the messages.
func FuzzBMP(f *testing.F) {
	f.Add([]byte{3, 0, 0, 0, 6, 4, 3, 0, 0, 0, 10, 4, 0, 2, 0, 0})
	pcap := []byte{
		0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 101, 0, 0, 0, // raw IP
		0, 0, 0, 0, 0, 0, 0, 0, 46, 0, 0, 0, 46, 0, 0, 0,
		0x45, 0, 0, 46, 0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
		0x9c, 0x40, 0x06, 0xfe, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 0, 99, 0, 0, 0, 0,
		3, 0, 0, 0, 6, 4,
	}
	f.Add(pcap)
	f.Add([]byte{0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 28, 0, 0, 0})
	peer := bmp.PeerHeader{Addr: netip.MustParseAddr("192.0.2.1"), ASN: 64500, ID: netip.MustParseAddr("192.0.2.1")}
	for _, b := range bgptest.Fuzzed(f) {
		message, err := bmp.Append(nil, &bmp.Message{Version: 3, Type: bmp.TypeRouteMonitoring, Peer: peer, BGP: b})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(message)
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		for _, updates := range []bool{false, true} {
			in := bufio.NewReader(bytes.NewReader(file))
			head, _ := in.Peek(512)
			r := newBMP(in, head, "test", "", true)
			if r == nil {
				return
			}
			for calls := 0; ; calls++ {
				if calls > 10*len(file)+10 {
					t.Fatal("it does not end")
				}
				var err error
				if updates {
					_, err = r.update()
				} else {
					_, err = r.next()
				}
				if _, ok := errors.AsType[*mrt.RecordError](err); err != nil && !ok {
					break
				}
			}
			r.allCounts()
		}
	})
}
