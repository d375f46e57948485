package whois

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/irr/whois/whoistest"
)

// server listens on loopback and follows the script. It returns its address and what it was asked.
func server(t *testing.T, s whoistest.Script) (string, func() []string) { return whoistest.Serve(t, s) }

type script = whoistest.Script

func data(text string) string { return whoistest.Data(text) }

func client(address string) Client {
	return Client{Address: address, Sources: []string{"RIPE", "RADB"}}
}

func open(t *testing.T, c Client) *Session {
	t.Helper()
	s, err := c.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

const sources = "!sRIPE,RADB"

func TestSession(t *testing.T) {
	address, asked := server(t, script{
		sources: "C\n",
		"!gAS1": data("192.0.2.0/24 198.51.100.0/24\n"), "!6AS1": data("2001:db8::/32\n"),
		"!gAS2": "C\n", "!6AS2": "D\n",
		"!iAS-X,1": data("AS2 AS1 AS2\n"), "!iAS-EMPTY,1": "C\n", "!iAS1:AS-Y,1": data("AS3\n"), "!iAS-ODD,1": data("AS1 AS-Y\n"),
		"!maut-num,AS1":    data("aut-num: AS1\nimport: from AS5 accept ANY\nsource: RIPE\n"),
		"!r192.0.2.0/24,L": data("route: 192.0.2.0/24\norigin: AS1\nsource: RADB\n\nroute: 192.0.0.0/16\norigin: AS2\nsource: RIPE\n"),
		"!iAS-BAD,1":       "F no such luck\n",
	})
	s := open(t, client(address))
	ps, err := s.Prefixes(1)
	if diff := cmp.Diff([]string{"192.0.2.0/24", "198.51.100.0/24", "2001:db8::/32"}, texts(ps)); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if ps, err := s.Prefixes(2); err != nil || len(ps) > 0 {
		t.Errorf("%v, %v", ps, err)
	}
	for _, c := range []struct {
		set   string
		want  []uint32
		found bool
	}{{"AS-X", []uint32{1, 2}, true}, {"RADB::AS1:AS-Y", []uint32{3}, true}, {"AS-EMPTY", nil, true}, {"AS-NONE", nil, false}} {
		if m, found, err := s.ASSet(c.set); err != nil || found != c.found || !slices.Equal(m, c.want) {
			t.Errorf("%s: %v, %v, %v", c.set, m, found, err)
		}
	}
	if m, _, err := s.ASSet("AS-ODD"); err == nil {
		t.Errorf("members that are no ASes: %v", m)
	}
	var refused *ServerError
	if _, _, err := s.ASSet("AS-BAD"); !errors.As(err, &refused) || refused.Message != "F no such luck" {
		t.Errorf("error %v", err)
	}
	// An error of the server's is not the end.
	p := netip.MustParsePrefix("192.0.2.0/24")
	b := irr.NewBuilder(nil)
	if err := s.Covering(p, b.Add); err != nil {
		t.Fatal(err)
	}
	if a := b.Build().Check(p, 2); a.State != irr.Registered || a.Exact || a.Routes[0].Source != "RIPE" {
		t.Errorf("%+v", a)
	}
	if err := s.Covering(netip.MustParsePrefix("10.0.0.1/8"), nil); err != nil {
		t.Error(err)
	}
	b = irr.NewBuilder(nil)
	if err := s.AutNum(1, b.Add); err != nil {
		t.Fatal(err)
	}
	if a := b.Build().AutNum(1); a == nil || !slices.Equal(a.Providers, []uint32{5}) {
		t.Errorf("%+v", a)
	}
	if err := s.AutNum(2, nil); err != nil {
		t.Error(err)
	}
	want := []string{"!!", sources, "!gAS1", "!6AS1", "!gAS2", "!6AS2", "!iAS-X,1", "!iAS1:AS-Y,1", "!iAS-EMPTY,1", "!iAS-NONE,1",
		"!iAS-ODD,1", "!iAS-BAD,1", "!r192.0.2.0/24,L", "!r10.0.0.0/8,L", "!maut-num,AS1", "!maut-num,AS2"}
	if diff := cmp.Diff(want, asked()); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
}

func texts(ps []netip.Prefix) []string {
	var list []string
	for _, p := range ps {
		list = append(list, p.String())
	}
	return list
}

func TestOpen(t *testing.T) {
	refusing, _ := server(t, script{sources: "F One or more selected sources are unavailable.\n"})
	if _, err := client(refusing).Open(t.Context()); err == nil || !strings.Contains(err.Error(), "unavailable") {
		t.Errorf("error %v", err)
	}
	c := client(refusing)
	for _, bad := range [][]string{{""}, {"RIPE\n!q"}, {"A,B"}} {
		c.Sources = bad
		if _, err := c.Open(t.Context()); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
	// Without sources the server's own are asked.
	plain, asked := server(t, script{"!nroutevigil": "C\n"})
	c.Address, c.Sources = plain, nil
	if s := open(t, c); s != nil && !slices.Equal(asked(), []string{"!!", "!nroutevigil"}) {
		t.Errorf("asked %q", asked())
	}
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = nobody.Close()
	if _, err := client(nobody.Addr().String()).Open(t.Context()); err == nil {
		t.Error("no error where nobody listens")
	}
}

// A name must not smuggle in another query.
func TestNames(t *testing.T) {
	address, asked := server(t, script{sources: "C\n"})
	s := open(t, client(address))
	for _, name := range []string{"", "AS-X\n!gAS1", "AS-X,1", "AS X", "AS-Ü"} {
		if _, _, err := s.ASSet(name); err == nil {
			t.Errorf("%q: no error", name)
		}
	}
	if a := asked(); len(a) != 2 {
		t.Errorf("asked %q", a)
	}
}

// A server that breaks the protocol ends the session, at a bounded cost.
func TestBadAnswers(t *testing.T) {
	for name, c := range map[string]struct{ answer, want string }{
		"closed":               {"close", "unexpected EOF"},
		"a page":               {"HTTP/1.1 400 Bad Request\r\n", "unexpected answer"},
		"no number":            {"Ax\n", "unexpected answer"},
		"a negative number":    {"A-1\n", "unexpected answer"},
		"too much":             {fmt.Sprintf("A%d\n", MaxAnswer+1), "more than"},
		"more than an integer": {"A99999999999999999999\n", "unexpected answer"},
		"cut":                  {"A10\nAS1\nclose", "unexpected EOF"},
		"no end":               {"A4\nAS1\nclose", "unexpected EOF"},
		"more than announced":  {"A4\nAS1\nAS2\nC\n", "follows the data"},
		"an endless line":      {strings.Repeat("x", 2*maxLine), "a line longer"},
	} {
		t.Run(name, func(t *testing.T) {
			address, _ := server(t, script{sources: "C\n", "!iAS-X,1": c.answer})
			s := open(t, client(address))
			_, _, err := s.ASSet("AS-X")
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), address) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if _, _, again := s.ASSet("AS-Y"); again == nil || again.Error() != err.Error() {
				t.Errorf("the session goes on: %v", again)
			}
		})
	}
	address, _ := server(t, script{sources: "C\n", "!gAS1": data("192.0.2.0/24 x\n")})
	if ps, err := open(t, client(address)).Prefixes(1); err == nil {
		t.Errorf("%v", ps)
	}
}

