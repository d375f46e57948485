package detect

import (
	"fmt"
	"slices"
	"strings"

	"github.com/routevigil/routevigil/detect/incident"
)

// title says in one line who did what to whom.
func title(inc *incident.Incident) string {
	if inc.Kind == incident.FeedBlind {
		return blindTitle(inc)
	}
	p := inc.Prefixes[0]
	off, victims := asList(inc.Offenders[:min(1, len(inc.Offenders))]), asList(inc.Victims)
	what := p.Prefix.String()
	switch more := inc.PrefixCount - 1; {
	case more == 1:
		what += " and one more prefix"
	case more > 1:
		what += fmt.Sprintf(" and %d more prefixes", more)
	}
	covering := ""
	if p.Covering.IsValid() {
		covering = p.Covering.String()
	}
	switch inc.Kind {
	case incident.OriginHijack:
		return fmt.Sprintf("%s announces %s of %s", off, what, victims)
	case incident.SubprefixHijack:
		return fmt.Sprintf("%s announces %s, part of %s's %s", off, what, victims, covering)
	case incident.ForgedPath:
		return fmt.Sprintf("%s announces %s of %s with a forged path", off, what, victims)
	case incident.ForgedPathSubprefix:
		switch seen := p.ObservedOrigins; {
		case len(seen) == 0 || len(inc.Offenders) == 0 || slices.Contains(p.ExpectedOrigins, seen[0]):
			return fmt.Sprintf("%s announces %s in the name of %s, part of %s", off, what, victims, covering)
		case seen[0] == inc.Offenders[0]: // behind the holder, as it seems
			return fmt.Sprintf("%s announces %s by way of %s, part of whose %s it is", off, what, victims, covering)
		default:
			return fmt.Sprintf("%s announces %s in the name of %s, part of %s's %s", off, what, asList(seen), victims, covering)
		}
	case incident.Squatting:
		if len(inc.Victims) > 0 {
			return fmt.Sprintf("%s announces %s, unused space of %s", off, what, victims)
		}
		return fmt.Sprintf("%s announces %s, space that nobody uses", off, what)
	case incident.RouteLeak:
		return fmt.Sprintf("%s leaks %s of %s to %s", off, what, victims, asList(inc.Accomplices))
	case incident.ReoriginationLeak:
		return fmt.Sprintf("%s announces the routes of others as its own: %s of %s", off, what, victims)
	case incident.InternalSpecifics:
		return fmt.Sprintf("%s lets out parts of its own %s: %s", off, covering, what)
	case incident.Prepend:
		return fmt.Sprintf("%s mistyped a prepend: %s seems to come from %s", off, what, victims)
	case incident.TypoASN:
		return fmt.Sprintf("%s announces %s of %s, an AS number one slip away", off, what, victims)
	case incident.TypoPrefix:
		return fmt.Sprintf("%s announces %s of %s, one slip away from a prefix of its own", off, what, victims)
	case incident.PrivateASNLeak, incident.BogonASN:
		return fmt.Sprintf("%s lets reserved AS numbers out with %s", off, what)
	case incident.BogonPrefix:
		if inc.PrefixCount > 1 {
			return fmt.Sprintf("%s announces %s, which do not belong in the global table", off, what)
		}
		return fmt.Sprintf("%s announces %s, which does not belong in the global table", off, what)
	case incident.RPKIInvalid:
		if len(inc.Victims) == 0 {
			return fmt.Sprintf("%s announces %s, whose ROA lets nobody announce it", off, what)
		}
		return fmt.Sprintf("%s announces %s against the ROA of %s", off, what, victims)
	case incident.ROAChange:
		return fmt.Sprintf("A change of ROAs made %s of %s RPKI Invalid", what, victims)
	case incident.NewNeighbour:
		return fmt.Sprintf("%s passes on %s of %s, of which it is no declared neighbour", off, what, victims)
	case incident.NewPrefix:
		if covering != "" {
			return fmt.Sprintf("%s announces %s, a longer part of %s than its watch allows", off, what, covering)
		}
		return fmt.Sprintf("%s announces %s, which its watch does not have", off, what)
	case incident.PathPolicy:
		return fmt.Sprintf("Paths to %s of %s by %s go where they must not", what, victims, off)
	case incident.VisibilityLoss:
		return fmt.Sprintf("%s of %s vanished from most networks", what, victims)
	case incident.BlackholeLeak:
		return fmt.Sprintf("%s lets the blackhole route %s out", off, what)
	}
	return fmt.Sprintf("%s: %s, %s", inc.Kind, off, what)
}

