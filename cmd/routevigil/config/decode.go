package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// decode reads data over what *into holds and returns everything that is wrong with it. A setting with a
// mistake keeps its former value. lookup gives environment variables.
func decode(data []byte, lookup func(string) (string, bool), into any) Problems {
	d := decoder{lookup: lookup, places: map[string]*yaml.Node{}, wrong: map[string]bool{}}
	document, err := parse(data)
	if err != nil {
		d.problems = append(d.problems, syntaxProblem(err))
		return d.problems
	}
	v := reflect.ValueOf(into).Elem()
	if document != nil {
		d.value(document.Content[0], v, "", field{})
	}
	d.validate(v, "")
	d.problems.sort()
	return d.problems
}

// parse returns the one document of data, nil when there is nothing but comments in it.
func parse(data []byte) (*yaml.Node, error) {
	var document, second yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	switch err := decoder.Decode(&document); {
	case err == io.EOF:
		return nil, nil
	case err != nil:
		return nil, err
	}
	switch err := decoder.Decode(&second); {
	case err == io.EOF:
		return &document, nil
	case err != nil:
		return nil, err
	}
	return nil, fmt.Errorf("yaml: line %d: a second document starts here; a configuration is one document", second.Line)
}

var (
	yamlPosition = regexp.MustCompile(`^yaml: (?:line ([0-9]+): )?`)
	quotedText   = regexp.MustCompile(`'.*'|".*"|` + "`.*`")
)

// syntaxProblem takes the line out of an error of the YAML package. What that quotes from the file is left out,
// for it could be a secret.
func syntaxProblem(err error) Problem {
	message := strings.ReplaceAll(err.Error(), "\n", " ")
	m := yamlPosition.FindStringSubmatch(message)
	p := Problem{Message: "is not valid YAML: " + quotedText.ReplaceAllString(yamlPosition.ReplaceAllString(message, ""), "…")}
	if m != nil {
		p.Line, _ = strconv.Atoi(m[1])
	}
	return p
}

type decoder struct {
	lookup   func(string) (string, bool)
	problems Problems
	places   map[string]*yaml.Node // yaml path → its value
	wrong    map[string]bool       // yaml paths that have a problem already
	secrets  []string              // values of secret settings
}

func (d *decoder) problem(n *yaml.Node, path, format string, args ...any) {
	d.wrong[path] = true
	d.problems = append(d.problems, Problem{Line: n.Line, Column: n.Column, Path: path, Message: fmt.Sprintf(format, args...)})
}

// value decodes n into v. f is the field that v is, or is an element of.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string, f field) {
	d.places[path] = n
	t := v.Type()
	wants := describe(t, f)
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.problem(n, path, "anchors and aliases are not supported; write the value out")
	case isNull(n):
		// A section whose settings are all commented out is fine; a setting without a value is a slip.
		if !isSection(t) {
			d.problem(n, path, "has no value; it must be %s, or be left out for the default", wants)
		}
	case t.Kind() == reflect.Pointer:
		pointer := reflect.New(t.Elem())
		d.value(n, pointer.Elem(), path, f)
		v.Set(pointer)
	case isText(t) || t == durationType:
		d.scalar(n, v, path, f)
	case t.Kind() == reflect.Struct:
		if d.kind(n, yaml.MappingNode, path, wants) {
			d.structure(n, v, path)
		}
	case t.Kind() == reflect.Map:
		if d.kind(n, yaml.MappingNode, path, wants) {
			d.mapping(n, v, path, f)
		}
	case t.Kind() == reflect.Slice:
		if d.kind(n, yaml.SequenceNode, path, wants) {
			d.sequence(n, v, path, f)
		}
	default:
		d.scalar(n, v, path, f)
	}
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// kind reports whether n is what the setting wants, and if not makes that a problem.
func (d *decoder) kind(n *yaml.Node, want yaml.Kind, path, wants string) bool {
	if n.Kind == want {
		return true
	}
	is := map[yaml.Kind]string{yaml.MappingNode: "section", yaml.SequenceNode: "list", yaml.ScalarNode: "single value"}[n.Kind]
	d.problem(n, path, "must be %s, is a %s", wants, is)
	return false
}

