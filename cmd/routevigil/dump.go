package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/archive"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/mrt"
)

// DumpCmd prints what MRT and BMP files hold.
type DumpCmd struct {
	Lines bool     `name:"lines" short:"m" xor:"format" help:"Print lines as bgpdump -m does (the default); those of BMP begin with BMP."`
	JSON  bool     `name:"json" xor:"format" help:"Print one JSON object a line."`
	Count bool     `name:"count" xor:"format" help:"Decode everything and print only counts, as one JSON object."`
	Files []string `arg:"" name:"file" help:"MRT files, BMP as a router sent it, or captures (pcap, pcapng) of it; plain, .gz, .bz2 or .zst; - is standard input. Several are merged by timestamp."`
}

// Run decodes the files. What is damaged is reported on stderr and passed over; the error at the
// end then says how much that was.
func (c DumpCmd) Run(g *Globals) error {
	out := bufio.NewWriterSize(g.Stdout, 64<<10)
	damaged := 0
	o := archive.Options{
		Stdin: g.Stdin,
		Report: func(err error) {
			damaged++
			out.Flush() // so that the two streams of a terminal stay in step
			fmt.Fprintln(g.Stderr, "routevigil:", err)
		},
	}
	// Asked of all paths, which standard input may be among only once.
	in, err := archive.OpenItems(c.Files, o)
	if err != nil {
		return &UsageError{err}
	}
	defer in.Close()
	switch {
	case c.Count:
		err = c.count(g.Context, out, o)
	case c.JSON:
		err = drain(g.Context, in, jsonPrinter(out))
	default:
		err = drain(g.Context, in, (&linePrinter{out: out}).print)
	}
	if err := cmp.Or(err, out.Flush()); err != nil {
		return err
	}
	if damaged > 0 {
		return passedOver(damaged)
	}
	return nil
}

// drain gives all that in holds to each.
func drain(ctx context.Context, in *archive.ItemReader, each func(*mrt.Item) error) error {
	for n := 0; ; n++ {
		if n%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		it, err := in.Next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = each(it)
		}
		if err != nil {
			return err
		}
	}
}

// count prints what the files hold together. Their order does not matter, so as many are decoded at
// once as there are processors.
func (c DumpCmd) count(ctx context.Context, out io.Writer, o archive.Options) error {
	started := time.Now()
	sum := struct {
		mrt.Counts
		Seconds float64 `json:"seconds"`
	}{Counts: mrt.Counts{Malformed: map[string]uint64{}, Skipped: map[string]uint64{}}}
	var mu sync.Mutex
	report := o.Report
	o.Report = func(err error) {
		mu.Lock()
		defer mu.Unlock()
		report(err)
	}
	ignore := func(*mrt.Item) error { return nil }
	paths := make(chan string)
	var workers sync.WaitGroup
	for range min(len(c.Files), runtime.GOMAXPROCS(0)) {
		workers.Go(func() {
			for path := range paths {
				in, err := archive.OpenItems([]string{path}, o)
				if err == nil {
					err = drain(ctx, in, ignore)
					in.Close()
				}
				if err != nil && ctx.Err() == nil {
					o.Report(err)
				}
				mu.Lock()
				sum.Add(in.Counts())
				mu.Unlock()
			}
		})
	}
	for _, path := range c.Files {
		paths <- path
	}
	close(paths)
	workers.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	sum.Seconds = time.Since(started).Seconds()
	return json.NewEncoder(out).Encode(&sum)
}

// linePrinter prints as bgpdump -m does.
type linePrinter struct {
	out   *bufio.Writer
	head  []byte // of every line of an item: format and time
	peer  []byte // address and AS
	attrs []byte // what follows the prefix
}

