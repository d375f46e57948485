package topology

// scrubbing are networks that clean the traffic of others under attack. To draw it to themselves they
// announce their customers' prefixes, which looks like a hijack to who does not know. Written by hand
// from what these companies say of themselves; short on purpose, for each name here excuses somebody.
var scrubbing = map[uint32]string{
	3223:   "Voxility",
	13335:  "Cloudflare Magic Transit",
	19324:  "DOSarrest",
	19551:  "Imperva",
	32787:  "Akamai Prolexic",
	57724:  "DDoS-Guard",
	200020: "NBIP NaWas",
}

// Scrubbing returns the name of the DDoS scrubbing service that asn runs; ok is false for everybody else.
func Scrubbing(asn uint32) (name string, ok bool) {
	name, ok = scrubbing[asn]
	return name, ok
}
