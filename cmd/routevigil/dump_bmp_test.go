package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	packet "github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bmp"
)

// TestDumpEqualsDecodedCaptures compares with what another decoder (NetGauze) made of real captures of
// BMP: how many messages there are, and every unicast route with its peer and its path.
func TestDumpEqualsDecodedCaptures(t *testing.T) {
	captures, _ := filepath.Glob("../../../shared/data/bmp/*/*.pcap")
	more, _ := filepath.Glob("../../../shared/data/bmp/*.pcap")
	captures = append(captures, more...)
	if len(captures) == 0 {
		t.Skip("the captures are not here")
	}
	routes := 0
	for _, file := range captures {
		t.Run(filepath.Base(file), func(t *testing.T) {
			messages, want := decodedCapture(t, strings.TrimSuffix(file, ".pcap")+"-bmp.json")
			count, _, err := dump(t, DumpCmd{Count: true, Files: []string{file}})
			if err != nil {
				t.Fatal(err)
			}
			var counts struct{ Records int }
			if err := json.Unmarshal([]byte(count), &counts); err != nil || counts.Records != messages {
				t.Errorf("%d messages, want %d (%v)", counts.Records, messages, err)
			}
			text, _, err := dump(t, DumpCmd{JSON: true, Files: []string{file}})
			if err != nil {
				t.Fatal(err)
			}
			got := []string{}
			for line := range strings.Lines(text) {
				var l struct {
					Type    string
					PeerASN uint32     `json:"peer_asn"`
					PeerIP  netip.Addr `json:"peer_ip"`
					Prefix  string
					ASPath  []any `json:"as_path"`
				}
				if err := json.Unmarshal([]byte(line), &l); err != nil {
					t.Fatal(err)
				}
				if l.Type != "state" {
					got = append(got, fmt.Sprintln(l.Type, l.PeerASN, l.PeerIP, l.Prefix, l.ASPath))
				}
			}
			slices.Sort(got)
			slices.Sort(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			routes += len(want)
		})
	}
	if routes == 0 {
		t.Error("no capture has a unicast route")
	}
}

// decodedCapture reads the messages of a capture as NetGauze prints them, and gives a line for each
// unicast route.
func decodedCapture(t *testing.T, file string) (messages int, routes []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		text, err = os.ReadFile(file + "l")
	}
	if err != nil {
		t.Fatal(err)
	}
	routes = []string{}
	type nlri []struct{ Network string }
	type update struct {
		Update struct {
			Withdrawn  nlri `json:"withdrawn_routes"`
			NLRI       nlri
			Attributes []struct {
				Value json.RawMessage // a name alone for attributes without a value
			} `json:"path_attributes"`
		}
	}
	type families map[string]json.RawMessage
	type message map[string]map[string]struct {
		Peer struct {
			Address *netip.Addr
			ASN     uint32     `json:"peer_as"`
			ID      netip.Addr `json:"bgp_id"`
		} `json:"peer_header"`
		V3 *update `json:"update_message"`
		V4 *struct {
			Value struct {
				Update update `json:"BgpUpdate"`
			}
		} `json:"update_pdu"`
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<24)
	for ; lines.Scan(); messages++ {
		var framed struct{ Info message }
		if err := json.Unmarshal(lines.Bytes(), &framed); err != nil {
			t.Fatal(err)
		}
		m := framed.Info
		if m == nil {
			if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
				t.Fatal(err)
			}
		}
		for _, byType := range m {
			for _, body := range byType {
				u := body.V3
				if body.V4 != nil {
					u = &body.V4.Value.Update
				}
				if u == nil {
					continue
				}
				peer := body.Peer.ID // what stands for the router of a Loc-RIB
				if body.Peer.Address != nil {
					peer = *body.Peer.Address
				}
				path := []any{}
				announced, withdrawn := u.Update.NLRI, u.Update.Withdrawn
				for _, a := range u.Update.Attributes {
					var v struct {
						ASPath map[string][]struct {
							ASNs []any `json:"as_numbers"`
						} `json:"AsPath"`
						MPReach, MPUnreach families
					}
					if json.Unmarshal(a.Value, &v) != nil {
						continue
					}
					for _, segments := range v.ASPath {
						for _, s := range segments {
							path = append(path, s.ASNs...)
						}
					}
					for _, mp := range []struct {
						families families
						routes   *nlri
					}{{v.MPReach, &announced}, {v.MPUnreach, &withdrawn}} {
						for family, text := range mp.families {
							var of struct{ NLRI nlri }
							if family != "Ipv4Unicast" && family != "Ipv6Unicast" {
								continue
							}
							if err := json.Unmarshal(text, &of); err != nil {
								t.Fatal(err)
							}
							*mp.routes = append(*mp.routes, of.NLRI...)
						}
					}
				}
				for _, r := range withdrawn {
					routes = append(routes, fmt.Sprintln("withdraw", body.Peer.ASN, peer, r.Network, []any(nil)))
				}
				for _, r := range announced {
					routes = append(routes, fmt.Sprintln("announce", body.Peer.ASN, peer, r.Network, path))
				}
			}
		}
	}
	return messages, routes
}

