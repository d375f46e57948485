package nrtm

import (
	"bufio"
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
)

const patience = 30 * time.Second

// answer makes a client whose server answers any request with a text, and then closes the
// connection or (hang) stays silent. asked gets the request.
func answer(t *testing.T, text string, hang bool, asked *string) V3 {
	t.Helper()
	return V3{Source: "TEST", Address: "irr.example:43", Idle: patience, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			line, err := bufio.NewReader(server).ReadString('\n')
			if asked != nil {
				*asked = line
			}
			if err == nil {
				_, err = io.WriteString(server, text)
			}
			if err == nil && hang {
				_, _ = server.Read(make([]byte, 1)) // until the client goes
			}
		}()
		return client, nil
	}}
}

const changes = `%START Version: 3 TEST 11-20

ADD 11

route: 192.0.2.0/24
origin: AS1
source: TEST

ADD 13

route: 198.51.100.0/24
descr: continued
+
       here
origin: AS2
source: test

DEL 14

route: 192.0.2.0/24
origin: AS1
source: TEST

ADD 17

route: 203.0.113.0/24
origin: AS3
source: RIPE

ADD 18

person: X
source: TEST

%END TEST
`

func registered(d *irr.Database) []string {
	var list []string
	for _, p := range []string{"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"} {
		for _, r := range d.Check(netip.MustParsePrefix(p), 0).Routes {
			list = append(list, fmt.Sprintf("%s AS%d %s", r.Prefix, r.Origin, r.Source))
		}
	}
	return list
}

func TestV3(t *testing.T) {
	for name, text := range map[string]string{"LF": changes, "CRLF": strings.ReplaceAll(changes, "\n", "\r\n"),
		"a banner": "% RIPE Database\n% terms\n\n" + changes, "filtered": strings.Replace(changes, "11-20", "11-20 FILTERED", 1)} {
		t.Run(name, func(t *testing.T) {
			var asked string
			b := irr.NewBuilder(nil)
			serial, counts, err := answer(t, text, true, &asked).Update(t.Context(), 10, b)
			if err != nil || serial != 20 || asked != "-g TEST:3:11-LAST\n" {
				t.Errorf("serial %d, error %v, asked %q", serial, err, asked)
			}
			if diff := cmp.Diff(Counts{2, 1, map[string]int{WrongSource: 1}}, counts); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got := registered(b.Build()); !slices.Equal(got, []string{"198.51.100.0/24 AS2 TEST"}) {
				t.Errorf("%v", got)
			}
		})
	}
}

// Wherever the connection breaks, what was handed on is whole, and the next update goes on from there
// to the same end.
func TestV3Resumes(t *testing.T) {
	for cut := range len(changes) - 1 {
		b := irr.NewBuilder(nil)
		serial, _, err := answer(t, changes[:cut], false, nil).Update(t.Context(), 10, b)
		if err == nil {
			t.Fatalf("cut after %d bytes: no error", cut)
		}
		// The rest, as the server would send it.
		rest := "%START Version: 3 TEST " + fmt.Sprint(serial+1) + "-20\n\n"
		for _, n := range []uint64{11, 13, 14, 17, 18} {
			if n > serial {
				i := strings.Index(changes, fmt.Sprintf("ADD %d\n", n))
				if i < 0 {
					i = strings.Index(changes, fmt.Sprintf("DEL %d\n", n))
				}
				rest += changes[i:]
				break
			}
		}
		if !strings.Contains(rest, "%END") {
			rest += "%END TEST\n"
		}
		serial, _, err = answer(t, rest, false, nil).Update(t.Context(), serial, b)
		if err != nil || serial != 20 {
			t.Fatalf("cut after %d bytes: serial %d, error %v", cut, serial, err)
		}
		if got := registered(b.Build()); !slices.Equal(got, []string{"198.51.100.0/24 AS2 TEST"}) {
			t.Fatalf("cut after %d bytes: %v", cut, got)
		}
	}
}

func TestV3NothingNew(t *testing.T) {
	for _, text := range []string{
		"% Warning: there are no newer updates available\n",
		"% No updates available since 10\n",
		"% Warning: there are no updates available\n",
		"%ERROR:401: invalid range: Not within 5-10\n",
		"%START Version: 3 TEST 11-10\n\n%END TEST\n",
	} {
		if serial, c, err := answer(t, text, false, nil).Update(t.Context(), 10, irr.NewBuilder(nil)); err != nil || serial != 10 || c.Added+c.Removed > 0 {
			t.Errorf("%q: serial %d, %+v, error %v", text, serial, c, err)
		}
	}
}

func TestV3Gap(t *testing.T) {
	for text, want := range map[string]GapError{
		"%ERROR:401: invalid range: Not within 50-90\n":                      {"TEST", 11, 50, 90, "401: invalid range: Not within 50-90"},
		"% ERROR: Serials 11 - 90 do not exist\n":                            {"TEST", 11, 11, 90, "Serials 11 - 90 do not exist"},
		"%% ERROR: Requesting serials older than 14 days will be rejected\n": {"TEST", 11, 0, 0, "Requesting serials older than 14 days will be rejected"},
		"%START Version: 3 TEST 50-90\n\nADD 50\n\nroute: 10.0.0.0/8\n":      {"TEST", 11, 50, 90, "it starts with 50"},
	} {
		b := irr.NewBuilder(nil)
		serial, _, err := answer(t, text, false, nil).Update(t.Context(), 10, b)
		var gap *GapError
		if !errors.As(err, &gap) || *gap != want || serial != 10 {
			t.Errorf("%q: serial %d, error %#v", text, serial, err)
		}
	}
}

