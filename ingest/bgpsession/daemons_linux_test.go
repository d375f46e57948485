package bgpsession

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bgp/bgptest"
)

// daemon is a BGP implementation that peers with us over IPv4, with a password, and over IPv6. On both
// sessions it is AS64501 and announces 203.0.113.0/24 and 198.51.100.0/24 with next hop 192.0.2.7 and
// 2001:db8:1::/48 with next hop 2001:db8::7, with ADD-PATH, until it is told to withdraw the first and
// the last of them. Its files, arguments and commands are templates of a setting.
type daemon struct {
	name     string
	binary   string
	files    map[string]string
	args     []string
	env      []string
	announce [][]string // commands, run once it is up; each is tried until it works
	withdraw [][]string
	root     bool // whether it can only run as root
	ttl      bool // whether it sends with TTL 255 over IPv6
	// paths is how many paths of 203.0.113.0/24 it sends; 1 when 0.
	paths int
}

// setting is what templates may use.
type setting struct {
	Dir          string
	Local        string // its IPv4 address, which nobody else uses
	Port4, Port6 string // ours
	Free         string // a port that is free on ::1
	Password     string
}

var daemons = []daemon{
	{
		name: "gobgp", binary: "gobgpd", ttl: true,
		files: map[string]string{"gobgpd.toml": `
[global.config]
  as = 64501
  router-id = "10.9.0.1"
  port = -1
{{define "neighbour"}}
  [neighbors.graceful-restart.config]
    enabled = true
    restart-time = 30
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv4-unicast"
    [neighbors.afi-safis.mp-graceful-restart.config]
      enabled = true
    [neighbors.afi-safis.add-paths.config]
      send-max = 8
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv6-unicast"
    [neighbors.afi-safis.mp-graceful-restart.config]
      enabled = true
{{end}}
[[neighbors]]
  [neighbors.config]
    neighbor-address = "127.0.0.1"
    peer-as = 64500
    auth-password = "{{.Password}}"
  [neighbors.timers.config]
    connect-retry = 1
  [neighbors.transport.config]
    remote-port = {{.Port4}}
    local-address = "{{.Local}}"
{{template "neighbour"}}
[[neighbors]]
  [neighbors.config]
    neighbor-address = "::1"
    peer-as = 64500
  [neighbors.timers.config]
    connect-retry = 1
  [neighbors.transport.config]
    remote-port = {{.Port6}}
    local-address = "::1"
  [neighbors.ttl-security.config]
    enabled = true
    ttl-min = 255
{{template "neighbour"}}
`},
		args: []string{"-f", "{{.Dir}}/gobgpd.toml", "--api-hosts", "{{.Local}}:50051", "--pprof-disable"},
		announce: [][]string{
			{"gobgp", "-u", "{{.Local}}", "global", "rib", "add", "203.0.113.0/24", "identifier", "1", "nexthop", "192.0.2.7"},
			{"gobgp", "-u", "{{.Local}}", "global", "rib", "add", "203.0.113.0/24", "identifier", "2", "nexthop", "192.0.2.7", "med", "10"},
			{"gobgp", "-u", "{{.Local}}", "global", "rib", "add", "198.51.100.0/24", "nexthop", "192.0.2.7"},
			{"gobgp", "-u", "{{.Local}}", "global", "rib", "add", "-a", "ipv6", "2001:db8:1::/48", "nexthop", "2001:db8::7"},
		},
		withdraw: [][]string{
			{"gobgp", "-u", "{{.Local}}", "global", "rib", "del", "203.0.113.0/24", "identifier", "1"},
			{"gobgp", "-u", "{{.Local}}", "global", "rib", "del", "203.0.113.0/24", "identifier", "2"},
			{"gobgp", "-u", "{{.Local}}", "global", "rib", "del", "-a", "ipv6", "2001:db8:1::/48"},
		},
		paths: 2,
	},
	{
		name: "bird", binary: "bird", ttl: true,
		files: map[string]string{"bird.conf": `
log stderr all;
router id 10.9.0.2;
protocol static alpha { ipv4; route 203.0.113.0/24 blackhole; }
protocol static beta { ipv4; route 203.0.113.0/24 blackhole; }
protocol static gamma { ipv4; route 198.51.100.0/24 blackhole; }
protocol static delta { ipv6; route 2001:db8:1::/48 blackhole; }
template bgp monitor {
	multihop;
	strict bind;
	connect delay time 1;
	connect retry time 1;
	ipv4 { import none; export filter { bgp_next_hop = 192.0.2.7; accept; }; add paths tx; };
	ipv6 { import none; export filter { bgp_next_hop = 2001:db8::7; accept; }; add paths tx; };
}
protocol bgp over4 from monitor {
	local {{.Local}} port {{.Free}} as 64501;
	neighbor 127.0.0.1 port {{.Port4}} as 64500;
	password "{{.Password}}";
}
protocol bgp over6 from monitor {
	local ::1 port {{.Free}} as 64501;
	neighbor ::1 port {{.Port6}} as 64500;
	multihop 1;
	ttl security on;
}
`},
		args: []string{"-f", "-c", "{{.Dir}}/bird.conf", "-s", "{{.Dir}}/bird.ctl"},
		withdraw: [][]string{
			{"birdc", "-s", "{{.Dir}}/bird.ctl", "disable", "alpha"},
			{"birdc", "-s", "{{.Dir}}/bird.ctl", "disable", "beta"},
			{"birdc", "-s", "{{.Dir}}/bird.ctl", "disable", "delta"},
		},
		paths: 2,
	},
	{
		name: "exabgp", binary: "exabgp",
		files: map[string]string{"commands": "", "exabgp.conf": `
process commands { run /usr/bin/tail -n +1 -f {{.Dir}}/commands; encoder text; }
template {
	neighbor monitor {
		router-id 10.9.0.3;
		local-as 64501;
		peer-as 64500;
		hold-time 30;
		family { ipv4 unicast; ipv6 unicast; }
		capability { add-path send; graceful-restart 30; }
		api { processes [ commands ]; }
		static {
			route 203.0.113.0/24 next-hop 192.0.2.7 path-information 0.0.0.1;
			route 203.0.113.0/24 next-hop 192.0.2.7 path-information 0.0.0.2;
			route 198.51.100.0/24 next-hop 192.0.2.7 path-information 0.0.0.1;
			route 2001:db8:1::/48 next-hop 2001:db8::7 path-information 0.0.0.1;
		}
	}
}
neighbor 127.0.0.1 { inherit monitor; local-address {{.Local}}; connect {{.Port4}}; md5-password '{{.Password}}'; }
neighbor ::1 { inherit monitor; local-address ::1; connect {{.Port6}}; }
`},
		args: []string{"{{.Dir}}/exabgp.conf"},
		env:  []string{"exabgp_daemon_user=root", "exabgp_api_cli=false", "exabgp_api_ack=false", "exabgp_log_level=INFO"},
		withdraw: [][]string{{"sh", "-c", `
echo withdraw route 203.0.113.0/24 next-hop 192.0.2.7 path-information 0.0.0.1 >> commands
echo withdraw route 203.0.113.0/24 next-hop 192.0.2.7 path-information 0.0.0.2 >> commands
echo withdraw route 2001:db8:1::/48 next-hop 2001:db8::7 path-information 0.0.0.1 >> commands`}},
		paths: 2,
	},
	{
		name: "frr", binary: "/usr/lib/frr/bgpd", ttl: true,
		files: map[string]string{"vtysh.conf": "", "bgpd.conf": `
router bgp 64501
 bgp router-id 10.9.0.4
 bgp graceful-restart
 no bgp ebgp-requires-policy
 no bgp network import-check
 no bgp default ipv4-unicast
{{define "peer"}}
 neighbor {{.}} remote-as 64500
 neighbor {{.}} timers connect 1
{{end}}{{define "family"}}
  neighbor {{.}} activate
  neighbor {{.}} addpath-tx-all-paths
{{end}}
{{template "peer" "127.0.0.1"}}
 neighbor 127.0.0.1 ebgp-multihop 2
 neighbor 127.0.0.1 port {{.Port4}}
 neighbor 127.0.0.1 update-source {{.Local}}
 neighbor 127.0.0.1 password {{.Password}}
{{template "peer" "::1"}}
 neighbor ::1 ttl-security hops 1
 neighbor ::1 port {{.Port6}}
 neighbor ::1 update-source ::1
 address-family ipv4 unicast
  network 203.0.113.0/24
  network 198.51.100.0/24
{{template "family" "127.0.0.1"}}
{{template "family" "::1"}}
  neighbor 127.0.0.1 route-map four out
  neighbor ::1 route-map four out
 exit-address-family
 address-family ipv6 unicast
  network 2001:db8:1::/48
{{template "family" "127.0.0.1"}}
{{template "family" "::1"}}
  neighbor 127.0.0.1 route-map six out
  neighbor ::1 route-map six out
 exit-address-family
route-map four permit 10
 set ip next-hop 192.0.2.7
route-map six permit 10
 set ipv6 next-hop global 2001:db8::7
`},
		args: []string{"-n", "-Z", "-S", "-p", "0", "-P", "0", "-f", "{{.Dir}}/bgpd.conf", "-i", "{{.Dir}}/bgpd.pid",
			"--vty_socket", "{{.Dir}}", "--log", "stdout"},
		withdraw: [][]string{{"vtysh", "--config_dir", "{{.Dir}}", "--vty_socket", "{{.Dir}}", "-d", "bgpd", "-c", "configure terminal", "-c", "router bgp 64501",
			"-c", "address-family ipv4 unicast", "-c", "no network 203.0.113.0/24", "-c", "exit-address-family",
			"-c", "address-family ipv6 unicast", "-c", "no network 2001:db8:1::/48"}},
	},
	{
		// Its parts give up root for a user in an empty root directory, /run/openbgpd, which systemd would make.
		name: "openbgpd", binary: "unshare", root: true,
		files: map[string]string{"bgpd.conf": `
AS 64501
router-id 10.9.0.5
socket "{{.Dir}}/bgpd.sock"
listen on {{.Local}} port {{.Free}}
listen on ::1 port {{.Free}}
fib-update no
network 203.0.113.0/24 set nexthop 192.0.2.7
network 198.51.100.0/24 set nexthop 192.0.2.7
network 2001:db8:1::/48 set nexthop 2001:db8::7
{{define "peer"}}
	remote-as 64500
	multihop 2
	announce IPv4 unicast
	announce IPv6 unicast
	announce add-path send all
{{end}}
neighbor 127.0.0.1 {
{{template "peer"}}
	port {{.Port4}}
	local-address {{.Local}}
	tcp md5sig password "{{.Password}}"
}
neighbor ::1 {
{{template "peer"}}
	port {{.Port6}}
	local-address ::1
}
allow to any
match to any set nexthop no-modify
`},
		args: []string{"--mount", "sh", "-c", "mount -t tmpfs none /run && mkdir /run/openbgpd && exec bgpd -d -f {{.Dir}}/bgpd.conf"},
		withdraw: [][]string{
			{"bgpctl", "-s", "{{.Dir}}/bgpd.sock", "network", "delete", "203.0.113.0/24"},
			{"bgpctl", "-s", "{{.Dir}}/bgpd.sock", "network", "delete", "2001:db8:1::/48"},
		},
	},
}

