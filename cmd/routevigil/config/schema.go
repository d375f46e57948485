package config

import (
	"encoding"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"
)

// A field is what the tags of one struct field say.
type field struct {
	index  int
	key    string
	doc    string
	bytes  bool // written as a size
	env    bool // ${NAME} is replaced
	secret bool // never printed
}

// fieldsOf lists the fields of struct type t that can be configured. A tag that says nothing the loader knows
// is a mistake in the program, so it panics.
func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		structField := t.Field(i)
		key, _, _ := strings.Cut(structField.Tag.Get("yaml"), ",")
		if key == "-" || !structField.IsExported() {
			continue
		}
		if key == "" {
			panic(fmt.Sprintf("config: field %s.%s has no yaml key", t, structField.Name))
		}
		f := field{index: i, key: key, doc: structField.Tag.Get("doc")}
		if options := structField.Tag.Get("config"); options != "" {
			for option := range strings.SplitSeq(options, ",") {
				switch option {
				case "bytes":
					f.bytes = true
				case "env":
					f.env = true
				case "secret":
					f.env, f.secret = true, true
				default:
					panic(fmt.Sprintf("config: field %s.%s has the unknown option %q", t, structField.Name, option))
				}
			}
		}
		fields = append(fields, f)
	}
	return fields
}

var (
	durationType    = reflect.TypeFor[time.Duration]()
	unmarshalerType = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// isText reports whether values of type t are written as text that the type itself parses.
func isText(t reflect.Type) bool { return reflect.PointerTo(t).Implements(unmarshalerType) }

// isSection reports whether values of type t are a section of their own.
func isSection(t reflect.Type) bool { return t.Kind() == reflect.Struct && !isText(t) }

// describe names what a value of type t is to a person, with an article.
func describe(t reflect.Type, f field) string {
	switch {
	case t == durationType:
		return "a time"
	case t == reflect.TypeFor[netip.Prefix]():
		return "an IP prefix"
	case t == reflect.TypeFor[netip.Addr]():
		return "an IP address"
	case t == reflect.TypeFor[netip.AddrPort]():
		return "an IP address and port"
	case t == reflect.TypeFor[time.Time]():
		return "a point in time such as 2026-01-31T18:00:00Z"
	case isText(t):
		return "text"
	case t.Kind() == reflect.Pointer:
		return describe(t.Elem(), f)
	case t.Kind() == reflect.Slice:
		return "a list (" + withoutArticle(describe(t.Elem(), f)) + ")"
	case t.Kind() == reflect.Map:
		return "a map (" + withoutArticle(describe(t.Elem(), f)) + ")"
	case t.Kind() == reflect.Struct:
		return "a section"
	case f.bytes:
		return "a size"
	case f.secret:
		return "secret text"
	case t.Kind() == reflect.String:
		return "text"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Float32 || t.Kind() == reflect.Float64:
		return "a number"
	}
	return "a whole number"
}

func withoutArticle(phrase string) string {
	return strings.TrimPrefix(strings.TrimPrefix(phrase, "a "), "an ")
}

// join puts a yaml path together.
func join(path, rest string) string {
	if path == "" || rest == "" || strings.HasPrefix(rest, "[") {
		return path + rest
	}
	return path + "." + rest
}

// nearest returns the candidate that word was probably meant to be.
func nearest(word string, candidates []string) (string, bool) {
	best, bestDistance := "", min(2, len(word)/2)+1
	for _, candidate := range candidates {
		if d := distance(strings.ToLower(word), candidate); d < bestDistance {
			best, bestDistance = candidate, d
		}
	}
	return best, best != ""
}

// distance is the number of letters to insert, delete, replace or swap with a neighbour to make b of a
// (optimal string alignment).
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return max(len(a), len(b)) // nobody mistyped this; and the work below is bounded
	}
	var beforeLast []int
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			substitution := last[j]
			if a[i] != b[j] {
				substitution++
			}
			row[j+1] = min(substitution, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], beforeLast[j-1]+1)
			}
		}
		beforeLast, last = last, row
	}
	return last[len(b)]
}

func keysOf(fields []field) []string {
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = f.key
	}
	slices.Sort(keys)
	return keys
}