func (p *linePrinter) print(it *mrt.Item) error {
	p.head = append(p.head[:0], formatName(it)...)
	p.head = append(p.head, '|')
	p.head = strconv.AppendInt(p.head, int64(it.Time/1e6), 10)
	if it.Format == mrt.BGP4MPET {
		p.head = append(p.head, '.')
		p.head = appendPadded(p.head, int64(it.Time%1e6), 6)
	}
	p.head = append(p.head, '|')
	p.peer = appendAddr(append(p.peer[:0], '|'), it.Peer.Addr)
	p.peer = append(p.peer, '|')
	p.peer = strconv.AppendUint(p.peer, uint64(it.Peer.ASN), 10)
	p.peer = append(p.peer, '|')

	if it.State {
		line := append(p.attrs[:0], p.head...)
		line = append(line, "STATE"...)
		line = append(line, p.peer...)
		line = strconv.AppendUint(line, uint64(it.OldState), 10)
		line = append(line, '|')
		line = strconv.AppendUint(line, uint64(it.NewState), 10)
		p.attrs = append(line, '\n')
		_, err := p.out.Write(p.attrs)
		return err
	}

	u := it.BGP
	// A route that RFC 7606 has treated as withdrawn was announced all the same.
	gone := u.Withdrawn[:len(u.Withdrawn)-u.Demoted]
	demoted := u.Withdrawn[len(gone):]
	for _, routes := range [...][]bgp.NLRI{gone, u.MulticastWithdrawn} {
		if err := p.routes(it, 'W', routes, []byte{'\n'}); err != nil {
			return err
		}
	}
	mark := byte('A')
	if it.Kind == ingest.RIB {
		mark = 'B'
	}
	for _, list := range [...]struct {
		routes []bgp.NLRI
		hop    netip.Addr
	}{
		{u.Announced[:min(u.Classic, len(u.Announced))], u.Attrs.NextHop},
		{demoted[:min(u.Classic, len(demoted))], u.Attrs.NextHop},
		{u.Announced[min(u.Classic, len(u.Announced)):], u.MPNextHop},
		{demoted[min(u.Classic, len(demoted)):], u.MPNextHop},
		{u.MulticastAnnounced, u.MPNextHop},
	} {
		if len(list.routes) == 0 {
			continue
		}
		p.attrs = appendAttributes(append(p.attrs[:0], '|'), &u.Attrs, list.hop)
		if err := p.routes(it, mark, list.routes, p.attrs); err != nil {
			return err
		}
	}
	return nil
}

// routes prints a line for each route.
func (p *linePrinter) routes(it *mrt.Item, mark byte, routes []bgp.NLRI, rest []byte) error {
	for _, r := range routes {
		line := append(p.out.AvailableBuffer(), p.head...)
		line = append(line, mark)
		line = append(line, p.peer...)
		line = appendAddr(line, r.Prefix.Addr())
		line = append(line, '/')
		line = strconv.AppendInt(line, int64(r.Prefix.Bits()), 10)
		if it.AddPath {
			line = append(line, '|')
			line = strconv.AppendUint(line, uint64(r.PathID), 10)
		}
		if _, err := p.out.Write(append(line, rest...)); err != nil {
			return err
		}
	}
	return nil
}

// formatName is bgpdump's name of the record type. It does not read BMP, and does not print the rows of OpenBGPD's
// "table-mp"; those are named as the rows of the other old format.
func formatName(it *mrt.Item) string {
	var name string
	switch {
	case it.Format == mrt.BGP:
		return "BGP"
	case it.Format == mrt.BMP:
		name = "BMP"
	case it.Format == mrt.TableDumpV2:
		name = "TABLE_DUMP2"
	case it.Kind == ingest.RIB:
		name = "TABLE_DUMP"
	case it.Format == mrt.BGP4MPET:
		name = "BGP4MP_ET"
	default:
		name = "BGP4MP"
	}
	if it.Local {
		name += "_LOCAL"
	}
	if it.AddPath {
		name += "_AP"
	}
	return name
}

// appendAttributes appends the fields from the AS path to the end of the line.
func appendAttributes(b []byte, a *bgp.Attributes, hop netip.Addr) []byte {
	if a.Has&bgp.HasASPath != 0 {
		b = a.ASPath.AppendTo(b)
	}
	b = append(b, '|')
	b = append(b, originName(a)...)
	b = append(b, '|')
	if hop.IsValid() {
		b = appendAddr(b, hop)
	} else {
		b = append(b, "255.255.255.255"...)
	}
	b = append(b, '|')
	b = strconv.AppendUint(b, uint64(a.LocalPref), 10)
	b = append(b, '|')
	b = strconv.AppendUint(b, uint64(a.MED), 10)
	b = append(b, '|')
	for i, c := range a.Communities {
		if i > 0 {
			b = append(b, ' ')
		}
		switch c {
		case 0xffffff01:
			b = append(b, "no-export"...)
		case 0xffffff02:
			b = append(b, "no-advertise"...)
		case 0xffffff03:
			b = append(b, "local-AS"...)
		default:
			b = appendCommunity(b, c)
		}
	}
	if a.Has&bgp.HasAtomicAggregate != 0 {
		b = append(b, "|AG|"...)
	} else {
		b = append(b, "|NAG|"...)
	}
	if a.Aggregator.Addr.IsValid() { // also with AS 0, for which it counts as malformed
		b = strconv.AppendUint(b, uint64(a.Aggregator.ASN), 10)
		b = append(b, ' ')
		b = appendAddr(b, a.Aggregator.Addr)
	}
	return append(b, '|', '\n')
}

