package bmp

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/template"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bgp/bgptest"
)

// Of the routers that Debian 12 has, two speak BMP: GoBGP 3.10 and FRR 8.4, which knows no Loc-RIB. BIRD 2.0.12
// was built without it (it came with 2.14), and OpenBGPD has none.
//
// daemon is one of them. It is AS64500 and connects to two speakers of AS64501, over IPv4 and over IPv6. Its
// import policy refuses 198.51.100.0/24 and sets MED 77 on everything else. It has a monitoring session for each
// of its monitors, to a station of its own. Its files are templates of a setting.
type daemon struct {
	name, binary string
	files        map[string]string
	args         []string
	monitors     []monitor
	pathIDs      []ingest.View // in which routes have the identifiers that they came with
	path         string        // as it shows it
	forgetful    bool          // whether it shows nothing, even before policy, of what policy refuses
	statistic    uint16        // a type of statistic that it reports of each peer
	value        [2]uint64     // and its value, without and with ADD-PATH
	counts       bool          // whether the value is a counter, and the least
}

// monitor is what a station is told.
type monitor struct {
	name  string
	views []ingest.View
}

// setting is what templates may use.
type setting struct {
	Dir          string
	Local        string            // the router's IPv4 address
	Speaker      string            // the IPv4 address of a speaker; the other's is ::1
	Port4, Port6 string            // theirs
	Station      map[string]string // the port of each monitor's station on 127.0.0.1
	AddPath      bool
}

