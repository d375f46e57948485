// Package nrtm keeps a copy of a registry up to date by Near Real Time Mirroring: version 4 (files
// over HTTPS, signed; draft-ietf-grow-nrtm-v4-11) and version 3 (a text protocol over TCP, which
// most registries still speak).
//
// A client is asked to update and tells a [Mirror] what has changed. It keeps no objects itself. How
// far it has come is a small value that its owner saves together with the objects.
package nrtm

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/routevigil/routevigil/detect/irr/rpsl"
)

// Mirror takes the changes of a registry in their order; irr.Builder is one. It must not keep the
// objects.
type Mirror interface {
	Drop(source string) // every object of a source goes
	Add(o *rpsl.Object) // or replaces the object with its key
	Remove(o *rpsl.Object)
}

// Counts says what an update brought.
type Counts struct {
	Added, Removed int
	// Malformed counts objects that were passed over, by reason: those of package rpsl and WrongSource.
	Malformed map[string]int
}

// Reasons why an update fails, for counting.
const (
	Unreachable = "unreachable" // nobody answers, or no longer
	Signature   = "signature"   // who signed it is not who should have
	Malformed   = "malformed"   // it is not what the protocol says, or was cut short or changed on its way
	History     = "history"     // it contradicts what the same server said before
	Gap         = "gap"         // what follows on what is known is no longer there
)

// failure is an error with its reason.
type failure struct {
	error
	reason string
}

func (f *failure) Unwrap() error { return f.error }

// because gives an error a reason, unless it has one.
func because(reason string, err error) error {
	if _, ok := errors.AsType[*failure](err); ok || err == nil {
		return err
	}
	return &failure{err, reason}
}

// ReasonOf returns which of the reasons above an error of an update has.
func ReasonOf(err error) string {
	if _, ok := errors.AsType[*GapError](err); ok {
		return Gap
	}
	if f, ok := errors.AsType[*failure](err); ok {
		return f.reason
	}
	return Unreachable
}

// WrongSource says that an object names another registry than the one that is mirrored. A registry
// must not speak for another, least of all for an authoritative one.
const WrongSource = "wrong_source"

// applier hands the objects of one registry to a mirror.
type applier struct {
	mirror Mirror
	source string
	object rpsl.Object
	counts Counts
}

func newApplier(m Mirror, source string) *applier {
	return &applier{mirror: m, source: strings.ToUpper(source), counts: Counts{Malformed: map[string]int{}}}
}

// text adds or removes the object in text, which is changed.
func (a *applier) text(text []byte, remove bool) {
	if len(text) > rpsl.MaxObject {
		a.counts.Malformed[rpsl.TooLarge]++
		return
	}
	err := a.object.Parse(text)
	switch {
	case err != nil:
		a.counts.Malformed[err.Error()]++
		return
	case a.object.Class == rpsl.Other:
		return
	case !strings.EqualFold(string(a.object.Get("source")), a.source):
		a.counts.Malformed[WrongSource]++
		return
	}
	a.apply(remove)
}

func (a *applier) apply(remove bool) {
	if remove {
		a.counts.Removed++
		a.mirror.Remove(&a.object)
	} else {
		a.counts.Added++
		a.mirror.Add(&a.object)
	}
}

// remove removes the object with a class and a primary key, as version 4 writes it: that of a route is
// its prefix and its origin without anything between.
func (a *applier) remove(class, key string) error {
	if class == "" || key == "" || strings.ContainsAny(key, "\r\n") {
		return fmt.Errorf("the deletion of %q %q names no object", class, key)
	}
	class = strings.ToLower(class)
	a.object.Class = rpsl.ClassOf([]byte(class))
	a.object.Attributes = append(a.object.Attributes[:0], rpsl.Attribute{Name: []byte(class), Value: []byte(key)})
	switch a.object.Class {
	case rpsl.Other:
		return nil
	case rpsl.Route, rpsl.Route6:
		i := strings.LastIndex(strings.ToUpper(key), "AS")
		if i < 0 {
			return fmt.Errorf("the deletion of %s %q names no origin", class, key)
		}
		a.object.Attributes[0].Value = bytes.TrimSpace([]byte(key[:i]))
		a.object.Attributes = append(a.object.Attributes, rpsl.Attribute{Name: []byte("origin"), Value: []byte(key[i:])})
	}
	a.object.Attributes = append(a.object.Attributes, rpsl.Attribute{Name: []byte("source"), Value: []byte(a.source)})
	a.apply(true)
	return nil
}
