package config

import (
	"bytes"
	"encoding"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/ingest/bgpsession"
)

func noVariables(string) (string, bool) { return "", false }

// Every setting has a key in one style and a sentence of documentation, and is of a kind that the loader reads.
func TestEverySettingIsDocumented(t *testing.T) {
	key := regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	var check func(t *testing.T, typ reflect.Type, path string)
	check = func(t *testing.T, typ reflect.Type, path string) {
		switch {
		case isText(typ):
			if !typ.Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
				t.Errorf("%s: %s can be read but not dumped; give it a MarshalText", path, typ)
			}
		case typ.Kind() == reflect.Pointer && typ.Elem().Kind() == reflect.Bool: // neither yes nor no
		case typ.Kind() == reflect.Slice:
			check(t, typ.Elem(), path+"[]")
		case typ.Kind() == reflect.Map:
			if typ.Key().Kind() != reflect.String {
				t.Errorf("%s: the key of a map must be a string", path)
			}
			check(t, typ.Elem(), path+".NAME")
		case typ.Kind() == reflect.Struct:
			for _, f := range fieldsOf(typ) {
				at := join(path, f.key)
				if !key.MatchString(f.key) {
					t.Errorf("%s: a key is lower_case", at)
				}
				if !strings.HasSuffix(f.doc, ".") {
					t.Errorf("%s: the doc tag must be a sentence with its full stop, is %q", at, f.doc)
				}
				check(t, typ.Field(f.index).Type, at)
			}
		default:
			switch typ.Kind() {
			case reflect.Pointer, reflect.Interface, reflect.Array, reflect.Chan, reflect.Func, reflect.Complex64, reflect.Complex128:
				t.Errorf("%s: the loader does not read a %s", path, typ)
			}
		}
	}
	check(t, reflect.TypeFor[Config](), "")
}

// Only names, such as those of files, may do without a Validate method: whether they are good shows when they are
// used.
func TestEverySectionValidates(t *testing.T) {
	var check func(v reflect.Value, path string)
	check = func(v reflect.Value, path string) {
		validator, ok := v.Interface().(interface{ Validate() error })
		switch {
		case ok:
			if err := validator.Validate(); err != nil {
				t.Errorf("the default of %s is not valid: %v", path, err)
			}
			if path == "" { // it looks only at what sections say of each other
				for _, f := range fieldsOf(v.Type()) {
					check(v.Field(f.index), f.key)
				}
			}
		case isSection(v.Type()):
			for _, f := range fieldsOf(v.Type()) {
				check(v.Field(f.index), join(path, f.key))
			}
		case v.Type() != reflect.TypeFor[string]() && v.Type() != reflect.TypeFor[[]string]():
			t.Errorf("%s: no struct around it has a method Validate() error on its value", path)
		}
	}
	check(reflect.ValueOf(Default()), "")
}

// Whatever a Validate method complains about, the path it gives is one of a setting: zero values are wrong in
// many places at once.
func TestValidateNamesSettings(t *testing.T) {
	zero := reflect.New(reflect.TypeFor[Config]()).Elem()
	d := decoder{lookup: noVariables}
	d.validate(zero, "")
	if len(d.problems) == 0 {
		t.Fatal("a configuration of zeros has no problem; this test looks at nothing")
	}
	for _, p := range d.problems {
		v := zero
		for key := range strings.SplitSeq(p.Path, ".") {
			field, found := fieldNamed(v.Type(), key)
			if !found {
				t.Errorf("problem %q: %s has no setting %q", p, v.Type(), key)
				break
			}
			v = v.Field(field.index)
		}
	}
}

func fieldNamed(t reflect.Type, key string) (field, bool) {
	if isSection(t) {
		for _, f := range fieldsOf(t) {
			if f.key == key {
				return f, true
			}
		}
	}
	return field{}, false
}

func TestReferenceIsCurrent(t *testing.T) {
	var want bytes.Buffer
	if err := Reference(&want); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("REFERENCE.md")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), string(got)); diff != "" {
		t.Errorf("REFERENCE.md is out of date; run \"go generate ./cmd/routevigil/config\" (-want +got):\n%s", diff)
	}
}

func TestDumpOfDefaultLoads(t *testing.T) {
	var dumped bytes.Buffer
	if err := Dump(&dumped, Default()); err != nil {
		t.Fatal(err)
	}
	var c Config // of zeros, so that every default must be in the dump
	if problems := decode(dumped.Bytes(), noVariables, &c); problems != nil {
		t.Fatalf("%v\n%s", problems, &dumped)
	}
	if diff := cmp.Diff(Default(), c, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("the dump loads to something else (-default +loaded):\n%s", diff)
	}
}

