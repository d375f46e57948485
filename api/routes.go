package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/refresh"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/asof"
)

const (
	recentIncidents = 20 // told with a prefix
	// maxSearches bounds the searches of the history under way: each may read all of it, and
	// detection in the same process must not starve. Further ones wait their turn.
	maxSearches = 4
)

// page is one page of a list.
type page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty" doc:"Pass it on to get the next page; absent on the last one."`
}

// response is what huma takes an answer's body from.
type response[T any] struct{ Body T }

// get declares a route that answers with JSON.
func get[I, O any](s *Server, path, id, summary, description string, h func(context.Context, *I) (O, error)) {
	op := huma.Operation{Method: http.MethodGet, Path: path, OperationID: id, Summary: summary, Description: description}
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*response[O], error) {
		out, err := h(ctx, in)
		if err != nil {
			return nil, s.problemOf(ctx, id, err)
		}
		return &response[O]{Body: out}, nil
	})
}

// register declares every route. The server's mux is complete when it returns.
func (s *Server) register() {
	registry := huma.NewMapRegistry("#/components/schemas/", schemaName)
	config := huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title:   "routevigil",
				Version: "1",
				Description: "BGP route leaks and hijacks: incidents, the routes behind them, and the health of the feeds and of what routes are compared with. " +
					"Times are RFC 3339 in UTC. Errors are problems (RFC 9457). Lists are paged with cursors.",
				License: &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"},
			},
			Components: &huma.Components{Schemas: registry},
		},
		Formats:       map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat},
		DefaultFormat: "application/json",
	}
	config.AllowAdditionalPropertiesByDefault = true // clients must expect fields that come later
	s.api = huma.NewAPI(config, adapter{s})
	s.api.UseMiddleware(s.checkQuery)

	get(s, "/api/v1/incidents", "list-incidents", "List incidents",
		"The most recently changed first. An incident that changes while you page moves to the front, where the first page shows it.", s.listIncidents)
	get(s, "/api/v1/incidents/{id}", "get-incident", "One incident as it stands", "", s.getIncident)
	get(s, "/api/v1/incidents/{id}/events", "list-incident-events", "Every change of one incident", "The oldest first.", s.listIncidentEvents)
	get(s, "/api/v1/incidents/{id}/deliveries", "list-incident-deliveries", "Who was told of one incident",
		"One entry for each message to each receiver, with the receiver's answer; the oldest first.", s.listIncidentDeliveries)
	get(s, "/api/v1/prefixes/{prefix}", "get-prefix", "Who announces a prefix now",
		"Its origins, since when, seen by how many, their RPKI state, what covers it, and its recent incidents. "+
			"The prefix is written with its slash, /api/v1/prefixes/192.0.2.0/24, or with %2F. "+
			"An address without a length stands for the longest announced prefix that contains it, or for its host prefix where nothing does; "+
			"the prefix of the answer says which.", s.getPrefix)
	get(s, "/api/v1/explain", "explain-route", "The verdict upon a route with its whole ledger, also when nothing is wrong",
		"As if several peers had just announced it to the running detector, which it leaves as it was: why there is an incident, or why there is none. "+
			"While the detector learns what is normal there is no verdict, and explanation says so.", s.explain)
	get(s, "/api/v1/validate", "validate-route", "What the RPKI and, with irr=true, the routing registries say of a route, now or at a past moment",
		"Route origin validation (RFC 6811) of a prefix and an origin or, with as_path, of the path's origin, and then also the path itself by ASPA. "+
			"What was in use is recorded whenever it changes: at answers with what this service knew then.", s.validate)
	get(s, "/api/v1/rpki/changes", "list-rpki-changes", "How the RPKI has changed", "What was added to and removed from the VRPs and ASPAs in use, local exceptions included; the newest first. "+
		"Data that is held back, as when a trust anchor loses suspiciously much, is not in use: that it was is told (held_back), and its changes with the time at which it is believed after all; "+
		"until then /api/v1/sources says so. "+
		"A page can hold fewer than limit, or nothing, and still have a next one: it reads a part of the record and no more.", s.listRPKIChanges)
	get(s, "/api/v1/rpki/expiring", "list-rpki-expiring", "Which VRPs end soon unless they are renewed",
		"Of the VRPs in use, as far as their source says when they end. One that is not renewed makes its routes unknown, or invalid where another VRP covers them.", s.listRPKIExpiring)
	get(s, "/api/v1/updates", "list-updates", "Search the history of routes", "The newest first.", s.listUpdates)
	get(s, "/api/v1/activity", "get-activity", "How much was said, by time",
		"Counts of announcements, withdrawals and rows of tables in each bucket of time, for charts; with by=origin a series for each of the origins with the most announcements. "+
			"Buckets of whole hours are quick to count where neither a prefix nor a peer nor a collector is asked for; else rows are read, of all of the time where no prefix is given. "+
			"A withdrawal names no origin: where origins are asked for, none is counted.", s.getActivity)
	get(s, "/api/v1/state", "get-state", "The routes that there were at a past moment",
		"What each peer had last announced of a prefix, or of what it covers or is covered by, and had neither withdrawn nor lost with its session. "+
			"A peer's table is all of 0.0.0.0/0 or ::/0 with match=covered and peer_ip; where history is large that takes too long, and is to be asked for in parts, such as by /8. "+
			"What was announced before since, and not again until at, is not known. What happened at the moment itself has happened.", s.getState)
	get(s, "/api/v1/feeds", "list-feeds", "The health of every feed", "", s.listFeeds)
	get(s, "/api/v1/feeds/{feed}/malformed", "list-malformed", "The last malformed messages of a feed",
		"As they came, to find out what is wrong with a router or with us: at most 32 for each feed, of BGP sessions for each neighbour; the oldest first. "+
			"They are kept in memory only.", s.listMalformed)
	get(s, "/api/v1/watches", "list-watches", "What the operator watches, and what is found now",
		"In the order of the configuration. What a watch does not name is listed be it new or not: an incident opens of what is new, and of origins, lengths and paths that it forbids.", s.listWatches)
	get(s, "/api/v1/sources", "list-sources", "How fresh is what routes are compared with", "", s.listSources)
	get(s, "/api/v1/status", "get-status", "The service as a whole", "", s.getStatus)
	s.registerStream()
	get(s, "/healthz", "get-liveness", "Is the process alive", "200 whenever it can answer.",
		func(context.Context, *struct{}) (Liveness, error) { return Liveness{Status: "alive"}, nil })
	s.registerReadiness()
	s.registerMetrics()
	s.registerDocument()

	s.mux.Handle("/api/", s.instrument("unmatched", limited, http.HandlerFunc(s.unmatched)))
	if s.dependencies.Web != nil {
		s.mux.Handle("/", s.instrument("web", limited, s.dependencies.Web))
	} else {
		s.mux.Handle("/", s.instrument("unmatched", limited, http.HandlerFunc(s.unmatched)))
	}
}

