package config

import (
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

//go:generate sh -c "go run .. config docs > REFERENCE.md"

// Reference writes every setting with its type, default and meaning as Markdown.
func Reference(w io.Writer) error {
	var b strings.Builder
	b.WriteString(`# Configuration reference

Written by ` + "`routevigil config docs`" + ` from the program itself; do not edit.

The configuration is one YAML file, given with ` + "`-c`" + `. Every setting has a default, so the file holds only what is to be
different, and no file at all is fine. A list in the file replaces the default list. Unknown keys, duplicate keys and bad values
are errors; ` + "`routevigil config check`" + ` reports all of them at once.

- A *time* is written ` + "`500ms`, `10s`, `1h30m` or `90d`" + `; a *size* ` + "`64MiB` or `10GiB`" + `.
- In settings marked *env*, and in secrets, ` + "`${NAME}`" + ` is replaced by that environment variable, which must be set; ` + "`$${`" + ` is a
  plain ` + "`${`" + `.
- *Secret text* is never printed: not by ` + "`config dump`" + `, nor in a log, an error or an answer.
`)
	defaults := reflect.ValueOf(Default())
	for _, f := range fieldsOf(defaults.Type()) {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n| setting | type | default | meaning |\n| --- | --- | --- | --- |\n", f.key, f.doc)
		section, at := defaults.Field(f.index), f.key
		if section.Kind() == reflect.Slice {
			section, at = reflect.New(section.Type().Elem()).Elem(), at+"[]"
		}
		referenceRows(&b, section, at)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// referenceRows writes a table row for each setting of the struct v, which is at path.
func referenceRows(b *strings.Builder, v reflect.Value, path string) {
	for _, f := range fieldsOf(v.Type()) {
		value, at := v.Field(f.index), join(path, f.key)
		if isSection(value.Type()) {
			referenceRows(b, value, at)
			continue
		}
		kind := withoutArticle(describe(value.Type(), f))
		if f.env && !f.secret {
			kind += ", env"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", at, kind, referenceDefault(value, f), cell(f.doc))
		switch element := value.Type(); {
		case element.Kind() == reflect.Slice && isSection(element.Elem()):
			referenceRows(b, reflect.New(element.Elem()).Elem(), at+"[]")
		case element.Kind() == reflect.Map && isSection(element.Elem()):
			referenceRows(b, reflect.New(element.Elem()).Elem(), at+".NAME")
		}
	}
}

// referenceDefault writes a default as it would stand in the file; nothing for "".
func referenceDefault(v reflect.Value, f field) string {
	if t, ok := v.Interface().(time.Time); ok && t.IsZero() {
		return ""
	}
	n := encode(v, f)
	if n == nil || n.Kind == yaml.ScalarNode && n.Value == "" {
		return ""
	}
	n.Style = yaml.FlowStyle
	text, err := yaml.Marshal(n)
	if err != nil {
		panic(fmt.Sprintf("config: the default %v cannot be written: %v", v, err))
	}
	return "`" + cell(strings.TrimSpace(string(text))) + "`"
}

// cell makes text fit for a table.
func cell(text string) string { return strings.NewReplacer("|", `\|`, "\n", " ").Replace(text) }