// bmpSession is what a router says: a peer comes up, announces a prefix and goes down.
func bmpSession(t *testing.T) []byte {
	t.Helper()
	peer := bmp.PeerHeader{Addr: netip.MustParseAddr("192.0.2.1"), ASN: 64500, ID: netip.MustParseAddr("192.0.2.1"), Time: 1_700_000_000_000_000}
	open := &bgp.Open{ASN: 64500, HoldTime: 90, ID: peer.ID, Capabilities: []bgp.Capability{bgp.FourOctetAS(64500)}}
	update, err := bgp.AppendUpdate(nil, &bgp.Update{
		Announced: []bgp.NLRI{{Prefix: netip.MustParsePrefix("198.51.100.0/24")}},
		Attrs: bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop, NextHop: peer.Addr,
			ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{64500, 64501}}}},
	}, bgp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	for _, m := range []bmp.Message{
		{Version: 3, Type: bmp.TypePeerUp, Peer: peer, PeerUp: bmp.PeerUp{LocalAddr: netip.MustParseAddr("192.0.2.9"), Sent: open, Received: open}},
		{Version: 3, Type: bmp.TypeRouteMonitoring, Peer: peer, BGP: update},
		{Version: 3, Type: bmp.TypePeerDown, Peer: peer, PeerDown: bmp.PeerDown{Reason: bmp.DownRemote}},
	} {
		if b, err = bmp.Append(b, &m); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

const bmpLines = "BMP|1700000000|STATE|192.0.2.1|64500|5|6\n" +
	"BMP|1700000000|A|192.0.2.1|64500|198.51.100.0/24|64500 64501|IGP|192.0.2.1|0|0||NAG||\n" +
	"BMP|1700000000|STATE|192.0.2.1|64500|6|1\n"

func TestDumpOfBMP(t *testing.T) {
	file := filepath.Join(t.TempDir(), "session")
	session := bmpSession(t)
	if err := os.WriteFile(file, session, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, _, err := dump(t, DumpCmd{Files: []string{file}}); err != nil || got != bmpLines {
		t.Errorf("%v:\n%s\nwant\n%s", err, got, bmpLines)
	}
	// What is damaged is passed over, with its place.
	if err := os.WriteFile(file, slices.Concat(session, session[:20]), 0o600); err != nil {
		t.Fatal(err)
	}
	got, stderr, err := dump(t, DumpCmd{Files: []string{file}})
	if err == nil || got != bmpLines || !strings.Contains(stderr, fmt.Sprint("offset ", len(session))) {
		t.Errorf("%v, %q:\n%s", err, stderr, got)
	}
}

// TestDumpOfCapture writes a capture in which packets come out of order and a connection of another
// kind runs beside.
func TestDumpOfCapture(t *testing.T) {
	file := filepath.Join(t.TempDir(), "capture")
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	w := pcapgo.NewWriter(out)
	if err := w.WriteFileHeader(1<<16, packet.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	write := func(port packet.TCPPort, sequence uint32, syn bool, payload []byte) {
		ip := &packet.IPv4{Version: 4, TTL: 64, Protocol: packet.IPProtocolTCP, SrcIP: net.IP{192, 0, 2, 5}, DstIP: net.IP{192, 0, 2, 6}}
		tcp := &packet.TCP{SrcPort: port, DstPort: 1790, Seq: sequence, SYN: syn, ACK: !syn, Window: 1000}
		tcp.SetNetworkLayerForChecksum(ip)
		b := gopacket.NewSerializeBuffer()
		err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
			&packet.Ethernet{SrcMAC: make(net.HardwareAddr, 6), DstMAC: make(net.HardwareAddr, 6), EthernetType: packet.EthernetTypeIPv4}, ip, tcp, gopacket.Payload(payload))
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: time.Unix(1_700_000_000, 0), CaptureLength: len(b.Bytes()), Length: len(b.Bytes())}, b.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
	session := bmpSession(t)
	third := len(session) / 3
	write(40000, 99, true, nil)
	write(40001, 7, true, nil)
	write(40000, 100, false, session[:third])
	write(40001, 8, false, []byte("GET / HTTP/1.1\r\n\r\n"))
	write(40000, uint32(100+2*third), false, session[2*third:])
	write(40000, uint32(100+third), false, session[third:2*third])
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	if got, stderr, err := dump(t, DumpCmd{Files: []string{file}}); err != nil || got != bmpLines {
		t.Errorf("%v, %q:\n%s\nwant\n%s", err, stderr, got, bmpLines)
	}
}