// adapter lets huma register its operations on the server's mux.
type adapter struct{ s *Server }

func (a adapter) Handle(op *huma.Operation, handler func(huma.Context)) {
	kind := limited
	if op.OperationID == streamOperation {
		kind = unlimited
	}
	a.s.handle(op.Path, kind, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		handler(humago.NewContext(op, r, w))
	}))
}

func (a adapter) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.s.mux.ServeHTTP(w, r) }

// handle adds a GET route of the API, which the OpenAPI document must describe. A path parameter
// is one segment, except that a prefix keeps its slash.
func (s *Server) handle(path string, k kind, h http.Handler) {
	s.routes = append(s.routes, path)
	s.mux.Handle("GET "+strings.Replace(path, "{prefix}", "{prefix...}", 1), s.instrument(path, k, h))
}

// schemaName names a type in the OpenAPI document; the ones that it singles out would clash or say
// nothing outside their package.
func schemaName(t reflect.Type, hint string) string {
	switch t {
	case reflect.TypeFor[ingest.Status]():
		return "Feed"
	case reflect.TypeFor[refresh.Status]():
		return "Source"
	case reflect.TypeFor[page[refresh.Status]]():
		return "PageSource"
	case reflect.TypeFor[incident.Prefix]():
		return "IncidentPrefix"
	case reflect.TypeFor[irr.Route]():
		return "RouteObject"
	}
	return huma.DefaultSchemaNamer(t, hint)
}