// Real routers peer with us: they announce, withdraw, and go.
func TestDaemons(t *testing.T) {
	for _, d := range daemons {
		t.Run(d.name, func(t *testing.T) { d.test(t) })
	}
}

func (d *daemon) test(t *testing.T) {
	t.Parallel()
	if d.root && os.Getuid() != 0 {
		bgptest.Missing(t, d.name+" can only run as root")
	}
	for _, command := range append([][]string{{d.binary}}, slices.Concat(d.announce, d.withdraw)...) {
		if _, err := exec.LookPath(command[0]); err != nil {
			bgptest.Missing(t, fmt.Sprintf("%v: install the Debian package of %s", err, d.name))
		}
	}
	s := setting{Dir: t.TempDir(), Free: freePort(t), Password: "shared",
		Local: netip.AddrFrom4([4]byte{127, byte(1 + rand.N(250)), byte(rand.N(256)), byte(1 + rand.N(250))}).String()}
	c := configuration()
	c.Listen = []string{"127.0.0.1:0", "[::1]:0"}
	c.Neighbours = []Neighbour{{Address: s.Local, Name: "four", RemoteASN: 64501, Password: Password(s.Password)}, {Address: "::1", Name: "six", RemoteASN: 64501}}
	if d.ttl {
		c.Neighbours[1].TTLSecurity = 1
	}
	h := newHarness(t, c)
	h.listen()
	four, six, _ := strings.Cut(h.Status().Address, ", ")
	_, s.Port4, _ = net.SplitHostPort(four)
	_, s.Port6, _ = net.SplitHostPort(six)

	for name, text := range d.files {
		if err := os.WriteFile(filepath.Join(s.Dir, name), []byte(s.fill(t, text)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	running := d.start(t, s)
	eventually := func(t *testing.T, what string, ok func() bool) {
		t.Helper()
		eventually(t, what, func() bool {
			if err := running.Ended(); err != nil {
				t.Fatalf("%s ended by itself: %v", d.name, err)
			}
			return ok()
		})
	}
	for _, command := range d.announce {
		s.run(t, command)
	}

	peers := []ingest.Peer{
		{Collector: "four", Addr: netip.MustParseAddr(s.Local), ASN: 64501},
		{Collector: "six", Addr: netip.MustParseAddr("::1"), ASN: 64501},
	}
	table := newTable()
	eventually(t, "all routes of both sessions", func() bool {
		table.apply(t, h.seen())
		for _, p := range peers {
			r := table.routes[p]
			if len(r["203.0.113.0/24"]) != max(1, d.paths) || len(r["198.51.100.0/24"]) != 1 || len(r["2001:db8:1::/48"]) != 1 {
				return false
			}
		}
		return true
	})
	for _, p := range peers {
		if len(table.routes[p]) != 3 {
			t.Errorf("%v announces %v", p, table.routes[p])
		}
		for prefix, paths := range table.routes[p] {
			for id, a := range paths {
				hop := map[bool]string{false: "192.0.2.7", true: "2001:db8::7"}[strings.Contains(prefix, ":")]
				if a.ASPath.String() != "64501" || a.NextHop.String() != hop || a.Has&bgp.HasOrigin == 0 {
					t.Errorf("%v, %s: path %q, next hop %s", p, prefix, a.ASPath, a.NextHop)
				}
				if prefix == "203.0.113.0/24" && id == 0 {
					t.Errorf("%v, %s: no path identifier", p, prefix)
				}
			}
		}
	}
	eventually(t, "End-of-RIB of both families on both sessions", func() bool {
		for _, n := range h.Neighbours() {
			if n.EndOfRIB < 2 {
				return false
			}
		}
		return true
	})

	for _, command := range d.withdraw {
		s.run(t, command)
	}
	eventually(t, "the withdrawals", func() bool {
		table.apply(t, h.seen())
		for _, p := range peers {
			if r := table.routes[p]; len(r["203.0.113.0/24"])+len(r["2001:db8:1::/48"]) != 0 || len(r["198.51.100.0/24"]) != 1 {
				return false
			}
		}
		return true
	})
	for _, n := range h.Neighbours() {
		if len(n.Malformed) > 0 || n.Prefixes != 1 || n.Sessions["Established"] != 1 {
			t.Errorf("%+v", n)
		}
	}

	running.Stop()
	eventually(t, "the end of both sessions", func() bool {
		table.apply(t, h.seen())
		return !table.up[peers[0]] && !table.up[peers[1]]
	})
	for _, n := range h.Neighbours() {
		if n.Prefixes != 0 || n.Ended["notification_received"]+n.Ended["connection_lost"] == 0 {
			t.Errorf("%+v", n)
		}
		t.Logf("%s: %d messages of UPDATE, the end: %s", n.Name, n.Messages[bgp.TypeUpdate], n.LastError)
	}
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

func (s setting) command(t *testing.T, words []string) *exec.Cmd {
	filled := make([]string, len(words))
	for i, w := range words {
		filled[i] = s.fill(t, w)
	}
	c := exec.CommandContext(t.Context(), filled[0], filled[1:]...)
	c.Dir = s.Dir
	return c
}

// run runs a command until it succeeds: the daemon may not be ready for it yet.
func (s setting) run(t *testing.T, words []string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		c := s.command(t, words)
		out, err := c.CombinedOutput()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v: %v\n%s", c, err, out)
		}
	}
}

// start runs the daemon in the foreground until the test ends.
func (d *daemon) start(t *testing.T, s setting) *bgptest.Daemon {
	t.Helper()
	c := s.command(t, append([]string{d.binary}, d.args...))
	for _, e := range d.env {
		c.Env = append(c.Environ(), s.fill(t, e))
	}
	return bgptest.StartDaemon(t, c)
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// table is what the peers' updates amount to: for each prefix the attributes by path identifier.
type table struct {
	up     map[ingest.Peer]bool
	routes map[ingest.Peer]map[string]map[uint32]bgp.Attributes
}

func newTable() *table {
	return &table{map[ingest.Peer]bool{}, map[ingest.Peer]map[string]map[uint32]bgp.Attributes{}}
}

func (x *table) apply(t *testing.T, updates []ingest.Update) {
	t.Helper()
	for _, u := range updates {
		if x.up[u.Peer] == (u.Kind == ingest.PeerUp) {
			t.Fatalf("%s of %s, whose session is up: %v", fmt.Sprint(u.Kind), u.Peer, x.up[u.Peer])
		}
		switch u.Kind {
		case ingest.PeerUp, ingest.PeerDown:
			x.up[u.Peer] = u.Kind == ingest.PeerUp
			x.routes[u.Peer] = map[string]map[uint32]bgp.Attributes{}
		}
		for _, r := range u.Withdrawn {
			delete(x.routes[u.Peer][r.Prefix.String()], r.PathID)
		}
		for _, r := range u.Announced {
			paths := x.routes[u.Peer][r.Prefix.String()]
			if paths == nil {
				paths = map[uint32]bgp.Attributes{}
				x.routes[u.Peer][r.Prefix.String()] = paths
			}
			paths[r.PathID] = u.Attrs
		}
	}
}