// pairs calls use with each key of mapping n that is text and not a duplicate, and its value.
func (d *decoder) pairs(n *yaml.Node, path string, use func(key, value *yaml.Node)) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch line, duplicate := seen[key.Value]; {
		case key.Kind != yaml.ScalarNode || key.Anchor != "":
			d.problem(key, path, "a key must be plain text")
		case duplicate:
			d.problem(key, join(path, shorten(key.Value)), "is set twice; the first time on line %d", line)
		default:
			seen[key.Value] = key.Line
			use(key, value)
		}
	}
}

func (d *decoder) structure(n *yaml.Node, v reflect.Value, path string) {
	fields := fieldsOf(v.Type())
	d.pairs(n, path, func(key, value *yaml.Node) {
		for _, f := range fields {
			if f.key == key.Value {
				d.value(value, v.Field(f.index), join(path, f.key), f)
				return
			}
		}
		remedy := "known keys: " + strings.Join(keysOf(fields), ", ")
		if meant, ok := nearest(key.Value, keysOf(fields)); ok {
			remedy = fmt.Sprintf("did you mean %q?", meant)
		}
		d.problem(key, path, "unknown key %q; %s", shorten(key.Value), remedy)
	})
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string, f field) {
	m := reflect.MakeMap(v.Type())
	d.pairs(n, path, func(key, value *yaml.Node) {
		element := reflect.New(v.Type().Elem()).Elem()
		d.value(value, element, join(path, shorten(key.Value)), f)
		m.SetMapIndex(reflect.ValueOf(key.Value).Convert(v.Type().Key()), element)
	})
	v.Set(m)
}

// sequence replaces a list; a default list is not added to.
func (d *decoder) sequence(n *yaml.Node, v reflect.Value, path string, f field) {
	list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, element := range n.Content {
		d.value(element, list.Index(i), fmt.Sprintf("%s[%d]", path, i), f)
	}
	v.Set(list)
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path string, f field) {
	wants := describe(v.Type(), f)
	if !d.kind(n, yaml.ScalarNode, path, wants) {
		return
	}
	text, tag := n.Value, n.ShortTag()
	if f.env {
		expanded, err := expand(text, d.lookup)
		if err != nil {
			d.problem(n, path, "%v", err)
			return
		}
		text = expanded
	}
	if f.secret {
		d.secrets = append(d.secrets, text)
	}
	if err := setScalar(v, text, tag, wants, f); err != nil {
		if f.secret {
			d.problem(n, path, "must be %s", wants)
			return
		}
		d.problem(n, path, "%v, is %q", err, shorten(text))
	}
}

func setScalar(v reflect.Value, text, tag, wants string, f field) error {
	mismatch := fmt.Errorf("must be %s", wants)
	switch t := v.Type(); {
	case isText(t):
		// The type may have changed itself before it gave up, so it gets a value of its own.
		parsed := reflect.New(t)
		if err := parsed.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text)); err != nil {
			return mismatch
		}
		v.Set(parsed.Elem())
		return nil
	case t == durationType:
		d, err := parseDuration(text)
		if err == nil {
			v.SetInt(int64(d))
		}
		return err
	case f.bytes:
		n, err := parseSize(text)
		if err == nil && n > math.MaxInt64 {
			err = errNotASize
		}
		if err == nil {
			return setInteger(v, int64(n))
		}
		return err
	}
	switch v.Kind() {
	case reflect.String:
		if tag != "!!str" && tag != "!!timestamp" {
			return errors.New("must be text; put it in quotes")
		}
		v.SetString(text)
	case reflect.Bool:
		if tag != "!!bool" {
			return mismatch
		}
		v.SetBool(strings.EqualFold(text, "true"))
	case reflect.Float32, reflect.Float64:
		number, err := strconv.ParseFloat(text, 64)
		if (tag != "!!float" && tag != "!!int") || err != nil || math.IsNaN(number) || math.IsInf(number, 0) {
			return mismatch
		}
		v.SetFloat(number)
	default:
		n, err := strconv.ParseInt(text, 0, 64)
		if tag != "!!int" || err != nil {
			return mismatch
		}
		return setInteger(v, n)
	}
	return nil
}