func originName(a *bgp.Attributes) string {
	if a.Has&bgp.HasOrigin != 0 && a.Origin < 2 {
		return [...]string{"IGP", "EGP"}[a.Origin]
	}
	return "INCOMPLETE"
}

func appendCommunity(b []byte, c uint32) []byte {
	b = strconv.AppendUint(b, uint64(c>>16), 10)
	b = append(b, ':')
	return strconv.AppendUint(b, uint64(c&0xffff), 10)
}

func appendPadded(b []byte, n int64, width int) []byte {
	from := len(b)
	b = append(b, "000000"[:width]...)
	for i := width - 1; n > 0 && i >= 0; i-- {
		b[from+i] = byte('0' + n%10)
		n /= 10
	}
	return b
}

// appendAddr writes an address as bgpdump does. That differs from RFC 5952, and so from netip, in
// two points: "::" also stands for a single group of zeros, and IPv4-compatible addresses (RFC 4291
// §2.5.5.1) end in dotted decimal.
func appendAddr(b []byte, a netip.Addr) []byte {
	if !a.Is6() {
		return a.AppendTo(b)
	}
	v := a.As16()
	if last := binary.BigEndian.Uint32(v[12:]); [12]byte(v[:12]) == [12]byte{} && last > 1 {
		return netip.AddrFrom4([4]byte(v[12:])).AppendTo(append(b, "::"...))
	}
	single := -1
	for i := 0; i < 16; i += 2 {
		switch zero := v[i] == 0 && v[i+1] == 0; {
		case zero && i > 0 && v[i-2] == 0 && v[i-1] == 0:
			return a.AppendTo(b)
		case zero && single < 0:
			single = i
		}
	}
	if single < 0 {
		return a.AppendTo(b)
	}
	for i := 0; i < 16; i += 2 {
		if i != single {
			b = strconv.AppendUint(b, uint64(binary.BigEndian.Uint16(v[i:])), 16)
		}
		if i < 14 || i == single {
			b = append(b, ':')
		}
		if i == 0 && i == single {
			b = append(b, ':')
		}
	}
	return b
}

// jsonLine is one route, or one change of state.
type jsonLine struct {
	Time             string          `json:"time"`
	Type             string          `json:"type"`
	Collector        string          `json:"collector,omitempty"`
	PeerASN          uint32          `json:"peer_asn"`
	PeerIP           netip.Addr      `json:"peer_ip"`
	View             ingest.View     `json:"view,omitzero"`   // of BMP; absent for Adj-RIB-In before policy
	Local            bool            `json:"local,omitempty"` // sent by the collector to the peer
	OldState         *uint16         `json:"old_state,omitempty"`
	NewState         *uint16         `json:"new_state,omitempty"`
	Prefix           *netip.Prefix   `json:"prefix,omitempty"`
	PathID           *uint32         `json:"path_id,omitempty"`
	Multicast        bool            `json:"multicast,omitempty"`
	Originated       string          `json:"originated,omitempty"` // of table rows: when the route was learned
	ASPath           []any           `json:"as_path,omitzero"`
	OriginASN        *uint32         `json:"origin_asn,omitempty"`
	Origin           string          `json:"origin,omitempty"`
	NextHop          string          `json:"next_hop,omitempty"`
	LinkLocal        string          `json:"link_local,omitempty"`
	MED              *uint32         `json:"med,omitempty"`
	LocalPref        *uint32         `json:"local_pref,omitempty"`
	AtomicAggregate  bool            `json:"atomic_aggregate,omitempty"`
	Aggregator       *jsonAggregator `json:"aggregator,omitempty"`
	Communities      []string        `json:"communities,omitempty"`
	ExtCommunities   []string        `json:"ext_communities,omitempty"` // 16 hex digits each
	LargeCommunities []string        `json:"large_communities,omitempty"`
	OTC              *uint32         `json:"otc,omitempty"`
	OriginatorID     string          `json:"originator_id,omitempty"`
	ClusterList      []string        `json:"cluster_list,omitempty"`
	AIGP             *uint64         `json:"aigp,omitempty"`
	Unknown          []jsonAttribute `json:"unknown,omitempty"`
	Malformed        []string        `json:"malformed,omitempty"` // what the message was decoded in spite of
}

type jsonAggregator struct {
	ASN     uint32     `json:"asn"`
	Address netip.Addr `json:"address"`
}

type jsonAttribute struct {
	Type  uint8  `json:"type"`
	Flags uint8  `json:"flags"`
	Value string `json:"value"` // hex
}

