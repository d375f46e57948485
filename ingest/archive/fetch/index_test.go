package fetch

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNames(t *testing.T) {
	for name, want := range map[string]fileName{
		"updates.20240101.0005.gz":  {"updates.20240101.0005.gz", Updates, at("2024-01-01 00:05")},
		"bview.20010101.0609.gz":    {"bview.20010101.0609.gz", RIB, at("2001-01-01 06:09")},
		"rib.20240229.2200.bz2":     {"rib.20240229.2200.bz2", RIB, at("2024-02-29 22:00")},
		"updates.20240101.0015.zst": {"updates.20240101.0015.zst", Updates, at("2024-01-01 00:15")},
	} {
		if got, ok := parseName(name); !ok || got != want {
			t.Errorf("%s: %v, %t", name, got, ok)
		}
	}
	for _, name := range []string{"", "latest-bview.gz", "updates.20240230.0000.gz", "updates.20240101.2460.gz", "updates.20240101.0000.gz.part",
		"../updates.20240101.0000.gz", "x/updates.20240101.0000.gz", "updates.20240101.0000.gz\n", "updates.20240101.0000", "bview.20240101.0000.exe"} {
		if got, ok := parseName(name); ok {
			t.Errorf("%q: %v", name, got)
		}
	}
}

// Which files speak of a period, and of what no file speaks.
func TestPeriods(t *testing.T) {
	five := func(time.Time) time.Duration { return 5 * time.Minute }
	for _, row := range []struct {
		name, files, from, to, want, missing string
	}{
		{"exactly", "00:00 00:05 00:10", "00:00", "00:10", "00:00 00:05", ""},
		{"one inside of a file", "00:00 00:05 00:10", "00:06", "00:07", "00:05", ""},
		{"a minute before the next", "00:00 00:05 00:10", "00:04", "00:06", "00:00 00:05", ""},
		{"the last file is the newest", "00:00 00:05", "00:06", "00:10", "00:05", ""},
		{"not yet published", "00:00 00:05", "00:06", "00:20", "00:05", "00:10-00:20"},
		{"before the first", "00:05 00:10", "00:00", "00:12", "00:05 00:10", "00:00-00:05"},
		{"a file is missing", "00:00 00:05 00:15", "00:00", "00:20", "00:00 00:05 00:15", "00:10-00:15"},
		{"the period lies in a gap", "00:00 00:30", "00:10", "00:20", "", "00:10-00:20"},
		{"a file that goes on longer than usual", "00:00 00:09 00:14", "00:07", "00:10", "00:00 00:09", ""},
		{"a file that ends early", "00:00 00:03 00:08", "00:04", "00:05", "00:03", ""},
		{"nothing", "", "00:00", "00:05", "", "00:00-00:05"},
	} {
		var files []File
		for _, f := range strings.Fields(row.files) {
			files = append(files, File{Start: at("2024-01-01 " + f)})
		}
		from, to := at("2024-01-01 "+row.from), at("2024-01-01 "+row.to)
		var got, missing []string
		for _, f := range overlapping(files, five, from, to) {
			got = append(got, f.Start.Format("15:04"))
		}
		for _, g := range gaps(files, five, from, to) {
			missing = append(missing, g.from.Format("15:04")+"-"+g.to.Format("15:04"))
		}
		if strings.Join(got, " ") != row.want || strings.Join(missing, " ") != row.missing {
			t.Errorf("%s: files %q and gaps %q, want %q and %q", row.name, got, missing, row.want, row.missing)
		}
	}
}

// Before August 2003 RIS' files spanned a quarter of an hour, at odd times.
func TestOldRIS(t *testing.T) {
	a := newArchives(t)
	a.add("/ris/rrc00/2001.01/", "bview.20010131.1410.gz", "updates.20010131.2206.gz", "updates.20010131.2221.gz", "updates.20010131.2236.gz", "updates.20010131.2251.gz")
	cfg := a.configuration()
	cfg.Broker = ""
	c, log := logged(t, cfg)
	files, err := c.Plan(t.Context(), Request{Collectors: []string{"rrc00"}, From: at("2001-01-31 22:20"), To: at("2001-01-31 23:00"), Updates: true})
	if err != nil {
		t.Fatal(err)
	}
	base := a.host + "/ris/rrc00/2001.01/updates.20010131."
	if diff := cmp.Diff([]string{base + "2206.gz", base + "2221.gz", base + "2236.gz", base + "2251.gz"}, urls(files)); diff != "" || log.Len() != 0 {
		t.Errorf("-want +got:\n%s\nlog: %s", diff, log)
	}
}