// checkQuery refuses parameters that the operation does not have, and repeated ones where only one
// would be heard.
func (s *Server) checkQuery(ctx huma.Context, next func(huma.Context)) {
	u := ctx.URL()
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		huma.WriteErr(s.api, ctx, http.StatusBadRequest, fmt.Sprintf("The query cannot be read: %v; escape special characters with %%.", err))
		return
	}
	var known []string
	repeatable := map[string]bool{}
	for _, p := range ctx.Operation().Parameters {
		if p.In == "query" {
			known = append(known, p.Name)
			repeatable[p.Name] = p.Explode != nil && *p.Explode
		}
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if !slices.Contains(known, name) {
			hint := "this resource takes none"
			if len(known) > 0 {
				hint = "known are " + strings.Join(known, ", ")
			}
			errs = append(errs, fault("query."+name, nil, "unknown parameter; %s", hint))
		} else if len(query[name]) > 1 && !repeatable[name] {
			errs = append(errs, fault("query."+name, query[name], "given %d times; give it once", len(query[name])))
		}
	}
	if errs != nil {
		huma.WriteErr(s.api, ctx, http.StatusBadRequest, "", errs...)
		return
	}
	next(ctx)
}

// incidentsInput selects incidents.
type incidentsInput struct {
	Status      incident.Status   `query:"status" enum:"open,ended" doc:"Only those that are open, or that have ended."`
	Kind        []string          `query:"kind,explode" doc:"Only these kinds; repeat the parameter or separate them with commas." example:"origin_hijack,subprefix_hijack"`
	MinSeverity incident.Severity `query:"min_severity" enum:"info,low,medium,high,critical" doc:"Only those at least this severe."`
	ASN         asnParam          `query:"asn" doc:"Only those in which this AS is offender, accomplice or victim, such as AS64500 or 64500."`
	Prefix      prefixParam       `query:"prefix" doc:"Only those that affect this prefix, a part of it, or what covers it."`
	From        timeParam         `query:"from" doc:"Only those active at or after this time (RFC 3339)."`
	To          timeParam         `query:"to" doc:"Only those active before this time (RFC 3339)."`
	Limit       int               `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"How many at most."`
	Cursor      incidentCursor    `query:"cursor" doc:"The next of the previous page, unchanged."`

	kinds []incident.Kind
}

func (in *incidentsInput) Resolve(huma.Context) []error {
	errs := period(in.From, in.To)
	for _, names := range in.Kind {
		for name := range strings.SplitSeq(names, ",") {
			if k := incident.Kind(name); slices.Contains(incident.Kinds, k) {
				in.kinds = append(in.kinds, k)
			} else {
				errs = append(errs, fault("query.kind", name, "unknown kind; known are %s", joined(incident.Kinds)))
			}
		}
	}
	return errs
}

func joined[T ~string](names []T) string {
	s := make([]string, len(names))
	for i, n := range names {
		s[i] = string(n)
	}
	return strings.Join(s, ", ")
}

func (s *Server) listIncidents(ctx context.Context, in *incidentsInput) (page[incident.Incident], error) {
	items, err := s.dependencies.Store.Incidents(ctx, store.IncidentQuery{
		Status: in.Status, Kinds: in.kinds, MinSeverity: in.MinSeverity, ASN: in.ASN.value, Prefix: in.Prefix.value,
		From: in.From.value, To: in.To.value, Before: in.Cursor.before, Limit: in.Limit + 1,
	})
	for i := range items {
		complete(&items[i])
	}
	return paged(items, in.Limit, func(last incident.Incident) string { return incidentCursor{last.Sequence}.String() }), err
}

// complete makes every list of an incident encode as a list: the interface promises no null.
func complete(i *incident.Incident) {
	list(&i.Offenders)
	list(&i.Accomplices)
	list(&i.Victims)
	list(&i.Prefixes)
	for p := range i.Prefixes {
		list(&i.Prefixes[p].ExpectedOrigins)
		list(&i.Prefixes[p].ObservedOrigins)
	}
	list(&i.Paths)
	list(&i.UsualPaths)
	list(&i.Evidence)
	list(&i.Degraded)
	list(&i.Watches)
}

func list[T any](s *[]T) {
	if *s == nil {
		*s = []T{}
	}
}