// jsonPrinter prints one object for each route. What RFC 7606 treats as withdrawn is a withdrawal
// that says why.
func jsonPrinter(out io.Writer) func(*mrt.Item) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	return func(it *mrt.Item) error {
		common := jsonLine{Time: it.Time.String(), Collector: it.Peer.Collector, PeerASN: it.Peer.ASN, PeerIP: it.Peer.Addr, View: it.Peer.View, Local: it.Local}
		if it.State {
			common.Type, common.OldState, common.NewState = "state", &it.OldState, &it.NewState
			return encoder.Encode(&common)
		}
		u := it.BGP
		for f := range u.Faults.All() {
			common.Malformed = append(common.Malformed, f.String())
		}
		withdraw, announce := common, common
		withdraw.Type, announce.Type = "withdraw", "announce"
		if it.Kind == ingest.RIB {
			announce.Type = "rib"
			if it.Originated != 0 {
				announce.Originated = it.Originated.String()
			}
		}
		if len(u.Announced)+len(u.MulticastAnnounced) > 0 {
			announce.attributes(&u.Attrs)
		}
		for _, list := range [...]struct {
			line      jsonLine
			routes    []bgp.NLRI
			multicast bool
			hop, link netip.Addr
		}{
			{withdraw, u.Withdrawn, false, netip.Addr{}, netip.Addr{}},
			{withdraw, u.MulticastWithdrawn, true, netip.Addr{}, netip.Addr{}},
			{announce, u.Announced[:min(u.Classic, len(u.Announced))], false, u.Attrs.NextHop, netip.Addr{}},
			{announce, u.Announced[min(u.Classic, len(u.Announced)):], false, u.MPNextHop, u.MPLinkLocal},
			{announce, u.MulticastAnnounced, true, u.MPNextHop, u.MPLinkLocal},
		} {
			list.line.Multicast = list.multicast
			if list.hop.IsValid() {
				list.line.NextHop = list.hop.String()
			}
			if list.link.IsValid() {
				list.line.LinkLocal = list.link.String()
			}
			for _, r := range list.routes {
				list.line.Prefix = &r.Prefix
				if it.AddPath {
					list.line.PathID = &r.PathID
				}
				if err := encoder.Encode(&list.line); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

func (l *jsonLine) attributes(a *bgp.Attributes) {
	has := func(bit bgp.Attr) bool { return a.Has&bit != 0 }
	if has(bgp.HasASPath) {
		l.ASPath = jsonPath(a.ASPath)
		if asn, ok := a.ASPath.Origin(); ok {
			l.OriginASN = &asn
		}
	}
	if has(bgp.HasOrigin) {
		l.Origin = originName(a)
	}
	if has(bgp.HasMED) {
		l.MED = &a.MED
	}
	if has(bgp.HasLocalPref) {
		l.LocalPref = &a.LocalPref
	}
	l.AtomicAggregate = has(bgp.HasAtomicAggregate)
	if has(bgp.HasAggregator) {
		l.Aggregator = &jsonAggregator{a.Aggregator.ASN, a.Aggregator.Addr}
	}
	for _, c := range a.Communities {
		l.Communities = append(l.Communities, string(appendCommunity(nil, c)))
	}
	for _, c := range a.ExtCommunities {
		l.ExtCommunities = append(l.ExtCommunities, fmt.Sprintf("%016x", c))
	}
	for _, c := range a.LargeCommunities {
		l.LargeCommunities = append(l.LargeCommunities, fmt.Sprintf("%d:%d:%d", c.Global, c.Local1, c.Local2))
	}
	if has(bgp.HasOTC) {
		l.OTC = &a.OTC
	}
	if has(bgp.HasOriginatorID) {
		l.OriginatorID = a.OriginatorID.String()
	}
	for _, id := range a.ClusterList {
		l.ClusterList = append(l.ClusterList, netip.AddrFrom4([4]byte{byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)}).String())
	}
	if has(bgp.HasAIGP) {
		l.AIGP = &a.AIGP
	}
	for _, r := range a.Unknown {
		l.Unknown = append(l.Unknown, jsonAttribute{r.Type, r.Flags, hex.EncodeToString(r.Value)})
	}
}

// jsonPath is flat but for sets, which are arrays, and confederation segments, which are objects.
func jsonPath(p bgp.ASPath) []any {
	path := []any{}
	for _, s := range p {
		switch s.Type {
		case bgp.ASSequence:
			for _, asn := range s.ASNs {
				path = append(path, asn)
			}
		case bgp.ASSet:
			path = append(path, s.ASNs)
		case bgp.ASConfedSequence:
			path = append(path, map[string][]uint32{"confed_sequence": s.ASNs})
		case bgp.ASConfedSet:
			path = append(path, map[string][]uint32{"confed_set": s.ASNs})
		}
	}
	return path
}
