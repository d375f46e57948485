package storetest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
)

// testActivity compares with what counting row by row gives, over history of some days.
func testActivity(t *testing.T, h Harness) {
	r := newRand(t, 40)
	s := h.Open(t)
	day := func(n int) time.Time { return start.Time().Add(time.Duration(n) * 24 * time.Hour) }
	whole := store.ActivityQuery{From: day(-1), To: day(10), Bucket: 24 * time.Hour}
	same(t, "an empty store's activity", must[[]store.Activity](t)(s.Activity(t.Context(), whole)), []store.Activity{{}})
	byOrigin := whole
	byOrigin.Origins = 10
	same(t, "an empty store's activity by origin", must[[]store.Activity](t)(s.Activity(t.Context(), byOrigin)), []store.Activity(nil))

	batches := history(r, 120)
	for i, b := range batches { // an hour from one to the next, a day back in every tenth
		for j := range b.Updates {
			b.Updates[j].Time = b.Updates[j].Time.Add(time.Duration(i) * time.Hour)
			if i%10 == 3 {
				b.Updates[j].Time = b.Updates[j].Time.Add(-24 * time.Hour)
			}
		}
	}
	all := rows(batches)
	check := func(what string) {
		t.Helper()
		found := 0
		for _, q := range append(activityQueries(r, all, 60), whole, byOrigin) {
			want := activity(all, q)
			same(t, fmt.Sprintf("%s: %+v", what, q), must[[]store.Activity](t)(s.Activity(t.Context(), q)), want)
			if len(want) > 0 && len(want[0].Buckets) > 0 {
				found++
			}
		}
		if found < 30 {
			t.Fatalf("only %d queries find anything: the test tests little", found)
		}
	}
	appendAll(t, s, batches, 1)
	check("unsealed")
	for _, p := range []uint64{40, 41, 100} {
		no(t, s.SaveCheckpoint(t.Context(), p, nil))
		h.Seal(t, s)
		check(fmt.Sprintf("sealed up to %d", p))
	}
	s = h.Reopen(t, s)
	check("sealed in part, reopened")
	no(t, s.SaveCheckpoint(t.Context(), 120, nil))
	h.Seal(t, s)
	check("sealed")

	for what, change := range map[string]func(*store.ActivityQuery){
		"no beginning":         func(q *store.ActivityQuery) { q.From = time.Time{} },
		"no end":               func(q *store.ActivityQuery) { q.To = time.Time{} },
		"the wrong way round":  func(q *store.ActivityQuery) { q.From, q.To = q.To, q.From },
		"no bucket":            func(q *store.ActivityQuery) { q.Bucket = 0 },
		"half seconds":         func(q *store.ActivityQuery) { q.Bucket = 90 * time.Minute; q.Bucket += time.Second / 2 },
		"too many buckets":     func(q *store.ActivityQuery) { q.Bucket = time.Second },
		"a match there is not": func(q *store.ActivityQuery) { q.Prefix, q.Match = prefixes[1], "like" },
	} {
		q := whole
		change(&q)
		if a, err := s.Activity(t.Context(), q); err == nil {
			t.Errorf("%s: answered %v", what, a)
		}
	}
}

func activityQueries(r *rand.Rand, all []store.Route, n int) (list []store.ActivityQuery) {
	for range n {
		sample := all[r.IntN(len(all))]
		q := store.ActivityQuery{Bucket: []time.Duration{time.Second, 5 * time.Minute, 90 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour}[r.IntN(6)]}
		q.From = sample.Time.Add(-q.Bucket * time.Duration(r.IntN(20)))
		q.To = q.From.Add(q.Bucket*time.Duration(20+r.IntN(200)) + time.Duration(r.IntN(1e9)))
		if r.IntN(3) == 0 {
			q.Prefix = sample.Prefix
			q.Match = []store.Match{"", store.Exact, store.Covered, store.Covering}[r.IntN(4)]
		}
		for _, set := range []func(){
			func() { q.OriginASN = sample.OriginASN },
			func() { q.PeerASN = sample.PeerASN },
			func() { q.Collector = sample.Collector },
		} {
			if r.IntN(5) == 0 {
				set()
			}
		}
		if r.IntN(2) == 0 {
			q.Origins = 1 + r.IntN(8)
		}
		list = append(list, q)
	}
	return list
}

// activity is the model's answer.
func activity(all []store.Route, q store.ActivityQuery) []store.Activity {
	counts := map[uint32]map[time.Time]store.Count{}
	if q.Origins == 0 {
		counts[0] = nil
	}
	from, to := q.From.Truncate(q.Bucket), q.To.Truncate(q.Bucket)
	if to.Before(q.To) {
		to = to.Add(q.Bucket)
	}
	for _, r := range all {
		origin := r.OriginASN
		if !matches(r, store.UpdateQuery{Prefix: q.Prefix, Match: q.Match, OriginASN: q.OriginASN, PeerASN: q.PeerASN, Collector: q.Collector, From: from, To: to}) ||
			q.Origins > 0 && origin == 0 {
			continue
		}
		if q.Origins == 0 {
			origin = 0
		}
		if counts[origin] == nil {
			counts[origin] = map[time.Time]store.Count{}
		}
		at := ingest.TimeOf(r.Time.Truncate(q.Bucket)).Time()
		n := counts[origin][at]
		switch r.Action {
		case store.Announce:
			n.Announcements++
		case store.Withdraw:
			n.Withdrawals++
		case store.RIB:
			n.RIB++
		default:
			continue
		}
		counts[origin][at] = n
	}
	var list []store.Activity
	for origin, buckets := range counts {
		a := store.Activity{OriginASN: origin}
		for at, n := range buckets {
			a.Buckets = append(a.Buckets, store.Bucket{Time: at, Count: n})
			a.Announcements, a.Withdrawals, a.RIB = a.Announcements+n.Announcements, a.Withdrawals+n.Withdrawals, a.RIB+n.RIB
		}
		slices.SortFunc(a.Buckets, func(a, b store.Bucket) int { return a.Time.Compare(b.Time) })
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b store.Activity) int {
		return cmp.Or(cmp.Compare(b.Announcements, a.Announcements), cmp.Compare(b.RIB, a.RIB), cmp.Compare(a.OriginASN, b.OriginASN))
	})
	if q.Origins > 0 && len(list) > q.Origins {
		list = list[:q.Origins]
	}
	return list
}
