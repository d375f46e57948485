package bgp

// UpdateUnmarked is [Decoder.Update] for a source that may fail to say that the session uses ADD-PATH:
// if o says nothing of it and the message makes little sense without path identifiers, but does with
// them, they are read, and guessed is true.
//
// Before RFC 8050 collectors had no way to say it, and some have not said so since (BIRD 1.6, RouteViews
// in 2022); who joins a BMP stream in its middle has missed the OPENs. Read as it stands, an identifier
// below 65,536 looks like the default route announced at least twice, which is false and, to a monitor,
// alarming.
func (d *Decoder) UpdateUnmarked(body []byte, o Options) (u *Update, guessed bool, err error) {
	u, err = d.Update(body, o)
	if o.AddPath != 0 || err == nil && (d.defaults < 2 || !repeatsDefault(u.Announced) && !repeatsDefault(u.Withdrawn)) {
		return u, false, err
	}
	with := o
	with.AddPath = AllFamilies
	if u, err := d.Update(body, with); err == nil && smallIDs(u.Announced) && smallIDs(u.Withdrawn) {
		return u, true, nil
	}
	u, err = d.Update(body, o)
	return u, false, err
}

func repeatsDefault(routes []NLRI) bool {
	n := 0
	for i := range routes {
		if routes[i].Prefix.Bits() == 0 {
			n++
		}
	}
	return n > 1
}

func smallIDs(routes []NLRI) bool {
	for i := range routes {
		if routes[i].PathID > 0xffff {
			return false
		}
	}
	return true
}