// whatItMeans says for each kind why it matters.
var whatItMeans = map[incident.Kind]string{
	incident.OriginHijack:        "Where this route is preferred, traffic for these addresses goes to the new origin instead of the usual one.",
	incident.SubprefixHijack:     "Routers prefer the longer prefix, so wherever it spreads it takes all traffic for these addresses, however good the usual route is.",
	incident.ForgedPath:          "The origin looks right, so origin validation does not object; traffic may pass through an AS that has no business in it.",
	incident.ForgedPathSubprefix: "The origin looks right and the prefix is longer than the usual one: origin validation may not object, and wherever it spreads it takes all traffic.",
	incident.Squatting: "Whoever uses addresses that nobody misses is hard to find: they often serve to send spam or to attack others, and their holder, if there is one, is blamed. " +
		"No traffic of others goes astray.",
	incident.RouteLeak:         "A network passes on routes that it should have kept: traffic takes a detour through a network that was not meant to carry it and may not be able to.",
	incident.ReoriginationLeak: "So many victims at once are hardly an attack: most likely routes were taken into a network's own routing and announced anew, without their paths (RFC 7908 type 5). Whatever the cause, traffic for all these addresses goes astray where these routes are preferred.",
	incident.InternalSpecifics: "Routes meant for the inside of a network have got out (RFC 7908 type 6). The addresses stay with their holder, but traffic may come in at places not built for it, and where there are many such routes, routers elsewhere may run full or end the session.",
	incident.Prepend:           "The origin is a number of prepends that landed in the place of an AS. The prefix stays reachable; the AS blamed has nothing to do with it.",
	incident.TypoASN:           "The new origin is one slip of the finger from the right one: most likely a mistake in a configuration.",
	incident.TypoPrefix:        "The prefix is one slip of the finger from one that the network announced until now: most likely a mistake in a configuration, which costs the network its own prefix, too.",
	incident.PrivateASNLeak:    "AS numbers for private use were not removed before the route was passed on.",
	incident.BogonASN:          "A reserved AS number was not removed before the route was passed on.",
	incident.BogonPrefix:       "Nobody may use these addresses in the global table.",
	incident.RPKIInvalid:       "Networks that validate origins drop this route, so the prefix is not reachable from everywhere; nothing else points to a hijack.",
	incident.ROAChange: "The routes are as ever, but networks that validate origins drop them from now on, so traffic to these addresses fails in parts of the Internet. " +
		"Whoever holds the addresses should look at the named ROAs: allow this origin and this length, or restore the ROA that is gone. If the addresses were handed over, the old origin should withdraw.",
	incident.FeedBlind:      "What this collector does not say must not be taken for something that is not there: verdicts that depend on it are marked as degraded, and no loss of visibility is told from it.",
	incident.VisibilityLoss: "Where there is no route, traffic to these addresses is discarded. Whether the network itself, its providers or a filter took the routes away, the routes do not tell.",
	incident.NewNeighbour:   "A network passes on these routes that the watch names neither as an upstream nor as a peer: a new contract that the watch does not know of yet, a leak, or a path that somebody made up.",
	incident.NewPrefix:      "The watched network announces something that its watch does not have, or parts smaller than it allows: a change of its own that the watch does not know of yet, or a slip.",
	incident.PathPolicy:     "Traffic to these addresses passes a network that it must not pass, or none of those that it must.",
	incident.BlackholeLeak:  "A route that asks for traffic to be discarded has spread beyond the network that was asked.",
}

func plural(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// explain tells the whole story: what was seen, why it is wrong, what speaks against it.
func explain(inc *incident.Incident) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s. It was first seen at %s", title(inc), inc.StartedAt.UTC().Format("2006-01-02 15:04:05 UTC"))
	if inc.EndedAt != nil {
		fmt.Fprintf(&b, " and ended at %s.", inc.EndedAt.UTC().Format("2006-01-02 15:04:05 UTC"))
	} else if inc.Kind == incident.FeedBlind {
		b.WriteString(".")
	} else if v := inc.Visibility; inc.Kind == incident.VisibilityLoss {
		fmt.Fprintf(&b, "; missing at %s in %s, where %s a full table.", plural(v.Peers, "peer", "peers"), plural(v.PeerASNs, "network", "networks"),
			plural(v.FullFeedPeers, "peer carries", "peers carry"))
	} else {
		fmt.Fprintf(&b, "; seen by %s in %s, where %s a full table.", plural(v.Peers, "peer", "peers"), plural(v.PeerASNs, "network", "networks"),
			plural(v.FullFeedPeers, "peer carries", "peers carry"))
	}
	if m := whatItMeans[inc.Kind]; m != "" {
		b.WriteString(" " + m)
	}
	if f := evidence(inc, func(w float64) bool { return w > 0 }); f != "" {
		b.WriteString(" Why we think so: " + f + ".")
	}
	if a := evidence(inc, func(w float64) bool { return w < 0 }); a != "" {
		b.WriteString(" What speaks against it: " + a + ".")
	}
	return b.String()
}

func evidence(inc *incident.Incident, side func(float64) bool) string {
	var parts []string
	for _, e := range inc.Evidence {
		if side(e.Weight) {
			parts = append(parts, e.Detail)
		}
	}
	return strings.Join(parts, "; ")
}
