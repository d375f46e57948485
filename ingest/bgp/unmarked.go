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
	if o.AddPath != 0 || err == nil && !d.repeatsDefault(u) {
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

// UpdateMarked is [Decoder.Update] for the opposite: a source of which o says that it writes path identifiers,
// but which may fail to. FRR 8.4 and, after policy, GoBGP 3.10 show by BMP without them what came with them. A
// message that can be read only without them is; without says whether that was so for the last message of the
// same source, because then one that can be read both ways is read like it. The second result is that of this
// message.
func (d *Decoder) UpdateMarked(body []byte, o Options, without bool) (*Update, bool, error) {
	first, second := o, o
	if without {
		first.AddPath = 0
	} else {
		second.AddPath = 0
	}
	u, err := d.Update(body, first)
	if o.AddPath == 0 || err == nil && !(without && d.repeatsDefault(u)) {
		return u, without, err
	}
	if u, err := d.Update(body, second); err == nil && (without || !d.repeatsDefault(u)) {
		return u, !without, nil
	}
	u, err = d.Update(body, first)
	return u, without, err
}

// repeatsDefault reports whether u, the last message, has so many default routes that path identifiers were
// taken for routes.
func (d *Decoder) repeatsDefault(u *Update) bool {
	return d.defaults > 1 && (manyDefaults(u.Announced) || manyDefaults(u.Withdrawn))
}

func manyDefaults(routes []NLRI) bool {
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