// paged makes a page of limit items out of up to one more, which only tells that there is a next page.
func paged[T any](items []T, limit int, cursor func(last T) string) page[T] {
	p := page[T]{Items: items}
	if len(items) > limit {
		p.Items = items[:limit]
		p.Next = cursor(items[limit-1])
	}
	list(&p.Items)
	return p
}

type incidentInput struct {
	ID string `path:"id" maxLength:"100" doc:"The incident's id." example:"inc_7Q2M5ZJ3XW4VNTGA"`
}

func (s *Server) getIncident(ctx context.Context, in *incidentInput) (incident.Incident, error) {
	found, err := s.dependencies.Store.Incident(ctx, in.ID)
	if errors.Is(err, store.ErrNotFound) {
		err = problemf(http.StatusNotFound, "There is no incident %q; /api/v1/incidents lists those there are.", in.ID)
	}
	complete(&found)
	return found, err
}

type incidentEventsInput struct {
	ID    string `path:"id" maxLength:"100" doc:"The incident's id." example:"inc_7Q2M5ZJ3XW4VNTGA"`
	After uint64 `query:"after" doc:"Only events with a higher sequence; the next of the previous page."`
	Limit int    `query:"limit" minimum:"1" maximum:"500" default:"100" doc:"How many at most."`
}

func (s *Server) listIncidentEvents(ctx context.Context, in *incidentEventsInput) (page[incident.Event], error) {
	if _, err := s.getIncident(ctx, &incidentInput{in.ID}); err != nil {
		return page[incident.Event]{}, err
	}
	items, err := s.dependencies.Store.Events(ctx, in.ID, in.After, in.Limit+1)
	for i := range items {
		complete(&items[i].Incident)
	}
	return paged(items, in.Limit, func(last incident.Event) string { return strconv.FormatUint(last.Sequence, 10) }), err
}

func (s *Server) listIncidentDeliveries(ctx context.Context, in *incidentInput) (page[store.Delivery], error) {
	if _, err := s.getIncident(ctx, in); err != nil {
		return page[store.Delivery]{}, err
	}
	items, err := s.dependencies.Store.Deliveries(ctx, in.ID)
	return paged(items, len(items), nil), err
}

type prefixInput struct {
	Prefix prefixParam `path:"prefix" doc:"A prefix such as 192.0.2.0/24, or an address."`
}

// PrefixAnswer is the state of a prefix with what happened to it.
type PrefixAnswer struct {
	detect.PrefixState
	Incidents []incident.Incident `json:"incidents" doc:"The most recently changed incidents that affect it, a part of it, or what covers it; at most 20."`
}

func (s *Server) getPrefix(ctx context.Context, in *prefixInput) (PrefixAnswer, error) {
	var a PrefixAnswer
	if s.dependencies.Table == nil {
		return a, problemf(http.StatusServiceUnavailable, "This process holds no routing table; ask the one that detects.")
	}
	state, err := s.dependencies.Table.Prefix(ctx, in.Prefix.value)
	if err == nil && in.Prefix.host && len(state.Origins) == 0 && len(state.Covering) > 0 {
		state, err = s.dependencies.Table.Prefix(ctx, state.Covering[0])
	}
	if err != nil {
		return a, err
	}
	incidents, err := s.dependencies.Store.Incidents(ctx, store.IncidentQuery{Prefix: state.Prefix, Limit: recentIncidents})
	list(&state.Covering)
	state.Origins = append([]detect.OriginState{}, state.Origins...)
	for i := range state.Origins {
		list(&state.Origins[i].Paths)
	}
	list(&incidents)
	for i := range incidents {
		complete(&incidents[i])
	}
	return PrefixAnswer{PrefixState: state, Incidents: incidents}, err
}

// updatesInput selects routes.
type updatesInput struct {
	Prefix    prefixParam  `query:"prefix" doc:"Only routes of this prefix; see match."`
	Match     store.Match  `query:"match" enum:"exact,covered,covering" doc:"How prefix is meant: itself only (the default), itself and its more-specifics, or itself and what covers it."`
	Origin    asnParam     `query:"origin" doc:"Only routes that this AS originates."`
	ASOnPath  asnParam     `query:"as_on_path" doc:"Only routes with this AS anywhere on their path."`
	PeerASN   asnParam     `query:"peer_asn" doc:"Only what peers of this AS said."`
	PeerIP    addrParam    `query:"peer_ip" doc:"Only what the peer of this address said."`
	Collector string       `query:"collector" maxLength:"100" doc:"Only what this collector heard, such as rrc00."`
	Type      store.Action `query:"type" enum:"announce,withdraw,rib,peer_up,peer_down" doc:"Only this type."`
	From      timeParam    `query:"from" doc:"Only at or after this time (RFC 3339)."`
	To        timeParam    `query:"to" doc:"Only before this time (RFC 3339)."`
	Limit     int          `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"How many at most."`
	Cursor    updateCursor `query:"cursor" doc:"The next of the previous page, unchanged."`
}

