package fetch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/routevigil/routevigil/ingest/download"
)

// An archive is what one project keeps of one collector.
type archive struct {
	project, collector string
	base               string                              // URL, without a slash at the end
	folders            [2]string                           // below the month, by Kind
	interval           func(start time.Time) time.Duration // that a file of updates spans
}

var risName = regexp.MustCompile(`^rrc[0-9]{2}$`)

const maxInterval = 15 * time.Minute

// RIS went from files of a quarter of an hour to files of five minutes on one of the last days of July
// 2003. To take one for longer than it is costs at most a file too many.
var fiveMinutesSince = time.Date(2003, 8, 1, 0, 0, 0, 0, time.UTC)

func (c *Client) archiveOf(collector string) archive {
	if risName.MatchString(collector) {
		return archive{"ris", collector, c.config.RIS + "/" + collector, [2]string{"", ""}, func(start time.Time) time.Duration {
			if start.Before(fiveMinutesSince) {
				return maxInterval
			}
			return 5 * time.Minute
		}}
	}
	base := c.config.RouteViews + "/" + collector + "/bgpdata"
	if collector == "route-views2" { // the first one, when nobody thought of a second
		base = c.config.RouteViews + "/bgpdata"
	}
	return archive{"routeviews", collector, base, [2]string{"/RIBS", "/UPDATES"}, func(time.Time) time.Duration { return maxInterval }}
}

const monthLayout = "2006.01"

// fileName is a name that files of the archives have.
type fileName struct {
	name  string
	kind  Kind
	start time.Time
}

var nameFormat = regexp.MustCompile(`^(bview|rib|updates)\.([0-9]{8}\.[0-9]{4})\.(gz|bz2|zst)$`)

func parseName(name string) (fileName, bool) {
	m := nameFormat.FindStringSubmatch(name)
	if m == nil {
		return fileName{}, false
	}
	start, err := time.Parse("20060102.1504", m[2])
	if err != nil {
		return fileName{}, false
	}
	n := fileName{name, RIB, start}
	if m[1] == "updates" {
		n.kind = Updates
	}
	return n, true
}

// index returns the files of one kind whose names speak of a time from from up to, not including, to; in the
// order of time, one for each. It asks the broker first, and the archive itself if that fails or the
// answer is not enough.
func (c *Client) index(ctx context.Context, a archive, kind Kind, from, to time.Time, enough func([]File) bool) ([]File, error) {
	var files []File
	var brokerError error
	byBroker := c.config.Broker != "" && !c.distrust
	if byBroker {
		var names []fileName
		if names, brokerError = c.askBroker(ctx, a, kind, from, to); brokerError == nil {
			if files = c.files(a, names, kind, from, to); enough(files) {
				return files, nil
			}
		} else if ctx.Err() == nil {
			c.log.Warn("the broker does not help; the archive's listing is read instead", "collector", a.collector, "error", brokerError)
		}
	}
	names, err := c.list(ctx, a, kind, from, to)
	if err == nil {
		return c.files(a, names, kind, from, to), nil
	}
	if byBroker && brokerError == nil && len(files) > 0 && ctx.Err() == nil {
		c.log.Warn("the archive cannot be listed; what the broker knows has gaps", "collector", a.collector, "error", err)
		return files, nil
	}
	return nil, err
}

// files makes of names what index returns.
func (c *Client) files(a archive, names []fileName, kind Kind, from, to time.Time) []File {
	var files []File
	for _, n := range names {
		if n.kind != kind || n.start.Before(from) || !n.start.Before(to) {
			continue
		}
		files = append(files, File{
			Collector: a.collector, Kind: kind, Start: n.start,
			URL:  a.base + "/" + n.start.Format(monthLayout) + a.folders[kind] + "/" + n.name,
			Path: c.path(a.project, a.collector, n),
		})
	}
	slices.SortStableFunc(files, func(x, y File) int { return x.Start.Compare(y.Start) })
	return slices.CompactFunc(files, func(x, y File) bool { return x.Start.Equal(y.Start) })
}

// ends tells until when files[i], updates in the order of time, speaks: up to the next one if that is as
// near as it should be or a little late, otherwise for the usual time.
func ends(files []File, i int, interval func(time.Time) time.Duration) time.Time {
	usual := interval(files[i].Start)
	if i+1 < len(files) && files[i+1].Start.Sub(files[i].Start) < 2*usual {
		return files[i+1].Start
	}
	return files[i].Start.Add(usual)
}

// overlapping returns the files with updates in [from, to), and sets when each ends.
func overlapping(files []File, interval func(time.Time) time.Duration, from, to time.Time) (wanted []File) {
	for i, f := range files {
		if f.End = ends(files, i, interval); f.Start.Before(to) && f.End.After(from) {
			wanted = append(wanted, f)
		}
	}
	return wanted
}

type period struct{ from, to time.Time }

// gaps returns the parts of [from, to) of which no file speaks.
func gaps(files []File, interval func(time.Time) time.Duration, from, to time.Time) (missing []period) {
	known := from
	for i, f := range files {
		if !f.Start.Before(to) {
			break
		}
		if f.Start.After(known) {
			missing = append(missing, period{known, f.Start})
		}
		if end := ends(files, i, interval); end.After(known) {
			known = end
		}
	}
	if known.Before(to) {
		missing = append(missing, period{known, to})
	}
	return missing
}