var daemons = []daemon{
	{
		name: "gobgp", binary: "gobgpd",
		files: map[string]string{"gobgpd.toml": `
[global.config]
  as = 64500
  router-id = "10.9.0.1"
  port = -1
[global.apply-policy.config]
  import-policy-list = ["import"]
  default-import-policy = "accept-route"
[[defined-sets.prefix-sets]]
  prefix-set-name = "refused"
  [[defined-sets.prefix-sets.prefix-list]]
    ip-prefix = "198.51.100.0/24"
[[policy-definitions]]
  name = "import"
  [[policy-definitions.statements]]
    name = "refuse"
    [policy-definitions.statements.conditions.match-prefix-set]
      prefix-set = "refused"
    [policy-definitions.statements.actions]
      route-disposition = "reject-route"
  [[policy-definitions.statements]]
    name = "mark"
    [policy-definitions.statements.actions]
      route-disposition = "accept-route"
      [policy-definitions.statements.actions.bgp-actions]
        set-med = "77"
{{define "neighbour"}}
  [neighbors.timers.config]
    connect-retry = 1
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv4-unicast"
{{if .}}    [neighbors.afi-safis.add-paths.config]
      receive = true{{end}}
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv6-unicast"
{{end}}
[[neighbors]]
  [neighbors.config]
    neighbor-address = "{{.Speaker}}"
    peer-as = 64501
  [neighbors.transport.config]
    remote-port = {{.Port4}}
    local-address = "{{.Local}}"
{{template "neighbour" .AddPath}}
[[neighbors]]
  [neighbors.config]
    neighbor-address = "::1"
    peer-as = 64501
  [neighbors.transport.config]
    remote-port = {{.Port6}}
    local-address = "::1"
{{template "neighbour" .AddPath}}
{{range $policy, $port := .Station}}
[[bmp-servers]]
  [bmp-servers.config]
    address = "127.0.0.1"
    port = {{$port}}
    route-monitoring-policy = "{{$policy}}"
    statistics-timeout = 15
    sys-name = "gobgp"
{{end}}
`},
		args: []string{"-f", "{{.Dir}}/gobgpd.toml", "--api-hosts", "{{.Local}}:50051", "--pprof-disable"},
		monitors: []monitor{
			{"pre-policy", []ingest.View{ingest.AdjRIBInPre}},
			{"post-policy", []ingest.View{ingest.AdjRIBInPost}},
			{"local-rib", []ingest.View{ingest.LocRIB}},
			{"all", []ingest.View{ingest.AdjRIBInPre, ingest.AdjRIBInPost, ingest.LocRIB}},
		},
		pathIDs:   []ingest.View{ingest.AdjRIBInPre},
		path:      "64501 70000",
		statistic: 7, value: [2]uint64{4, 5}, // routes in all Adj-RIBs-In of the peer
	},
	{
		name: "frr", binary: "/usr/lib/frr/bgpd",
		files: map[string]string{"bgpd.conf": `
router bgp 64500
 bgp router-id 10.9.0.2
 no bgp default ipv4-unicast
{{define "peer"}}
 neighbor {{.}} remote-as 64501
 neighbor {{.}} timers connect 1
 neighbor {{.}} ebgp-multihop 2
{{end}}{{define "family"}}
  neighbor {{.}} activate
  neighbor {{.}} soft-reconfiguration inbound
  neighbor {{.}} route-map import in
{{end}}
{{template "peer" .Speaker}}
 neighbor {{.Speaker}} port {{.Port4}}
 neighbor {{.Speaker}} update-source {{.Local}}
{{template "peer" "::1"}}
 neighbor ::1 port {{.Port6}}
 neighbor ::1 update-source ::1
 address-family ipv4 unicast
{{template "family" .Speaker}}
{{template "family" "::1"}}
{{if not .AddPath}}  neighbor {{.Speaker}} disable-addpath-rx
  neighbor ::1 disable-addpath-rx{{end}}
 exit-address-family
 address-family ipv6 unicast
{{template "family" .Speaker}}
{{template "family" "::1"}}
{{if not .AddPath}}  neighbor {{.Speaker}} disable-addpath-rx
  neighbor ::1 disable-addpath-rx{{end}}
 exit-address-family
{{range $policy, $port := .Station}}
 bmp targets {{$policy}}
  bmp stats interval 1000
{{if ne $policy "post-policy"}}  bmp monitor ipv4 unicast pre-policy
  bmp monitor ipv6 unicast pre-policy{{end}}
{{if ne $policy "pre-policy"}}  bmp monitor ipv4 unicast post-policy
  bmp monitor ipv6 unicast post-policy{{end}}
  bmp connect 127.0.0.1 port {{$port}} min-retry 100 max-retry 1000
{{end}}
ip prefix-list refused seq 5 permit 198.51.100.0/24
route-map import deny 5
 match ip address prefix-list refused
route-map import permit 10
 set metric 77
`},
		args: []string{"-M", "bmp", "-n", "-Z", "-S", "-p", "0", "-P", "0", "-f", "{{.Dir}}/bgpd.conf", "-i", "{{.Dir}}/bgpd.pid",
			"--vty_socket", "{{.Dir}}", "--log", "stdout"},
		monitors: []monitor{
			{"pre-policy", []ingest.View{ingest.AdjRIBInPre}},
			{"post-policy", []ingest.View{ingest.AdjRIBInPost}},
			{"all", []ingest.View{ingest.AdjRIBInPre, ingest.AdjRIBInPost}},
		},
		path:      "64500 64501 70000", // with its own AS number, as if it sent the route on
		forgetful: true,
		statistic: 0, value: [2]uint64{1, 1}, counts: true, // how often inbound policy rejected a prefix
	},
}

// Real routers tell what they hear: routes, withdrawals, and the ends of sessions.
func TestRouters(t *testing.T) {
	for _, d := range daemons {
		t.Run(d.name, func(t *testing.T) { d.test(t, false) })
		t.Run(d.name+" with ADD-PATH", func(t *testing.T) { d.test(t, true) })
	}
}