func (in *updatesInput) Resolve(huma.Context) []error {
	errs := period(in.From, in.To)
	if in.Match != "" && !in.Prefix.value.IsValid() {
		errs = append(errs, fault("query.match", in.Match, "says how prefix is meant, and there is no prefix; add one or leave match out"))
	}
	return errs
}

// search waits until a search may begin. The caller must call end after it.
func (s *Server) search(ctx context.Context) (end func(), err error) {
	select {
	case s.searches <- struct{}{}:
		return func() { <-s.searches }, nil
	case <-ctx.Done():
		return nil, problemf(http.StatusServiceUnavailable, "%d searches are under way, as many as may be; try again later.", maxSearches)
	}
}

func (s *Server) listUpdates(ctx context.Context, in *updatesInput) (page[store.Route], error) {
	end, err := s.search(ctx)
	if err != nil {
		return page[store.Route]{}, err
	}
	defer end()
	var items []store.Route
	for r, err := range s.dependencies.Store.Updates(ctx, store.UpdateQuery{
		Prefix: in.Prefix.value, Match: in.Match, OriginASN: in.Origin.value, ASOnPath: in.ASOnPath.value, PeerASN: in.PeerASN.value,
		PeerIP: in.PeerIP.value, Collector: in.Collector, Action: in.Type, From: in.From.value, To: in.To.value, Limit: in.Limit + 1, After: in.Cursor.after,
	}) {
		if err != nil {
			return page[store.Route]{}, err
		}
		items = append(items, r)
	}
	return paged(items, in.Limit, func(last store.Route) string { return updateCursor{last.Cursor}.String() }), nil
}

// stateInput selects routes of a past moment.
type stateInput struct {
	Prefix    prefixParam `query:"prefix" required:"true" doc:"Routes of this prefix; see match."`
	Match     store.Match `query:"match" enum:"exact,covered,covering" doc:"How prefix is meant: itself only (the default), itself and its more-specifics, or itself and what covers it."`
	At        timeParam   `query:"at" required:"true" doc:"The moment (RFC 3339)."`
	PeerASN   asnParam    `query:"peer_asn" doc:"Only of peers of this AS."`
	PeerIP    addrParam   `query:"peer_ip" doc:"Only of the peer of this address."`
	Collector string      `query:"collector" maxLength:"100" doc:"Only of peers of this collector, such as rrc00."`
	Limit     int         `query:"limit" minimum:"1" maximum:"100000" default:"1000" doc:"How many at most."`
}

// StateAnswer is what peers held at a past moment.
type StateAnswer struct {
	At     time.Time     `json:"at"`
	Since  time.Time     `json:"since" doc:"From when on history was read, exact to some seconds. What was announced before it, and not again until at, is not known."`
	Whole  bool          `json:"whole" doc:"All that is kept was read: since is where history begins. When false there was more of it than one answer may read; ask for fewer prefixes or for one peer."`
	Total  int           `json:"total" doc:"How many routes there were; items are the first of them."`
	Routes []store.Route `json:"items" doc:"By prefix, then by peer, each as it was announced last."`
}