// uncomment makes settings of the lines of the sample that are disabled.
func uncomment(sample []byte) []byte {
	return regexp.MustCompile(`(?m)^( *)#([^# ])`).ReplaceAll(sample, []byte("$1$2"))
}

func TestSampleChangesNothing(t *testing.T) {
	c := Default()
	if problems := decode(Sample, noVariables, &c); problems != nil {
		t.Fatal(problems)
	}
	if diff := cmp.Diff(Default(), c, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("the sample changes defaults:\n%s", diff)
	}
}

func TestSampleSettingsAreReal(t *testing.T) {
	settings := uncomment(Sample)
	if bytes.Equal(settings, Sample) {
		t.Fatal("no line of the sample was uncommented")
	}
	c := Default()
	if problems := decode(settings, func(string) (string, bool) { return sampleSecret, true }, &c); problems != nil {
		t.Fatalf("%v\n%s", problems, settings)
	}
	clearExamples(&c)
	if diff := cmp.Diff(Default(), c, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("the sample shows a value that is not the default:\n%s", diff)
	}
}

// clearExamples takes out what the sample calls an example.
func clearExamples(c *Config) {
	c.Alert.Webhooks = nil
	c.Ingest.BMP.Listen, c.Ingest.BMP.Allow = "", nil
	c.Ingest.BGP = bgpsession.DefaultConfiguration()
	c.Knowledge.RTR.Caches = nil
	c.Watches = nil
}

const sampleSecret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"

func TestLoad(t *testing.T) {
	write := func(content string) string {
		file := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	t.Run("missing file", func(t *testing.T) {
		_, err := Load(filepath.Join(t.TempDir(), "none.yaml"))
		if err == nil || !strings.Contains(err.Error(), "none.yaml") || !strings.Contains(err.Error(), "config init") {
			t.Errorf("error %v must name the file and the remedy", err)
		}
	})
	t.Run("directory", func(t *testing.T) {
		dir := t.TempDir()
		if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("error %v must name the directory", err)
		}
	})
	t.Run("huge file", func(t *testing.T) {
		file := write(strings.Repeat("#", maxFileSize+1))
		if _, err := Load(file); err == nil || err.Error() != file+": is larger than 1MiB; is it a configuration?" {
			t.Errorf("error %v", err)
		}
	})
	t.Run("problems name the file", func(t *testing.T) {
		file := write("\nwrong: 1\n")
		_, err := Load(file)
		if err == nil || !strings.HasPrefix(err.Error(), file+`:2:1: unknown key "wrong"`) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("good file", func(t *testing.T) {
		c, err := Load(write("api: {listen: ':9000'}"))
		if err != nil {
			t.Fatal(err)
		}
		want := Default()
		want.API.Listen = ":9000"
		if diff := cmp.Diff(want, c, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Error(diff)
		}
	})
}

// A watch of a route-set needs something that says what is in it.
func TestRouteSetsNeedRegistries(t *testing.T) {
	c := Default()
	c.Watches = detect.WatchList{{Name: "a", ASNs: []uint32{1}}, {Name: "b", RouteSets: []string{"RS-X"}}}
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "watches[1].route_sets") {
		t.Errorf("without a registry: %v", err)
	}
	c.Knowledge.IRR.Files = []string{"ripe.db.gz"}
	if err := c.Validate(); err != nil {
		t.Errorf("with a registry: %v", err)
	}
}

// What is published must not be what is read.
func TestPublishedTopicIsNotRead(t *testing.T) {
	c := Default()
	c.Ingest.OpenBMP.Enabled, c.Kafka.OpenBMP.Topic = true, "routeviews.ours.64500.bmp_raw"
	c.Kafka.Brokers = []string{"kafka.example.net:9092"}
	if err := c.Validate(); err != nil {
		t.Errorf("on two clusters: %v", err)
	}
	c.Ingest.OpenBMP.Brokers = c.Kafka.Brokers
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "kafka.openbmp.topic") {
		t.Errorf("on one cluster: %v", err)
	}
	c.Kafka.OpenBMP.Topic = "openbmp.bmp_raw"
	if err := c.Validate(); err != nil {
		t.Errorf("another topic: %v", err)
	}
}