// setInteger sets v, of any integer kind, to n if it can hold that.
func setInteger(v reflect.Value, n int64) error {
	switch bits := v.Type().Bits(); {
	case v.CanInt() && !v.OverflowInt(n):
		v.SetInt(n)
	case v.CanUint() && n >= 0 && !v.OverflowUint(uint64(n)):
		v.SetUint(uint64(n))
	case v.CanInt():
		return fmt.Errorf("must be from %d to %d", int64(math.MinInt64)>>(64-bits), int64(math.MaxInt64)>>(64-bits))
	default:
		return fmt.Errorf("must be from 0 to %d", uint64(math.MaxUint64)>>(64-bits))
	}
	return nil
}

var variable = regexp.MustCompile(`\$\$\{|\$\{[^}]*\}?`)

// expand replaces ${NAME} in text; "$${" stands for "${".
func expand(text string, lookup func(string) (string, bool)) (string, error) {
	var err error
	expanded := variable.ReplaceAllStringFunc(text, func(match string) string {
		if strings.HasPrefix(match, "$$") {
			return match[1:]
		}
		name, closed := strings.CutSuffix(match[len("${"):], "}")
		if !closed || !variableName.MatchString(name) {
			err = errors.New(`"${" must be followed by the name of an environment variable and "}"; for a plain "${" write "$${"`)
			return ""
		}
		value, ok := lookup(name)
		if !ok {
			err = fmt.Errorf("the environment variable %s is not set", name)
		}
		return value
	})
	return expanded, err
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,255}$`)

// shorten keeps an error on one readable line.
func shorten(text string) string {
	const most = 60
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}

// validate asks v, and then the sections in it, for what is wrong with them.
func (d *decoder) validate(v reflect.Value, path string) {
	if validator, ok := v.Interface().(interface{ Validate() error }); ok {
		if err := validator.Validate(); err != nil {
			for line := range strings.Lines(err.Error()) {
				d.invalid(path, strings.TrimSpace(line))
			}
		}
	}
	if v.Kind() == reflect.Struct {
		for _, f := range fieldsOf(v.Type()) {
			d.validate(v.Field(f.index), join(path, f.key))
		}
	}
}

var pathAndMessage = regexp.MustCompile(`^((?:[a-z0-9_]+|\[[0-9]+\])(?:\[[^\]]*\]|\.[A-Za-z0-9_-]+)*): (.*)$`)

// invalid adds a message of a Validate method: the path of a setting relative to the struct at path, ": ", and
// what is wrong. A setting that could not be decoded has its problem already.
func (d *decoder) invalid(path, message string) {
	if m := pathAndMessage.FindStringSubmatch(message); m != nil {
		path, message = join(path, m[1]), m[2]
	}
	if d.wrong[path] {
		return
	}
	for _, secret := range d.secrets {
		if secret != "" {
			message = strings.ReplaceAll(message, secret, masked)
		}
	}
	p := Problem{Path: path, Message: message}
	for at := path; ; at = parent(at) {
		if n := d.places[at]; n != nil {
			p.Line, p.Column = n.Line, n.Column
			break
		}
		if at == "" {
			break
		}
	}
	d.problems = append(d.problems, p)
}

// parent cuts the last key or index off a yaml path.
func parent(path string) string { return path[:max(strings.LastIndexAny(path, ".["), 0)] }

// masked stands for a secret wherever one would be printed.
const masked = "(secret)"