func TestSilence(t *testing.T) {
	address, _ := server(t, script{sources: "C\n", "!iAS-X,1": "silence"})
	c := client(address)
	s := open(t, c)
	s.timeout = 10 * time.Millisecond
	var timeout net.Error
	if _, _, err := s.ASSet("AS-X"); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s, err := c.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	cancel()
	if _, _, err := s.ASSet("AS-X"); err == nil {
		t.Error("no error after the end of the context")
	}
}

// replies is a connection on which everything was said before it was asked.
type replies struct {
	net.Conn
	text io.Reader
}

func (r replies) Read(b []byte) (int, error)  { return r.text.Read(b) }
func (r replies) Write(b []byte) (int, error) { return len(b), nil }
func (r replies) SetDeadline(time.Time) error { return nil }
func (r replies) Close() error                { return nil }

func FuzzAnswers(f *testing.F) {
	f.Add("C\n" + data("192.0.2.0/24\n") + "D\n" + data("AS1 AS-Y\n") + data("route: 192.0.2.0/24\norigin: AS1\nsource: RADB\n"))
	f.Add("F no\nA3\nxyC\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := begin(t.Context(), replies{text: strings.NewReader(text)}, client("fuzz"), time.Minute)
		if err != nil {
			return
		}
		_, _ = s.Prefixes(1)
		if m, found, err := s.ASSet("AS-X"); len(m) > 0 && (!found || err != nil) {
			t.Errorf("%v, %v, %v", m, found, err)
		}
		_ = s.Covering(netip.MustParsePrefix("192.0.2.0/24"), irr.NewBuilder(nil).Add)
		_ = s.Close()
	})
}