func (d *daemon) test(t *testing.T, addPath bool) {
	t.Parallel()
	if _, err := exec.LookPath(d.binary); err != nil {
		bgptest.Missing(t, fmt.Sprintf("%v: install the Debian package of %s", err, d.name))
	}
	loopback := func() string {
		return netip.AddrFrom4([4]byte{127, byte(1 + rand.N(250)), byte(rand.N(256)), byte(1 + rand.N(250))}).String()
	}
	s := setting{Dir: t.TempDir(), Local: loopback(), Speaker: loopback(), Station: map[string]string{}, AddPath: addPath}
	four, six := newSpeaker(t, s.Speaker, addPath), newSpeaker(t, "::1", addPath)
	s.Port4, s.Port6 = four.port(), six.port()
	var stations []*monitored
	for _, m := range d.monitors {
		x := newMonitored(t, m)
		stations, s.Station[m.name] = append(stations, x), x.port
	}
	for name, text := range d.files {
		if err := os.WriteFile(filepath.Join(s.Dir, name), []byte(s.fill(t, text)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := make([]string, len(d.args))
	for i, a := range d.args {
		args[i] = s.fill(t, a)
	}
	c := exec.CommandContext(t.Context(), d.binary, args...)
	c.Dir = s.Dir
	running := bgptest.StartDaemon(t, c)
	wait := func(what string, holds func(*monitored) string) {
		t.Helper()
		for _, x := range stations {
			eventually(t, func() string {
				if err := running.Ended(); err != nil {
					t.Fatalf("%s ended by itself: %v", d.name, err)
				}
				if missing := holds(x); missing != "" {
					return fmt.Sprintf("%s, station %s: %s\n%+v", what, x.name, missing, x.station.Status())
				}
				return ""
			})
		}
	}

	// shows waits until every view has the prefixes, of the speakers that are up.
	shows := func(what string, speakers []string, prefixes ...string) {
		t.Helper()
		wait(what, func(x *monitored) string {
			for _, view := range x.views {
				if diff := cmp.Diff(d.table(view, addPath, speakers, prefixes), x.table(view)); diff != "" {
					return fmt.Sprintf("%s -want +got\n%s", view, diff)
				}
			}
			return ""
		})
	}
	both := []string{s.Speaker, "::1"}
	shows("all routes", both, announced...)
	wait("statistics", func(x *monitored) string {
		for _, address := range both {
			want := d.value[index(addPath)]
			if got := x.statistic(t, address, d.statistic); got != want && !(d.counts && got > want) {
				return fmt.Sprintf("statistic %d of peer %s is %d, want %d", d.statistic, address, got, want)
			}
		}
		return ""
	})
	four.withdraw(gone...)
	six.withdraw(gone...)
	kept := slices.DeleteFunc(slices.Clone(announced), func(p string) bool { return slices.Contains(gone, p) })
	shows("withdrawals", both, kept...)

	four.leave()
	shows("the end of a session", both[1:], kept...)
	wait("the end of a session", func(x *monitored) string { return x.down(s.Speaker) })
	for _, x := range stations {
		if missing := x.down("::1"); missing == "" {
			t.Errorf("station %s: the other session went down too", x.name)
		}
		malformed := x.station.Status().Malformed
		for reason := range malformed {
			if reason != "path_identifiers" || !addPath {
				t.Errorf("station %s: malformed %v", x.name, malformed)
			}
		}
	}

	running.Stop()
	wait("the end of the router", func(x *monitored) string {
		for _, view := range x.views {
			if left := x.table(view); len(left) > 0 {
				return fmt.Sprintf("%s has %v", view, left)
			}
		}
		if st := x.station.Status(); st.Peers != 0 || st.State != ingest.Connecting {
			return "peers are up"
		}
		return x.down("::1")
	})
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

// What the speakers announce, and then withdraw.
var (
	announced = []string{"198.51.100.0/24", "2001:db8:1::/48", "203.0.112.0/24", "203.0.113.0/24"}
	gone      = []string{"2001:db8:1::/48", "203.0.113.0/24"}
)

const (
	refused = "198.51.100.0/24"
	twice   = "203.0.113.0/24" // with ADD-PATH, by two paths
)

// table is what a view must show, a line for each route.
func (d *daemon) table(view ingest.View, addPath bool, speakers, prefixes []string) []string {
	lines := []string{}
	path, med := d.path, "med 77"
	switch view {
	case ingest.AdjRIBInPre:
		med = "no med"
	case ingest.LocRIB:
		speakers = []string{"10.9.0.1"}
	}
	for _, speaker := range speakers {
		for _, p := range prefixes {
			if p == refused && (view != ingest.AdjRIBInPre || d.forgetful) {
				continue
			}
			ids := []int{0}
			if addPath && slices.Contains(d.pathIDs, view) && !strings.Contains(p, ":") {
				if ids[0] = 1; p == twice {
					ids = append(ids, 2)
				}
			}
			hop := "192.0.2.7"
			if strings.Contains(p, ":") {
				hop = "2001:db8::7"
			}
			for _, id := range ids {
				lines = append(lines, fmt.Sprintf("%s: %s#%d by %s via %s, %s", speaker, p, id, path, hop, med))
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// fill writes a template with the setting's values.
func (s setting) fill(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	if err := template.Must(template.New("").Parse(text)).Execute(&b, s); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// monitored is a station, and what the router told it, octet by octet.
type monitored struct {
	monitor
	station *Station
	heard   heard
	port    string // where the router connects to

	mu  sync.Mutex
	raw []byte
}

func newMonitored(t *testing.T, m monitor) *monitored {
	x := &monitored{monitor: m}
	var address string
	x.station, address = runStation(t, testConfiguration(), x.heard.handle)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, x.port, _ = net.SplitHostPort(l.Addr().String())
	var routines sync.WaitGroup
	t.Cleanup(func() { l.Close(); routines.Wait() })
	routines.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", address)
			if err != nil {
				in.Close()
				continue
			}
			routines.Go(func() {
				io.Copy(io.MultiWriter(out, x), in)
				in.Close()
				out.Close()
			})
		}
	})
	return x
}

// Write keeps what the router said.
func (x *monitored) Write(b []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.raw = append(x.raw, b...)
	return len(b), nil
}

// table is what the updates amount to, as [daemon.table] has it.
func (x *monitored) table(view ingest.View) []string {
	x.heard.mu.Lock()
	defer x.heard.mu.Unlock()
	type key struct {
		peer  ingest.Peer
		route bgp.NLRI
	}
	routes := map[key]string{}
	for _, u := range x.heard.updates {
		if u.Peer.View != view {
			continue
		}
		if u.Kind == ingest.PeerUp || u.Kind == ingest.PeerDown {
			maps.DeleteFunc(routes, func(k key, _ string) bool { return k.peer == u.Peer })
		}
		for _, r := range u.Withdrawn {
			delete(routes, key{u.Peer, r})
		}
		for _, r := range u.Announced {
			med := "no med"
			if u.Attrs.Has&bgp.HasMED != 0 {
				med = fmt.Sprint("med ", u.Attrs.MED)
			}
			routes[key{u.Peer, r}] = fmt.Sprintf("%s: %s#%d by %s via %s, %s", u.Peer.Addr, r.Prefix, r.PathID, u.Attrs.ASPath, u.Attrs.NextHop, med)
		}
	}
	return slices.AppendSeq([]string{}, slices.Values(slices.Sorted(maps.Values(routes))))
}

// down says what is missing for a peer to have gone down, last of all, in every view of Adj-RIB-In: those that
// the station is shown, and that of Peer Up, which may be another.
func (x *monitored) down(address string) string {
	views := 0
	for _, view := range []ingest.View{ingest.AdjRIBInPre, ingest.AdjRIBInPost} {
		u := x.heard.find(func(u *ingest.Update) bool { return u.Peer.View == view && u.Peer.Addr.String() == address })
		switch {
		case u == nil && !slices.Contains(x.views, view):
			continue
		case u == nil || u.Kind != ingest.PeerDown || u.Peer.ASN != 64501:
			return fmt.Sprintf("the last of peer %s in %s is %+v", address, view, u)
		}
		views++
	}
	if views == 0 {
		return fmt.Sprintf("peer %s is not heard of", address)
	}
	return ""
}

// statistic is the last value of a type that the router reported of a peer, or 0.
func (x *monitored) statistic(t *testing.T, address string, typ uint16) (value uint64) {
	x.mu.Lock()
	r := NewReader(bytes.NewReader(slices.Clone(x.raw)), MaxLength)
	x.mu.Unlock()
	var decoder Decoder
	for {
		b, err := r.Next()
		if err != nil {
			return value
		}
		m, err := decoder.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range m.Statistics {
			if m.Peer.Addr.String() == address && s.Type == typ {
				value = s.Value
			}
		}
	}
}

// speaker is AS64501, which waits for the router to connect, and announces.
type speaker struct {
	t       *testing.T
	l       net.Listener
	addPath bool

	mu   sync.Mutex
	conn net.Conn // the session that is up, if any
}

func newSpeaker(t *testing.T, address string, addPath bool) *speaker {
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	s := &speaker{t: t, l: l, addPath: addPath}
	done := make(chan struct{})
	t.Cleanup(func() { s.leave(); <-done })
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conn = conn
			s.mu.Unlock()
			err = s.serve(conn) // always an error; routers try again
			t.Logf("speaker %s: %v", address, err)
			conn.Close()
		}
	}()
	return s
}

func (s *speaker) port() string {
	_, port, _ := net.SplitHostPort(s.l.Addr().String())
	return port
}

// leave ends the session without a word, and lets no other begin.
func (s *speaker) leave() {
	s.l.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.Close()
	}
}

func (s *speaker) options() bgp.Options {
	if s.addPath {
		return bgp.Options{AddPath: bgp.Families(bgp.IPv4Unicast)}
	}
	return bgp.Options{}
}

// routes are those of some prefixes, with their path identifiers.
func (s *speaker) routes(prefixes []string) (four, six []bgp.NLRI) {
	for _, p := range prefixes {
		switch {
		case strings.Contains(p, ":"):
			six = append(six, nlri(p, 0))
		case p == twice && s.addPath:
			four = append(four, nlri(p, 1), nlri(p, 2))
		default:
			four = append(four, nlri(p, 1))
		}
	}
	return four, six
}

// announcement is a message for each family.
func (s *speaker) announcement() (b []byte, err error) {
	four, six := s.routes(announced)
	for _, u := range []bgp.Update{
		{Announced: four, Attrs: bgp.Attributes{NextHop: netip.MustParseAddr("192.0.2.7")}},
		{Announced: six, Attrs: bgp.Attributes{NextHop: netip.MustParseAddr("2001:db8::7")}},
	} {
		u.Attrs.Has = bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop
		u.Attrs.ASPath = bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{64501, 70000}}}
		if b, err = bgp.AppendUpdate(b, &u, s.options()); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (s *speaker) withdraw(prefixes ...string) {
	s.t.Helper()
	four, six := s.routes(prefixes)
	b, err := bgp.AppendUpdate(nil, &bgp.Update{Withdrawn: append(four, six...)}, s.options())
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.conn.Write(b); err != nil {
		s.t.Fatal(err)
	}
}

// serve speaks until the session ends. There is no hold time, so nothing needs to be kept alive.
func (s *speaker) serve(conn net.Conn) error {
	o := &bgp.Open{ASN: 64501, ID: netip.MustParseAddr("10.9.0.9"), Capabilities: []bgp.Capability{
		bgp.FourOctetAS(64501), bgp.Multiprotocol(bgp.IPv4Unicast), bgp.Multiprotocol(bgp.IPv6Unicast)}}
	if s.addPath {
		o.Capabilities = append(o.Capabilities, bgp.AddPath(bgp.AddPathSend, bgp.IPv4Unicast))
	}
	hello, err := bgp.AppendOpen(nil, o)
	if err != nil {
		return err
	}
	routes, err := s.announcement()
	if err != nil {
		return err
	}
	if _, err := conn.Write(bgp.AppendKeepalive(hello)); err != nil {
		return err
	}
	header := make([]byte, bgp.HeaderLength)
	for up := false; ; {
		if _, err := io.ReadFull(conn, header); err != nil {
			return err
		}
		typ, n, err := bgp.ParseHeader(header)
		if err != nil {
			return err
		}
		body := make([]byte, n-bgp.HeaderLength)
		if _, err := io.ReadFull(conn, body); err != nil {
			return err
		}
		switch {
		case typ == bgp.TypeNotification:
			return fmt.Errorf("NOTIFICATION %x", body)
		case typ == bgp.TypeKeepalive && !up:
			up = true
			if _, err := conn.Write(routes); err != nil {
				return err
			}
		}
	}
}