func (s *Server) getState(ctx context.Context, in *stateInput) (StateAnswer, error) {
	end, err := s.search(ctx)
	if err != nil {
		return StateAnswer{}, err
	}
	defer end()
	state, err := asof.Routes(ctx, s.dependencies.Store, asof.Query{Prefix: in.Prefix.value, Match: in.Match, PeerASN: in.PeerASN.value, PeerIP: in.PeerIP.value,
		Collector: in.Collector, At: in.At.value})
	switch {
	case errors.Is(err, asof.ErrUnknown):
		return StateAnswer{}, problemf(http.StatusNotFound, "No update is kept from before %s; /api/v1/status says how far back the history of routes goes.", in.At.value.Format(time.RFC3339))
	case errors.Is(err, asof.ErrTooMany):
		return StateAnswer{}, problemf(http.StatusBadRequest, "That are too many routes for one answer; ask for a longer prefix, or for one peer with peer_ip.")
	case err != nil:
		return StateAnswer{}, err
	}
	a := StateAnswer{At: in.At.value, Since: state.Since, Whole: state.Whole, Total: len(state.Routes), Routes: state.Routes[:min(in.Limit, len(state.Routes))]}
	list(&a.Routes)
	return a, nil
}

func (s *Server) listFeeds(context.Context, *struct{}) (page[ingest.Status], error) {
	var items []ingest.Status
	if s.dependencies.Feeds != nil {
		items = s.dependencies.Feeds()
	}
	return paged(items, len(items), nil), nil
}

type feedInput struct {
	Feed string `path:"feed" maxLength:"100" doc:"The feed's name." example:"ris-live"`
}

func (s *Server) listMalformed(_ context.Context, in *feedInput) (page[ingest.Sample], error) {
	var items []ingest.Sample
	known := false
	if s.dependencies.Samples != nil {
		items, known = s.dependencies.Samples(in.Feed)
	}
	if !known {
		return page[ingest.Sample]{}, problemf(http.StatusNotFound, "There is no feed %q; /api/v1/feeds lists those there are.", in.Feed)
	}
	return paged(items, len(items), nil), nil
}

func (s *Server) listSources(context.Context, *struct{}) (page[refresh.Status], error) {
	var items []refresh.Status
	if s.dependencies.Sources != nil {
		items = s.dependencies.Sources()
	}
	return paged(items, len(items), nil), nil
}

// ServiceStatus tells how the service stands.
type ServiceStatus struct {
	Version      string      `json:"version"`
	StartedAt    time.Time   `json:"started_at"`
	Mode         Mode        `json:"mode" enum:"live,demo"`
	Ready        bool        `json:"ready" doc:"Detection has caught up with the feeds."`
	Reasons      []string    `json:"reasons" doc:"Why it is not ready, or what is wrong all the same, in plain sentences."`
	EventTime    time.Time   `json:"event_time,omitzero" doc:"How far detection has come; absent before the first update."`
	DelaySeconds float64     `json:"delay_seconds,omitempty" doc:"How long the last mark of the self-check took from the bus until all before it was judged, or has waited for that. Absent where there was none."`
	Store        store.Stats `json:"store" doc:"How much the store holds."`
	Counts       Counts      `json:"counts"`
}

// Counts of incidents.
type Counts struct {
	OpenIncidents int                       `json:"open_incidents"`
	BySeverity    map[incident.Severity]int `json:"by_severity" doc:"Open incidents by severity; every severity is there."`
}

func (s *Server) getStatus(ctx context.Context, _ *struct{}) (ServiceStatus, error) {
	h := s.dependencies.Health()
	stats, err := s.dependencies.Store.Stats(ctx)
	return ServiceStatus{
		Version: s.dependencies.Version, StartedAt: s.started,
		Mode: h.Mode, Ready: h.Ready, Reasons: append([]string{}, h.Reasons...), EventTime: h.EventTime, DelaySeconds: h.Delay.Seconds(),
		Store: stats, Counts: s.tail.counts(),
	}, err
}

// Liveness is the answer of /healthz.
type Liveness struct {
	Status string `json:"status" enum:"alive"`
}

// Readiness is the answer of /readyz.
type Readiness struct {
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons" doc:"Why it is not ready, or what is wrong all the same, in plain sentences."`
}

type readinessOutput struct {
	Status int
	Body   Readiness
}

func (s *Server) registerReadiness() {
	op := huma.Operation{Method: http.MethodGet, Path: "/readyz", OperationID: "get-readiness", Summary: "Are its verdicts current",
		Description: "200 when detection has caught up with the feeds, 503 when it has not."}
	answer := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Readiness](), true, "")
	op.Responses = map[string]*huma.Response{"503": {Description: "Not ready",
		Content: map[string]*huma.MediaType{"application/json": {Schema: answer}}}}
	huma.Register(s.api, op, func(context.Context, *struct{}) (*readinessOutput, error) {
		h := s.dependencies.Health()
		out := &readinessOutput{Status: http.StatusOK, Body: Readiness{Ready: h.Ready, Reasons: append([]string{}, h.Reasons...)}}
		if !h.Ready {
			out.Status = http.StatusServiceUnavailable
		}
		return out, nil
	})
}