// Bounds of what an index may say. A month of RIS' files is a listing of 1.3 MB.
const (
	maxListing     = 16 << 20 // octets
	maxBrokerPage  = 2 << 20  // octets
	brokerPage     = 500
	maxBrokerPages = int(maxPeriod/(5*time.Minute))/brokerPage + 10
)

// askBroker returns the names of files that bgpkit-broker knows of, in no order. It is asked once:
// there is another way.
func (c *Client) askBroker(ctx context.Context, a archive, kind Kind, from, to time.Time) ([]fileName, error) {
	query := url.Values{
		"collector_id": {a.collector}, "data_type": {map[Kind]string{RIB: "rib", Updates: "updates"}[kind]},
		"ts_start": {strconv.FormatInt(from.Unix(), 10)}, "ts_end": {strconv.FormatInt(to.Unix(), 10)},
		"page_size": {strconv.Itoa(brokerPage)},
	}
	var names []fileName
	for page := 1; page <= maxBrokerPages; page++ {
		query.Set("page", strconv.Itoa(page))
		body, err := c.small(ctx, c.config.Broker+"/search?"+query.Encode(), maxBrokerPage)
		if err != nil {
			return nil, err
		}
		more, last, err := parseBroker(body, a.collector, brokerPage)
		if err != nil {
			return nil, fmt.Errorf("the broker's answer: %w", err)
		}
		names = append(names, more...)
		if last {
			return names, nil
		}
	}
	return nil, fmt.Errorf("the broker's answer does not end after %d pages", maxBrokerPages)
}

// parseBroker reads one page of a search for files of one collector. Of what an item says only the
// file's name is used; items that make no sense are left out. last: there are no more pages.
func parseBroker(body []byte, collector string, asked int) (names []fileName, last bool, err error) {
	var page struct {
		PageSize int     `json:"page_size"`
		Error    *string `json:"error"`
		Data     []struct {
			Collector string `json:"collector_id"`
			URL       string `json:"url"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return nil, false, err
	}
	if page.Error != nil && *page.Error != "" {
		return nil, false, fmt.Errorf("%.200q", *page.Error)
	}
	if len(page.Data) > asked {
		return nil, false, fmt.Errorf("%d files where %d were asked for", len(page.Data), asked)
	}
	for _, item := range page.Data {
		u, err := url.Parse(item.URL)
		if err != nil || item.Collector != collector {
			continue
		}
		if n, ok := parseName(path.Base(u.Path)); ok {
			names = append(names, n)
		}
	}
	if page.PageSize > 0 && page.PageSize < asked {
		asked = page.PageSize // it gives less at once than it was asked for
	}
	return names, len(page.Data) < asked, nil
}

// list returns the names of files in the archive's own listings of the months from from to to.
func (c *Client) list(ctx context.Context, a archive, kind Kind, from, to time.Time) ([]fileName, error) {
	var names []fileName
	for month := time.Date(from.Year(), from.Month(), 1, 0, 0, 0, 0, time.UTC); month.Before(to); month = month.AddDate(0, 1, 0) {
		address := a.base + "/" + month.Format(monthLayout) + a.folders[kind] + "/"
		listed, known := c.listings[address]
		if !known {
			var body []byte
			err := c.web.Retry(ctx, address, func() (err error) {
				body, err = c.small(ctx, address, maxListing)
				return err
			})
			if err != nil && !errors.Is(err, download.ErrNotThere) { // there may be no such month
				return nil, fmt.Errorf("%s: %w", address, err)
			}
			listed = parseListing(body, address)
			c.listings[address] = listed
		}
		for _, n := range listed {
			if n.start.Year() == month.Year() && n.start.Month() == month.Month() {
				names = append(names, n)
			}
		}
	}
	return names, nil
}

var href = regexp.MustCompile(`(?i)\bhref\s*=\s*["']?([^"'\s>]{1,1000})`)

// parseListing returns the names of files that a listing as Apache and nginx make them links to and that
// lie in the folder at address itself.
func parseListing(body []byte, address string) (names []fileName) {
	folder, err := url.Parse(address)
	if err != nil {
		return nil
	}
	for _, m := range href.FindAllSubmatch(body, -1) {
		link, err := folder.Parse(string(m[1]))
		if err != nil || link.Host != folder.Host {
			continue
		}
		name, inside := strings.CutPrefix(link.Path, folder.Path)
		if n, ok := parseName(name); inside && ok {
			names = append(names, n)
		}
	}
	return names
}

// small gets a page of at most limit octets into memory.
func (c *Client) small(ctx context.Context, address string, limit int64) ([]byte, error) {
	r, err := c.web.Get(ctx, address, nil)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return nil, download.Unexpected(r)
	}
	var body bytes.Buffer
	n, err := io.Copy(&body, io.LimitReader(r.Body, limit+1))
	if err != nil {
		return nil, &download.Temporary{Err: err}
	}
	if n > limit {
		return nil, fmt.Errorf("the answer is longer than %d octets, which no true one is", limit)
	}
	return body.Bytes(), nil
}