func TestV3Refuses(t *testing.T) {
	object := "\nroute: 192.0.2.0/24\norigin: AS9\nsource: TEST\n\n"
	start := "%START Version: 3 TEST 11-20\n\n"
	for name, c := range map[string]struct {
		text, want string
		serial     uint64
	}{
		"access denied":       {"%ERROR:402: not authorised to mirror the database\n", "the server says: 402: not authorised", 10},
		"another registry":    {"%START Version: 3 RIPE 11-20\n", "sends RIPE", 10},
		"version 1":           {"%START Version: 1 TEST 11-20\n", "speaks version 1", 10},
		"no start":            {"ADD 11\n" + object, "unexpected line", 10},
		"no serials":          {start + "ADD\n" + object, "unexpected line", 10},
		"a page":              {"HTTP/1.1 400 Bad Request\r\n\r\n", "unexpected line", 10},
		"nothing":             {"", "unexpected EOF", 10},
		"backwards":           {start + "ADD 12\n" + object + "ADD 11\n" + object, "serial 11 follows serial 12", 12},
		"twice":               {start + "ADD 12\n" + object + "ADD 12\n" + object, "serial 12 follows serial 12", 12},
		"beyond":              {start + "ADD 21\n" + object, "beyond the announced 20", 10},
		"no object":           {start + "ADD 11\n\nADD 12\n" + object, `serial 11: "ADD 12" stands`, 10},
		"no object at end":    {start + "ADD 11\n\n%END TEST\n", `serial 11: "%END TEST" stands`, 10},
		"no end of an object": {start + "ADD 11\n\nroute: 10.0.0.0/8\nDEL 12\n" + object, `serial 11: "DEL 12" stands`, 10},
		"error in the middle": {start + "ADD 11\n" + object + "%ERROR:500: oh dear\n", "oh dear", 11},
		"a huge number":       {start + "ADD 99999999999999999999\n" + object, "beyond", 10},
		"a huge range":        {"%START Version: 3 TEST 11-99999999999999999999\n", "sends serials", 10},
	} {
		t.Run(name, func(t *testing.T) {
			serial, _, err := answer(t, c.text, false, nil).Update(t.Context(), 10, irr.NewBuilder(nil))
			var gap *GapError
			if err == nil || errors.As(err, &gap) || !strings.Contains(err.Error(), c.want) || serial != c.serial {
				t.Errorf("serial %d, error %v", serial, err)
			}
		})
	}
}

func TestV3LongLine(t *testing.T) {
	text := "%START Version: 3 TEST 11-20\n\nADD 11\n\nremarks: " + strings.Repeat("x", 9<<20)
	if _, _, err := answer(t, text, false, nil).Update(t.Context(), 10, irr.NewBuilder(nil)); err == nil || !strings.Contains(err.Error(), "a line longer") {
		t.Errorf("error %v", err)
	}
	text = "%START Version: 3 TEST 11-20\n\nADD 11\n\n" + strings.Repeat("remarks: "+strings.Repeat("x", 1<<20)+"\n", 9)
	if _, _, err := answer(t, text, false, nil).Update(t.Context(), 10, irr.NewBuilder(nil)); err == nil || !strings.Contains(err.Error(), "an object longer") {
		t.Errorf("error %v", err)
	}
}

// A silent server costs no more than Idle, and cancelling ends the wait at once.
func TestV3Silence(t *testing.T) {
	c := answer(t, "%START Version: 3 TEST 11-20\n", true, nil)
	c.Idle = 20 * time.Millisecond
	var timeout net.Error
	if _, _, err := c.Update(t.Context(), 10, irr.NewBuilder(nil)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c = answer(t, "%START Version: 3 TEST 11-20\n", true, nil)
	dial := c.Dial
	c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		return cancelling{conn, cancel}, err
	}
	if _, _, err := c.Update(ctx, 10, irr.NewBuilder(nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// cancelling calls cancel once something was read.
type cancelling struct {
	net.Conn
	cancel func()
}

func (c cancelling) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.cancel()
	return n, err
}

func FuzzV3(f *testing.F) {
	f.Add(changes)
	f.Add("%ERROR:401: invalid range: Not within 50-90\n")
	f.Fuzz(func(t *testing.T, text string) {
		b := irr.NewBuilder(nil)
		serial, _, err := answer(t, text, false, nil).Update(t.Context(), 10, b)
		if serial < 10 || err == nil && !strings.Contains(text, "%") {
			t.Errorf("serial %d, error %v", serial, err)
		}
		if s := b.Build().Sources(); len(s) > 1 || len(s) == 1 && s[0] != "TEST" {
			t.Errorf("objects of %v", s)
		}
	})
}
