package irr

import (
	"fmt"
	"slices"
	"strings"

	"github.com/routevigil/routevigil/detect/irr/rpsl"
)

// AutNum is what an aut-num object says of its AS's neighbours (RFC 2622 §6, RFC 4012 §2.5), as far
// as it can be told without evaluating policies.
type AutNum struct {
	ASN    uint32
	Source string
	// Authoritative says that only the holder of the AS can have registered it: the source is an RIR's.
	Authoritative bool
	// Providers are the ASes from which it accepts ANY, or to which it points a default route, and to
	// which it does not itself announce ANY. Sorted. A route server may be among them.
	Providers []uint32
	// Customers are the ASes to which it announces ANY, and from which it does not accept ANY. Sorted.
	Customers []uint32
	// Announces are the as-sets that it announces to somebody, the most often announced first.
	Announces []string

	memberOf, maintainers []string
}

// AutNum returns the aut-num object of an AS from the best source that has one; nil when none has.
func (d *Database) AutNum(asn uint32) *AutNum {
	if d == nil || len(d.autNums[asn]) == 0 {
		return nil
	}
	return d.autNums[asn][0]
}

// coneNames are the hierarchical names that by convention hold an AS and its customers, where its
// aut-num does not say what it announces.
var coneNames = []string{"AS-CUSTOMERS", "AS-CUSTOMER", "AS-CUST", "AS-CONE", "AS-ALL"}

// Cone says which ASes may be in the customer cone of an AS by what it registered: itself, and the
// members of the as-sets that its aut-num announces, or else of one with a customary name, such as
// AS64500:AS-CUSTOMERS. It is the AS's own word: nobody checks it, and it may be out of date. Of more than most members,
// repeated ones included, the answer is [Expansion.Cut].
func (d *Database) Cone(asn uint32, most int) ASes {
	var names []string
	if a := d.AutNum(asn); a != nil {
		names = a.Announces
	}
	for _, n := range coneNames {
		if len(names) > 0 || d == nil {
			break
		}
		if n = fmt.Sprintf("AS%d:%s", asn, n); len(d.sets[n]) > 0 {
			names = []string{n}
		}
	}
	x := d.asSets(most, names...)
	if i, ok := slices.BinarySearch(x.ASNs, asn); !ok {
		x.ASNs = slices.Insert(x.ASNs, i, asn)
	}
	return x
}

// neighbours gathers what policies say.
type neighbours struct {
	from, to map[uint32]bool // ASes from which ANY is accepted, to which it is announced
	announce map[string]int  // as-sets, by the number of neighbours
}

func (b *Builder) autNum(o *rpsl.Object, asn uint32, source string) *AutNum {
	a := &AutNum{ASN: asn, Source: source, Authoritative: slices.Contains(authoritative, source), memberOf: b.nameList(o, "member-of")}
	if len(a.memberOf) > 0 {
		a.maintainers = b.nameList(o, "mnt-by")
	}
	n := neighbours{map[uint32]bool{}, map[uint32]bool{}, map[string]int{}}
	for _, attr := range o.Attributes {
		switch string(attr.Name) {
		case "import", "mp-import":
			policies(attr.Value, "from", "accept", func(peer uint32, filter []string) {
				if isAny(filter) {
					n.from[peer] = true
				}
			})
		case "export", "mp-export":
			policies(attr.Value, "to", "announce", func(peer uint32, filter []string) {
				if isAny(filter) {
					n.to[peer] = true
				}
				for _, word := range filter {
					if word == "NOT" {
						break
					}
					if !strings.Contains(word, "AS-") {
						continue
					}
					if name, class := b.qualifiedName([]byte(word)); class == rpsl.ASSet && name != "AS-ANY" {
						n.announce[name]++
					}
				}
			})
		case "default", "mp-default":
			policies(attr.Value, "to", "networks", func(peer uint32, filter []string) {
				if len(filter) == 0 || isAny(filter) {
					n.from[peer] = true
				}
			})
		}
	}
	a.Providers, a.Customers = except(n.from, n.to, asn), except(n.to, n.from, asn)
	for name := range n.announce {
		a.Announces = append(a.Announces, name)
	}
	slices.SortFunc(a.Announces, func(x, y string) int {
		if c := n.announce[y] - n.announce[x]; c != 0 {
			return c
		}
		return strings.Compare(x, y)
	})
	return a
}

// except returns what is in one set and not in another, nor itself.
func except(in, not map[uint32]bool, self uint32) []uint32 {
	var list []uint32
	for a := range in {
		if !not[a] && a != self {
			list = append(list, a)
		}
	}
	slices.Sort(list)
	return list
}

// isAny reports that a filter lets everything pass, or everything but some: ANY, or ANY AND NOT {…}.
func isAny(filter []string) bool {
	return len(filter) > 0 && filter[0] == "ANY" && (len(filter) == 1 || len(filter) > 2 && filter[1] == "AND" && filter[2] == "NOT")
}

// policies reads "from AS1 action pref=100; from AS2 accept ANY" and groups of such, and calls yield for
// each AS with the filter that applies to it, in upper case. A peering that is not simply an AS is passed
// over, and so is all of a policy with exceptions or refinements (RFC 2622 §6.6), whose meaning
// depends on all of its parts.
func policies(value []byte, peering, filtering string, yield func(peer uint32, filter []string)) {
	text := strings.ToUpper(string(value))
	peering, filtering = strings.ToUpper(peering), strings.ToUpper(filtering)
	tokens := strings.Fields(strings.NewReplacer(";", " ; ", "{", " { ", "}", " } ", "(", " ( ", ")", " ) ").Replace(text))
	if slices.Contains(tokens, "EXCEPT") || slices.Contains(tokens, "REFINE") {
		return
	}
	var peers []uint32
	for i := 0; i < len(tokens); {
		switch tokens[i] {
		case peering:
			i++
			asn, simple := uint32(0), false
			for first := true; i < len(tokens) && !endsPeering(tokens[i], peering, filtering); i, first = i+1, false {
				if a, ok := parseASN([]byte(tokens[i])); ok && first {
					asn, simple = a, true
				} else if tokens[i] == "OR" || tokens[i] == "AND" || tokens[i] == "EXCEPT" || first {
					simple = false
				}
			}
			if simple {
				peers = append(peers, asn)
			}
		case filtering:
			end, depth := i+1, 0
			for ; end < len(tokens); end++ {
				if tokens[end] == "{" || tokens[end] == "(" {
					depth++
				} else if tokens[end] == "}" || tokens[end] == ")" {
					depth--
				}
				if depth < 0 || depth == 0 && (tokens[end] == ";" || tokens[end] == peering) {
					break
				}
			}
			for _, p := range peers {
				yield(p, tokens[i+1:end])
			}
			peers, i = nil, end
		default:
			i++
		}
	}
	if filtering == "NETWORKS" { // which may be left out
		for _, p := range peers {
			yield(p, nil)
		}
	}
}

func endsPeering(token, peering, filtering string) bool {
	return token == "ACTION" || token == ";" || token == peering || token == filtering
}
