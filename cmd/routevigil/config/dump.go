package config

import (
	"encoding"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Dump writes c as YAML that loads to c again, except that secrets are masked.
func Dump(w io.Writer, c Config) error {
	encoder := yaml.NewEncoder(w)
	encoder.SetIndent(2)
	if err := encoder.Encode(encode(reflect.ValueOf(c), field{})); err != nil {
		return err
	}
	return encoder.Close()
}

// encode is the inverse of decoder.value; nil for a setting that is not set. A type that writes itself is let
// do so even where it does not read itself: it has something to hide.
func encode(v reflect.Value, f field) *yaml.Node {
	t := v.Type()
	if t.Kind() == reflect.Pointer {
		if v.IsNil() {
			return nil
		}
		return encode(v.Elem(), f)
	}
	if marshaler, ok := v.Interface().(encoding.TextMarshaler); ok {
		text, err := marshaler.MarshalText()
		if err != nil {
			panic(fmt.Sprintf("config: %s cannot be written: %v", t, err))
		}
		return encodeText(string(text), f)
	}
	switch {
	case t == durationType:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: formatDuration(time.Duration(v.Int()))}
	case f.bytes && v.CanInt() && v.Int() >= 0:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: formatSize(uint64(v.Int()))}
	case f.bytes && v.CanUint():
		return &yaml.Node{Kind: yaml.ScalarNode, Value: formatSize(v.Uint())}
	}
	switch t.Kind() {
	case reflect.Struct:
		n := &yaml.Node{Kind: yaml.MappingNode}
		for _, f := range fieldsOf(t) {
			if value := encode(v.Field(f.index), f); value != nil {
				n.Content = append(n.Content, encodeText(f.key, field{}), value)
			}
		}
		return n
	case reflect.Map:
		n := &yaml.Node{Kind: yaml.MappingNode, Style: flowIfEmpty(v)}
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, key := range keys {
			n.Content = append(n.Content, encodeText(key.String(), field{}), encode(v.MapIndex(key), f))
		}
		return n
	case reflect.Slice:
		n := &yaml.Node{Kind: yaml.SequenceNode, Style: flowIfEmpty(v)}
		for i := range v.Len() {
			n.Content = append(n.Content, encode(v.Index(i), f))
		}
		return n
	case reflect.String:
		return encodeText(v.String(), f)
	case reflect.Float32, reflect.Float64:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: strconv.FormatFloat(v.Float(), 'g', -1, 64)}
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Value: fmt.Sprint(v.Interface())}
}

// flowIfEmpty is the style of a list or map: an empty one can only be written as [] or {}.
func flowIfEmpty(v reflect.Value) yaml.Style {
	if v.Len() == 0 {
		return yaml.FlowStyle
	}
	return 0
}

func encodeText(text string, f field) *yaml.Node {
	switch {
	case f.secret && text != "":
		text = masked
	case f.env:
		text = strings.ReplaceAll(text, "${", "$${")
	}
	n := new(yaml.Node)
	n.SetString(text)
	return n
}