// document adds an operation that huma does not serve to the OpenAPI document.
func (s *Server) document(path, id, summary, mediaType string) {
	s.api.OpenAPI().AddOperation(&huma.Operation{
		Method: http.MethodGet, Path: path, OperationID: id, Summary: summary,
		Responses: map[string]*huma.Response{"200": {Description: "OK",
			Content: map[string]*huma.MediaType{mediaType: {Schema: &huma.Schema{}}}}},
	})
}

func (s *Server) registerMetrics() {
	if s.dependencies.Gatherer == nil {
		return
	}
	s.document("/metrics", "get-metrics", "Metrics for Prometheus", "text/plain")
	// Compression is the wrapper's matter.
	s.handle("/metrics", limited, promhttp.HandlerFor(s.dependencies.Gatherer, promhttp.HandlerOpts{DisableCompression: true}))
}

// registerDocument comes last: the document is encoded here, once.
func (s *Server) registerDocument() {
	const path = "/api/openapi.json"
	s.document(path, "get-openapi", "This document", "application/json")
	describe(s.api.OpenAPI().Components.Schemas)
	text, err := json.MarshalIndent(s.api.OpenAPI(), "", "  ")
	if err != nil {
		panic(fmt.Sprintf("api: the OpenAPI document cannot be encoded: %v", err)) // a fault of the declarations above
	}
	s.handle(path, limited, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write(text)
	}))
}

// describe adds to the schemas what the types of other packages cannot say about themselves.
func describe(r huma.Registry) {
	enum := func(schema, property string, values ...any) {
		r.Map()[schema].Properties[property].Enum = values
	}
	enum("Incident", "kind", anys(incident.Kinds)...)
	enum("RPKIChange", "what", changeOfVRP, changeOfASPA, changeOfAll)
	enum("RPKIChange", "change", "added", "removed", "changed", "held_back")
	enum("Explanation", "kind", append(anys(incident.Kinds), nil)...)
	enum("Incident", "severity", anys(incident.Severities)...)
	enum("Incident", "status", incident.Open, incident.Ended)
	enum("Event", "change", anys(changes)...)
	enum("Delivery", "state", store.Pending, store.Delivered, store.Expired)
	enum("Route", "type", store.Announce, store.Withdraw, store.RIB, store.PeerUp, store.PeerDown)
	enum("Feed", "state", ingest.Connecting, ingest.Connected, ingest.Stalled, ingest.Lagging, ingest.Done)
	for schema, properties := range map[string][]string{"Explanation": {"leak"}, "Registry": {"prefix", "origin"}} {
		for _, p := range properties {
			of := r.Map()[schema].Properties
			of[p] = &huma.Schema{OneOf: []*huma.Schema{of[p], {Type: "null"}}}
		}
	}
	for _, schema := range r.Map() {
		widen(schema)
	}
}

// widen corrects the format of uint32: AS numbers use all 32 bits, which int32 has not.
func widen(s *huma.Schema) {
	if s == nil {
		return
	}
	if s.Format == "int32" && s.Minimum != nil {
		s.Format = "int64"
	}
	widen(s.Items)
	for _, p := range s.Properties {
		widen(p)
	}
}

func anys[T any](values []T) []any {
	out := make([]any, len(values))
	for i, v := range values {
		out[i] = v
	}
	return out
}

// unmatched answers for paths that nobody serves and methods that nobody takes.
func (s *Server) unmatched(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		probe := r.Clone(r.Context())
		probe.Method = http.MethodGet
		if _, pattern := s.mux.Handler(probe); strings.HasPrefix(pattern, "GET ") {
			w.Header().Set("Allow", "GET, HEAD")
			writeProblem(w, problemf(http.StatusMethodNotAllowed, "%s cannot be done here: the API only reads; use GET.", r.Method))
			return
		}
	}
	writeProblem(w, problemf(http.StatusNotFound, "There is nothing at %s; /api/openapi.json lists what there is.", r.URL.Path))
}