// What the archive does not have is said.
func TestGapsAreTold(t *testing.T) {
	a := newArchives(t)
	a.add("/ris/rrc00/2024.01/", "updates.20240101.0000.gz", "updates.20240101.0015.gz")
	c, log := logged(t, a.configuration())
	if _, err := c.Plan(t.Context(), Request{Collectors: []string{"rrc00"}, From: at("2024-01-01 00:00"), To: at("2024-01-01 00:20"), Updates: true}); err != nil {
		t.Fatal(err)
	}
	if got := log.String(); !strings.Contains(got, "from=2024-01-01T00:05:00Z to=2024-01-01T00:15:00Z") || strings.Count(got, "\n") != 1 {
		t.Errorf("log: %s", got)
	}
	for kind, want := range map[Kind]string{RIB: "rrc77: there is no table dump in the 48 hours before 2024-01-01T00:00:00Z under " + a.host + "/ris/rrc77; is the name",
		Updates: "rrc77: there are no updates from 2024-01-01T00:00:00Z to 2024-01-01T00:20:00Z under " + a.host + "/ris/rrc77; is the name"} {
		_, err := c.Plan(t.Context(), Request{Collectors: []string{"rrc77"}, From: at("2024-01-01 00:00"), To: at("2024-01-01 00:20"), RIB: kind == RIB, Updates: kind == Updates})
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestListings(t *testing.T) {
	const address = "https://archive.test/rrc00/2024.01/"
	for _, row := range []struct{ page, want string }{
		{`<a href="updates.20240101.0000.gz">x</a>`, "updates.20240101.0000.gz"},
		{`<A HREF='updates.20240101.0000.gz'>`, "updates.20240101.0000.gz"},
		{`<a href=updates.20240101.0000.gz>`, "updates.20240101.0000.gz"},
		{`<a href="./updates.20240101.0000.gz">`, "updates.20240101.0000.gz"},
		{`<a href="/rrc00/2024.01/updates.20240101.0000.gz">`, "updates.20240101.0000.gz"},
		{`<a href="https://archive.test/rrc00/2024.01/updates.20240101.0000.gz">`, "updates.20240101.0000.gz"},
		{`<a href="bview.20240101.0000.gz"><a href="updates.20240101.0000.gz">`, "bview.20240101.0000.gz updates.20240101.0000.gz"},
		{`<a href="https://elsewhere.test/rrc00/2024.01/updates.20240101.0000.gz">`, ""},
		{`<a href="//elsewhere.test/rrc00/2024.01/updates.20240101.0000.gz">`, ""},
		{`<a href="../updates.20240101.0000.gz">`, ""},
		{`<a href="../../../../etc/updates.20240101.0000.gz">`, ""},
		{`<a href="..%2f..%2fupdates.20240101.0000.gz">`, ""},
		{`<a href="sub/updates.20240101.0000.gz">`, ""},
		{`<a href="updates.20240101.0000.gz/../../x">`, ""},
		{`<a href="updates.20240101.0000.gz%00">`, ""},
		{`<a href="updates.99999999.0000.gz">`, ""},
		{`<a href="%zz">`, ""},
		{`updates.20240101.0000.gz`, ""},
		{``, ""},
	} {
		var got []string
		for _, n := range parseListing([]byte(row.page), address) {
			got = append(got, n.name)
		}
		if strings.Join(got, " ") != row.want {
			t.Errorf("%s: %q, want %q", row.page, got, row.want)
		}
	}
}

// A listing of one month has no say over another one's files.
func TestListingOfAnotherMonth(t *testing.T) {
	a := newArchives(t)
	a.add("/ris/rrc00/2024.01/", "updates.20240131.2355.gz")
	a.add("/ris/rrc00/2024.02/", "updates.20240201.0000.gz")
	a.fault("/ris/rrc00/2024.01/", say(200, `<a href="updates.20240131.2355.gz"><a href="updates.20240201.0003.gz"><a href="updates.20240131.2355.bz2">`))
	cfg := a.configuration()
	cfg.Broker = ""
	files, err := newClient(t, cfg).Plan(t.Context(), Request{Collectors: []string{"rrc00"}, From: at("2024-01-31 23:55"), To: at("2024-02-01 00:05"), Updates: true})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{a.host + "/ris/rrc00/2024.01/updates.20240131.2355.gz", a.host + "/ris/rrc00/2024.02/updates.20240201.0000.gz"}, urls(files)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// endless writes without end, until the client has had enough.
func endless(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for {
			if _, err := io.WriteString(w, text); err != nil {
				return
			}
		}
	}
}

func TestEndlessListing(t *testing.T) {
	a := newArchives(t)
	r, _, _ := oneFile(a, 1<<10)
	a.fault("/ris/rrc00/2023.12/", endless(strings.Repeat(`<a href="updates.20231231.2355.gz">`, 1000)))
	cfg := a.configuration()
	cfg.Broker = ""
	_, err := newClient(t, cfg).Plan(t.Context(), r)
	if err == nil || !strings.Contains(err.Error(), "longer than 16777216 octets") {
		t.Errorf("error %v", err)
	}
}

func TestListingIsTriedAgain(t *testing.T) {
	a := newArchives(t)
	r, path, _ := oneFile(a, 1<<10)
	a.fault("/ris/rrc00/2024.01/", say(503, ""), cut([]byte(strings.Repeat("x", 1000)), 10))
	cfg := a.configuration()
	cfg.Broker = ""
	files, err := newClient(t, cfg).Plan(t.Context(), r)
	if err != nil || len(files) != 1 || files[0].URL != a.host+path {
		t.Errorf("%v, error %v", files, err)
	}
}

// Whatever the broker does, the archive's listing tells.
func TestBrokerDoesNotHelp(t *testing.T) {
	var elsewhere atomic.Int64
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { elsewhere.Add(1) }))
	defer evil.Close()
	page := func(items ...item) func(int, []item) any {
		return func(int, []item) any {
			return map[string]any{"page_size": 500, "error": nil, "data": items}
		}
	}
	name := func(collector, url string) item { return item{Collector: collector, Type: "updates", URL: url} }
	for _, row := range []struct {
		name   string
		fault  http.HandlerFunc
		answer func(page int, of []item) any
	}{
		{name: "is down", fault: say(http.StatusBadGateway, "")},
		{name: "is gone", fault: say(http.StatusNotFound, "")},
		{name: "hangs up", fault: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		{name: "redirects elsewhere", fault: say(http.StatusFound, "", "Location: "+evil.URL)},
		{name: "speaks HTML", fault: say(http.StatusOK, "<html>")},
		{name: "says nothing", fault: say(http.StatusOK, "")},
		{name: "does not stop", fault: endless(strings.Repeat(`{"data":[`, 1000))},
		{name: "reports an error", answer: func(int, []item) any { return map[string]any{"error": "database is locked"} }},
		{name: "knows nothing", answer: page()},
		{name: "gives more than was asked for", answer: page(make([]item, 501)...)},
		{name: "does not end", answer: func(int, []item) any { return map[string]any{"page_size": 1, "data": make([]item, 1)} }},
		{name: "speaks of another collector", answer: page(name("rrc01", "https://data.ris.ripe.net/rrc01/2024.01/updates.20240101.0000.gz"))},
		{name: "speaks of another time", answer: page(name("rrc00", "https://data.ris.ripe.net/rrc00/2024.01/updates.20240109.0000.gz"))},
		{name: "names no files", answer: page(name("rrc00", evil.URL+"/../../etc/passwd"), name("rrc00", "%zz"), name("rrc00", ""))},
		{name: "names what is not there", answer: page(name("rrc00", evil.URL+"/updates.20240101.0001.gz"))},
		{name: "sends elsewhere for a name that is right", answer: page(name("rrc00", evil.URL+"/rrc00/2024.01/updates.20240101.0000.gz"))},
	} {
		t.Run(row.name, func(t *testing.T) {
			a := newArchives(t)
			r, path, content := oneFile(a, 1<<10)
			if row.fault != nil {
				a.fault("/broker/search", row.fault)
			}
			a.broker = row.answer
			files, err := newClient(t, a.configuration()).Fetch(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if len(files) != 1 || files[0].URL != a.host+path {
				t.Fatalf("%v", files)
			}
			holds(t, files[0].Path, content)
			for _, p := range a.asked() {
				if strings.Contains(p, "passwd") || strings.Contains(p, "0109") {
					t.Errorf("asked for %s", p)
				}
			}
		})
	}
	if elsewhere.Load() != 0 {
		t.Error("another server was asked")
	}
}

// The broker's word is taken where it has no gaps, until a file turns out not to be there.
func TestBrokerNamesWhatIsNotThere(t *testing.T) {
	a := newArchives(t)
	r, path, content := oneFile(a, 1<<10)
	a.broker = func(int, []item) any {
		return map[string]any{"page_size": 500, "data": []item{{Collector: "rrc00", URL: strings.TrimSuffix(path, "gz") + "bz2"}}}
	}
	c, log := logged(t, a.configuration())
	files, err := c.Fetch(t.Context(), r)
	if err != nil || len(files) != 1 || files[0].URL != a.host+path {
		t.Fatalf("%v, error %v", files, err)
	}
	holds(t, files[0].Path, content)
	if !strings.Contains(log.String(), "the broker named files that are not there") {
		t.Errorf("log: %s", log)
	}
}

func TestBrokerPage(t *testing.T) {
	const one, two = `{"collector_id":"rrc00","url":"http://x/rrc00/updates.20240101.0000.gz"}`, `{"collector_id":"rrc01","url":"http://x/rrc00/updates.20240101.0005.gz"}`
	for _, row := range []struct {
		page  string
		names int
		last  bool
		err   string
	}{
		{`{"page_size":2,"data":[` + one + `]}`, 1, true, ""},
		{`{"page_size":2,"data":[` + one + `,` + one + `]}`, 2, false, ""},
		{`{"page_size":2,"data":[` + one + `,` + two + `]}`, 1, false, ""},
		{`{"page_size":1000,"data":[` + one + `,` + one + `,` + one + `]}`, 3, false, ""},
		{`{"data":[` + one + `,` + one + `]}`, 2, true, ""},
		{`{"data":[]}`, 0, true, ""},
		{`{"error":"busy","data":[` + one + `]}`, 0, false, `"busy"`},
		{`{"data":[` + one + `,` + one + `,` + one + `,` + one + `]}`, 0, false, "4 files where 3"},
		{`[]`, 0, false, "cannot unmarshal"},
		{``, 0, false, "unexpected end"},
	} {
		names, last, err := parseBroker([]byte(row.page), "rrc00", 3)
		if len(names) != row.names || last != row.last || (err == nil) != (row.err == "") || err != nil && !strings.Contains(err.Error(), row.err) {
			t.Errorf("%s: %v, %t, %v", row.page, names, last, err)
		}
	}
}

// Where the archive cannot be listed, the broker's word must do; and where a file is nowhere, that is said.
func TestOnlyTheBrokerKnows(t *testing.T) {
	a := newArchives(t)
	r, _, content := oneFile(a, 1<<10)
	r.To = at("2024-01-01 00:10") // of which there is one half
	a.fault("/ris/rrc00/2024.01/", slices.Repeat([]http.HandlerFunc{say(http.StatusForbidden, "")}, 4)...)
	a.fault("/ris/rrc00/2023.12/", slices.Repeat([]http.HandlerFunc{say(http.StatusForbidden, "")}, 4)...)
	c, log := logged(t, a.configuration())
	files, err := c.Fetch(t.Context(), r)
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, error %v", files, err)
	}
	holds(t, files[0].Path, content)
	if !strings.Contains(log.String(), "cannot be listed") || !strings.Contains(log.String(), "from=2024-01-01T00:05:00Z to=2024-01-01T00:10:00Z") {
		t.Errorf("log: %s", log)
	}

	b := newArchives(t)
	r, path, _ := oneFile(b, 1<<10)
	b.fault(path, say(http.StatusNotFound, ""), say(http.StatusNotFound, ""))
	if _, err := newClient(t, b.configuration()).Fetch(t.Context(), r); err == nil || !strings.Contains(err.Error(), path+": is not there: the server says 404") {
		t.Errorf("error %v", err)
	}
}

func FuzzListing(f *testing.F) {
	f.Add([]byte(`<pre><a href="updates.20240101.0000.gz">updates.20240101.0000.gz</a> 01-Jan-2024 00:05  12M`))
	f.Add([]byte(`<tr><td><a href='/rrc00/2024.01/bview.20240101.0000.gz'>x</a><a href=../../x><a href="https://x/updates.20240101.0000.gz">`))
	f.Fuzz(func(t *testing.T, page []byte) {
		for _, n := range parseListing(page, "https://archive.test/rrc00/2024.01/") {
			checkName(t, n)
		}
	})
}

func FuzzBroker(f *testing.F) {
	f.Add([]byte(`{"count":1,"page":1,"page_size":2,"error":null,"data":[{"ts_start":"2024-01-01T00:00:00","collector_id":"rrc00","data_type":"updates","url":"https://data.ris.ripe.net/rrc00/2024.01/updates.20240101.0000.gz","rough_size":1}]}`))
	f.Add([]byte(`{"error":"no","data":[]}`))
	f.Add([]byte(`{"page_size":-1,"data":[{"collector_id":"rrc00","url":"../bview.20240101.0000.gz"}]}`))
	f.Fuzz(func(t *testing.T, page []byte) {
		names, _, err := parseBroker(page, "rrc00", 500)
		if err != nil && names != nil || len(names) > 500 {
			t.Errorf("%d names, error %v", len(names), err)
		}
		for _, n := range names {
			checkName(t, n)
		}
	})
}

// checkName fails unless n is what becomes a part of a path and of a URL without danger.
func checkName(t *testing.T, n fileName) {
	word, ok := strings.CutSuffix(n.name, n.start.Format(".20060102.1504")+n.name[strings.LastIndex(n.name, "."):])
	if !ok || !slices.Contains([]string{"bview", "rib", "updates"}, word) || (word == "updates") != (n.kind == Updates) || len(n.name) > 30 {
		t.Errorf("%q", fmt.Sprint(n))
	}
}
