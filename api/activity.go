package api

import (
	"context"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/routevigil/routevigil/store"
)

// activityInput selects what is counted.
type activityInput struct {
	From      timeParam   `query:"from" required:"true" doc:"Where the first bucket begins, at the latest (RFC 3339): it is widened to whole buckets."`
	To        timeParam   `query:"to" required:"true" doc:"Where the last bucket ends, at the earliest (RFC 3339)."`
	Bucket    bucketParam `query:"bucket" doc:"How long a bucket is: 1h (the default), 5m, 24h. At most 1000 of them may fit between from and to. Buckets begin at multiples of this since 1970."`
	Prefix    prefixParam `query:"prefix" doc:"Only routes of this prefix; see match."`
	Match     store.Match `query:"match" enum:"exact,covered,covering" doc:"How prefix is meant: itself only (the default), itself and its more-specifics, or itself and what covers it."`
	Origin    asnParam    `query:"origin" doc:"Only routes that this AS originates."`
	PeerASN   asnParam    `query:"peer_asn" doc:"Only what peers of this AS said."`
	Collector string      `query:"collector" maxLength:"100" doc:"Only what this collector heard, such as rrc00."`
	By        string      `query:"by" enum:"origin" doc:"A series for each origin instead of one of all."`
	Limit     int         `query:"limit" minimum:"1" maximum:"100" default:"10" doc:"With by: how many series at most, those with the most announcements."`

	query store.ActivityQuery
}

func (in *activityInput) Resolve(huma.Context) []error {
	errs := period(in.From, in.To)
	if in.Match != "" && !in.Prefix.value.IsValid() {
		errs = append(errs, fault("query.match", in.Match, "says how prefix is meant, and there is no prefix; add one or leave match out"))
	}
	if in.Bucket.value == 0 {
		in.Bucket.value = time.Hour
	}
	in.query = store.ActivityQuery{Prefix: in.Prefix.value, Match: in.Match, OriginASN: in.Origin.value, PeerASN: in.PeerASN.value, Collector: in.Collector,
		From: in.From.value, To: in.To.value, Bucket: in.Bucket.value}
	in.query.From, in.query.To = in.query.Whole()
	if in.By != "" {
		in.query.Origins = in.Limit
	}
	if n := in.query.To.Sub(in.query.From) / in.Bucket.value; n > store.MaxBuckets && !in.From.value.IsZero() {
		errs = append(errs, fault("query.bucket", in.Bucket.value.String(), "gives %d buckets, more than %d; make it longer, or bring from and to nearer", n, store.MaxBuckets))
	}
	return errs
}

// ActivityAnswer is how much was said.
type ActivityAnswer struct {
	From   time.Time        `json:"from" doc:"Where the first bucket begins."`
	To     time.Time        `json:"to" doc:"Where the last bucket ends."`
	Bucket int              `json:"bucket_seconds"`
	Series []store.Activity `json:"series" doc:"One, or with by=origin one for each origin, those with the most announcements first."`
}

func (s *Server) getActivity(ctx context.Context, in *activityInput) (ActivityAnswer, error) {
	end, err := s.search(ctx)
	if err != nil {
		return ActivityAnswer{}, err
	}
	defer end()
	q := in.query
	a := ActivityAnswer{From: q.From, To: q.To, Bucket: int(q.Bucket / time.Second)}
	a.Series, err = s.dependencies.Store.Activity(ctx, q)
	list(&a.Series)
	for i := range a.Series {
		list(&a.Series[i].Buckets)
	}
	return a, err
}
