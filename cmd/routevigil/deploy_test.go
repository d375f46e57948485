package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"go.yaml.in/yaml/v3"

	"github.com/routevigil/routevigil/alert"
	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/cmd/routevigil/service"
	"github.com/routevigil/routevigil/ingest/bus/kafkabus"
)

// The tests of this file keep what deploy/ says and what the program does the same, as far as that can be
// known without a container engine: commands, configurations, probes, metrics.

const (
	composeFile = "docker-compose.yml"
	clusterFile = "deploy/compose.cluster.yaml"
	manifests   = "deploy/kubernetes"
)

// documents decodes all documents of a YAML file.
func documents[T any](t *testing.T, name string) []T {
	t.Helper()
	var all []T
	decoder := yaml.NewDecoder(bytes.NewReader(read(t, name)))
	for {
		var d T
		switch err := decoder.Decode(&d); {
		case errors.Is(err, io.EOF):
			return all
		case err != nil:
			t.Fatalf("%s: %v", name, err)
		}
		all = append(all, d)
	}
}

// files lists those below dir, from the root of the repository, whose names end in suffix.
func files(t *testing.T, dir, suffix string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasSuffix(path, suffix) {
			path, err = filepath.Rel(root, path)
			all = append(all, path)
		}
		return err
	})
	if err != nil || len(all) == 0 {
		t.Fatalf("%d files %s in %s: %v", len(all), suffix, dir, err)
	}
	return all
}

func TestDeployedYAML(t *testing.T) {
	for _, name := range append(files(t, "deploy", ".yaml"), composeFile) {
		if len(documents[map[string]any](t, name)) == 0 {
			t.Errorf("%s is empty", name)
		}
	}
}

// pinned reports whether an image has a tag that names a version.
func pinned(image string) bool {
	_, tag, _ := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":")
	return regexp.MustCompile(`[0-9]`).MatchString(tag)
}

// checkCommand fails where the program does not know the command or a flag, or where the configuration that the
// command names has a mistake. configurations holds the files of the repository by their paths there; of the
// environment there is only what env names.
func checkCommand(t *testing.T, args []string, configurations map[string]string, env []string) {
	t.Helper()
	c := commands{}
	if _, err := newParser(&c).Parse(args); err != nil {
		t.Errorf("routevigil %s: %v", strings.Join(args, " "), err)
	}
	i := slices.Index(args, "-c")
	if i < 0 {
		return
	}
	file := configurations[args[i+1]]
	if file == "" {
		t.Errorf("routevigil %s: nothing is at %s, only at %v", strings.Join(args, " "), args[i+1], slices.Collect(maps.Keys(configurations)))
		return
	}
	for _, name := range env {
		t.Setenv(name, "something")
	}
	loaded, err := config.Load(filepath.Join(root, file))
	if err != nil {
		t.Errorf("routevigil %s: %v", strings.Join(args, " "), err)
	} else if port := "8480"; !strings.HasSuffix(loaded.API.Listen, ":"+port) {
		t.Errorf("%s listens on %s, but all that asks, asks port %s", file, loaded.API.Listen, port)
	}
}

type composeProject struct {
	Services map[string]composeService
	Volumes  map[string]any
	dir      string // to which its paths are relative
}

type composeService struct {
	Image       string
	Build       struct{ Context, Dockerfile string }
	Profiles    []string
	Command     []string
	Environment map[string]string
	Volumes     []string
	Ports       []string
	ReadOnly    bool           `yaml:"read_only"`
	CapDrop     []string       `yaml:"cap_drop"`
	SecurityOpt []string       `yaml:"security_opt"`
	MemLimit    string         `yaml:"mem_limit"`
	DependsOn   map[string]any `yaml:"depends_on"`
	Healthcheck map[string]any
}

// ours reports whether a service runs this program.
func (s composeService) ours() bool { return s.Image == "routevigil" }

func compose(t *testing.T, name string) composeProject {
	t.Helper()
	p := documents[composeProject](t, name)[0]
	p.dir = filepath.Dir(name)
	return p
}

// configurations is where the files of the repository are that a service is given, beside that of the image.
func (p composeProject) configurations(s composeService) map[string]string {
	at := map[string]string{"/etc/routevigil/routevigil.yaml": "deploy/container.yaml"}
	for _, v := range s.Volumes {
		if from, to, _ := strings.Cut(v, ":"); strings.HasPrefix(from, ".") {
			at[strings.TrimSuffix(to, ":ro")] = filepath.Join(p.dir, from)
		}
	}
	return at
}

func TestComposeFiles(t *testing.T) {
	if s := compose(t, composeFile).Services["routevigil"]; s.Build.Dockerfile == "" || len(s.Profiles) > 0 {
		t.Errorf("the service routevigil of %s must be built from this repository, and start without a profile", composeFile)
	}
	for _, name := range []string{composeFile, clusterFile} {
		p := compose(t, name)
		for service, s := range p.Services {
			t.Run(filepath.Base(name)+"/"+service, func(t *testing.T) {
				if s.Build.Dockerfile != "" {
					read(t, filepath.Join(p.dir, s.Build.Context, s.Build.Dockerfile))
				}
				if !s.ours() && !pinned(s.Image) {
					t.Errorf("the image %q must be pinned to a version", s.Image)
				}
				for _, v := range s.Volumes {
					source, _, _ := strings.Cut(v, ":")
					if strings.HasPrefix(source, ".") {
						if _, err := os.Stat(filepath.Join(root, p.dir, source)); err != nil {
							t.Error(err)
						}
					} else if _, declared := p.Volumes[source]; !declared {
						t.Errorf("the volume %s is not declared", source)
					}
				}
				for other := range s.DependsOn {
					if _, there := p.Services[other]; !there {
						t.Errorf("it depends on %s, which is not there", other)
					}
				}
				for _, port := range s.Ports {
					if !strings.HasPrefix(port, "127.0.0.1:") {
						t.Errorf("port %s is open to everybody", port)
					}
				}
				if !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
					t.Error("it may gain privileges")
				}
				for key, value := range s.Environment {
					if strings.HasSuffix(key, "PASSWORD") && !regexp.MustCompile(`^\$\{[A-Z_]+:\?`).MatchString(value) {
						t.Errorf("%s must come from outside, and nothing start without it", key)
					}
				}
				if !s.ours() {
					if s.MemLimit == "" || s.Healthcheck == nil {
						t.Error("it has no limit of memory or no health check")
					}
					return
				}
				if !s.ReadOnly || !slices.Contains(s.CapDrop, "ALL") {
					t.Error("its root file system can be written to, or it has capabilities")
				}
				if s.Command != nil {
					checkCommand(t, s.Command, p.configurations(s), slices.Collect(maps.Keys(s.Environment)))
				}
			})
		}
	}
}

// Each role that writes runs twice, and no store is written by two.
func TestComposedRoles(t *testing.T) {
	p := compose(t, clusterFile)
	roles, directories := map[string]int{}, map[string]string{}
	for name, s := range p.Services {
		if !s.ours() {
			continue
		}
		roles[s.Command[0]]++
		for _, v := range s.Volumes {
			if volume, _, _ := strings.Cut(v, ":"); !strings.HasPrefix(volume, ".") {
				if other := directories[volume]; other != "" {
					t.Errorf("%s and %s write to the same volume", name, other)
				}
				directories[volume] = name
			}
		}
	}
	if want := map[string]int{"kafka": 1, "collect": 2, "detect": 2, "record": 2, "api": 1}; !reflect.DeepEqual(roles, want) {
		t.Errorf("there are %v, want %v", roles, want)
	}
}

// The configuration for ClickHouse is the other one with another store.
func TestDeployedConfigurationsAgree(t *testing.T) {
	t.Setenv("CLICKHOUSE_PASSWORD", "x")
	load := func(name string) config.Config {
		c, err := config.Load(filepath.Join(root, manifests, name))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	one, other := load("base/routevigil.yaml"), load("clickhouse/clickhouse.yaml")
	if one.Store.Kind == other.Store.Kind {
		t.Errorf("both have a store of kind %s", one.Store.Kind)
	}
	other.Store = one.Store
	if !reflect.DeepEqual(one, other) {
		t.Error("they differ in more than the store")
	}
}

func TestContainerfile(t *testing.T) {
	text := string(read(t, "deploy/Containerfile"))
	for _, m := range regexp.MustCompile(`(?m)^FROM (\S+)`).FindAllStringSubmatch(text, -1) {
		if m[1] != "scratch" && !pinned(m[1]) {
			t.Errorf("the image %q must be pinned to a version", m[1])
		}
	}
	list := func(expression string) (args []string) {
		m := regexp.MustCompile(expression).FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("%s is missing", expression)
		}
		if err := json.Unmarshal([]byte(m[1]), &args); err != nil {
			t.Fatal(err)
		}
		return args
	}
	at := map[string]string{"/etc/routevigil/routevigil.yaml": "deploy/container.yaml"}
	program := list(`(?m)^ENTRYPOINT (.*)$`)[0]
	checkCommand(t, list(`(?m)^CMD (.*)$`), at, nil)
	health := list(`(?m)^HEALTHCHECK .*CMD (.*)$`)
	if health[0] != program {
		t.Errorf("the health check runs %s, the program is %s", health[0], program)
	}
	checkCommand(t, health[1:], at, nil)
	for _, m := range regexp.MustCompile(`(?m)^#.* routevigil (serve .*)$`).FindAllStringSubmatch(text, -1) {
		checkCommand(t, strings.Fields(m[1]), at, nil)
	}
	if !regexp.MustCompile(`(?m)^USER [1-9]`).MatchString(text) {
		t.Error("it runs as root")
	}
}

func TestSystemdUnits(t *testing.T) {
	settings := func(name string) (line string, hardening []string) {
		for l := range strings.Lines(string(read(t, name))) {
			l = strings.TrimSpace(l)
			if v, ok := strings.CutPrefix(l, "ExecStart="); ok {
				line = v
			} else if key, _, ok := strings.Cut(l, "="); ok && !strings.HasPrefix(l, "#") &&
				!slices.Contains([]string{"Description", "LoadCredential", "StateDirectory", "WorkingDirectory"}, key) {
				hardening = append(hardening, l)
			}
		}
		return line, hardening
	}
	check := func(line, file string) {
		args := strings.Fields(line)
		if args[0] != "/usr/local/bin/routevigil" {
			t.Errorf("it starts %s", args[0])
		}
		c := commands{}
		if _, err := newParser(&c).Parse(args[1:]); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		if !strings.Contains(string(read(t, file)), "LoadCredential=routevigil.yaml:") || args[len(args)-1] != "${CREDENTIALS_DIRECTORY}/routevigil.yaml" {
			t.Errorf("%s: the configuration is not the credential", file)
		}
	}
	whole, hardening := settings("deploy/routevigil.service")
	check(whole, "deploy/routevigil.service")
	template, same := settings("deploy/routevigil@.service")
	for _, role := range []string{"collect", "detect", "record"} {
		check(strings.ReplaceAll(template, "%i", role), "deploy/routevigil@.service")
	}
	if !slices.Equal(hardening, same) {
		t.Errorf("the units differ in more than the role:\n%v\n%v", hardening, same)
	}
}

type kubeObject struct {
	Kind     string
	Metadata struct{ Name, Namespace string }
	Spec     struct {
		Replicas    int
		ServiceName string `yaml:"serviceName"`
		Selector    yaml.Node
		PodSelector struct {
			MatchLabels map[string]string `yaml:"matchLabels"`
		} `yaml:"podSelector"`
		Template struct {
			Metadata struct{ Labels map[string]string }
			Spec     struct {
				SecurityContext struct {
					RunAsNonRoot   bool                  `yaml:"runAsNonRoot"`
					SeccompProfile struct{ Type string } `yaml:"seccompProfile"`
				} `yaml:"securityContext"`
				Containers []kubeContainer
				Volumes    []struct {
					Name      string
					ConfigMap struct{ Name string } `yaml:"configMap"`
				}
			}
		}
		VolumeClaimTemplates []struct{ Metadata struct{ Name string } } `yaml:"volumeClaimTemplates"`
	}
}

type kubeContainer struct {
	Image           string
	Args            []string
	StartupProbe    *kubeProbe `yaml:"startupProbe"`
	LivenessProbe   *kubeProbe `yaml:"livenessProbe"`
	ReadinessProbe  *kubeProbe `yaml:"readinessProbe"`
	SecurityContext struct {
		AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
		ReadOnlyRootFilesystem   bool  `yaml:"readOnlyRootFilesystem"`
		Capabilities             struct{ Drop []string }
	} `yaml:"securityContext"`
	Resources    struct{ Requests, Limits map[string]string }
	VolumeMounts []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
	} `yaml:"volumeMounts"`
}

type kubeProbe struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

type kustomization struct {
	Resources          []string
	ConfigMapGenerator []struct {
		Name  string
		Files []string
	} `yaml:"configMapGenerator"`
}

// kubernetes returns the objects of a folder, and the files of each generated ConfigMap as they are mounted there.
func kubernetes(t *testing.T, dir string) (objects []kubeObject, configMaps map[string][]string) {
	t.Helper()
	k := documents[kustomization](t, filepath.Join(dir, "kustomization.yaml"))[0]
	for _, r := range k.Resources {
		if strings.HasSuffix(r, ".yaml") {
			objects = append(objects, documents[kubeObject](t, filepath.Join(dir, r))...)
		} else {
			read(t, filepath.Join(dir, r, "kustomization.yaml"))
		}
	}
	configMaps = map[string][]string{}
	for _, g := range k.ConfigMapGenerator {
		for _, f := range g.Files {
			configMaps[g.Name] = append(configMaps[g.Name], filepath.Join(dir, f))
		}
	}
	return objects, configMaps
}

// selects decodes a selector, which services have and sets of labels for all others.
func (o kubeObject) selects(t *testing.T) map[string]string {
	t.Helper()
	var nested struct {
		MatchLabels map[string]string `yaml:"matchLabels"`
	}
	flat := map[string]string{}
	if o.Spec.Selector.Decode(&nested) == nil && nested.MatchLabels != nil {
		return nested.MatchLabels
	}
	if err := o.Spec.Selector.Decode(&flat); err != nil {
		t.Fatal(err)
	}
	return flat
}

func TestKubernetes(t *testing.T) {
	roles := map[string]bool{}
	for _, dir := range []string{"base", "clickhouse"} {
		objects, configMaps := kubernetes(t, filepath.Join(manifests, dir))
		budgets, services := map[string]kubeObject{}, map[string]kubeObject{}
		for _, o := range objects {
			if o.Metadata.Namespace != "" {
				t.Errorf("%s %s names a namespace", o.Kind, o.Metadata.Name)
			}
			switch o.Kind {
			case "PodDisruptionBudget":
				budgets[o.Metadata.Name] = o
			case "Service":
				services[o.Metadata.Name] = o
			}
		}
		for _, o := range objects {
			if o.Kind != "StatefulSet" && o.Kind != "Deployment" && o.Kind != "Job" {
				continue
			}
			t.Run(o.Metadata.Name, func(t *testing.T) {
				pod := o.Spec.Template
				if len(pod.Spec.Containers) != 1 {
					t.Fatalf("it has %d containers", len(pod.Spec.Containers))
				}
				c := pod.Spec.Containers[0]
				if !pinned(c.Image) {
					t.Errorf("the image %q must be pinned to a version", c.Image)
				}
				// The Pod Security Standard "restricted".
				if s := pod.Spec.SecurityContext; !s.RunAsNonRoot || s.SeccompProfile.Type != "RuntimeDefault" {
					t.Errorf("the pod's security context is %+v", s)
				}
				if s := c.SecurityContext; s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || !slices.Equal(s.Capabilities.Drop, []string{"ALL"}) || !s.ReadOnlyRootFilesystem {
					t.Errorf("the container's security context is %+v", s)
				}
				if c.Resources.Limits["memory"] == "" || c.Resources.Requests["cpu"] == "" {
					t.Errorf("its resources are %v", c.Resources)
				}
				at := map[string]string{}
				for _, m := range c.VolumeMounts {
					known := m.Name == "data" && len(o.Spec.VolumeClaimTemplates) == 1 && o.Spec.VolumeClaimTemplates[0].Metadata.Name == "data"
					for _, v := range pod.Spec.Volumes {
						if v.Name != m.Name {
							continue
						}
						known = true
						for _, f := range configMaps[v.ConfigMap.Name] {
							at[filepath.Join(m.MountPath, filepath.Base(f))] = f
						}
					}
					if !known {
						t.Errorf("%s mounts %s, which is no volume", o.Metadata.Name, m.Name)
					}
				}
				env := []string{"CLICKHOUSE_PASSWORD"} // of the secret clickhouse
				if dir == "base" {
					env = nil
				}
				checkCommand(t, c.Args, at, env)
				if o.Kind == "Job" {
					return
				}
				roles[c.Args[0]] = true
				probe := func(what string, p *kubeProbe, path string) {
					if p == nil || p.HTTPGet.Path != path || p.HTTPGet.Port != "http" {
						t.Errorf("the %s probe is %+v, want %s", what, p, path)
					}
				}
				probe("startup", c.StartupProbe, "/healthz")
				probe("liveness", c.LivenessProbe, "/healthz")
				probe("readiness", c.ReadinessProbe, "/readyz")
				matches := func(what string, o kubeObject, labels map[string]string) {
					if len(labels) == 0 {
						t.Errorf("the %s selects nothing", what)
					}
					for k, v := range labels {
						if pod.Metadata.Labels[k] != v {
							t.Errorf("the %s %s selects %s=%s, the pod has %v", what, o.Metadata.Name, k, v, pod.Metadata.Labels)
						}
					}
				}
				matches("set", o, o.selects(t))
				of := services[cmp.Or(o.Spec.ServiceName, o.Metadata.Name)] // of a Deployment nothing says which
				matches("service", of, of.selects(t))
				if o.Spec.Replicas > 1 {
					matches("budget", budgets[o.Metadata.Name], budgets[o.Metadata.Name].selects(t))
				}
			})
		}
	}
	if !roles["collect"] || !roles["detect"] || !roles["record"] || !roles["api"] {
		t.Errorf("the roles are %v", roles)
	}
}

// exported are the names of the metrics that the source makes: those written out, and those made of a beginning
// and the rest in one file.
func exported(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, dir := range slices.Sorted(maps.Keys(layers)) {
		for _, file := range files(t, dir, ".go") {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			source := string(read(t, file))
			prefix := ""
			if m := regexp.MustCompile(`"(routevigil_[a-z]+_)"`).FindStringSubmatch(source); m != nil {
				prefix = m[1]
			} else if m := regexp.MustCompile(`Namespace: "(routevigil)", Subsystem: "([a-z]+)"`).FindStringSubmatch(source); m != nil {
				prefix = m[1] + "_" + m[2] + "_"
			}
			for _, m := range regexp.MustCompile(`"([a-z_]+)"`).FindAllStringSubmatch(source, -1) {
				if strings.HasPrefix(m[1], "routevigil_") {
					names[m[1]] = true
				} else if prefix != "" {
					names[prefix+m[1]] = true
				}
			}
		}
	}
	return names
}

type dashboard struct {
	Title  string
	Panels []struct {
		Title   string
		Targets []struct{ Expr string }
	}
}

// Dashboards and alerts name only metrics that the program has, and ask the parts of the deployment there are.
func TestMonitoring(t *testing.T) {
	names := exported(t)
	// Of the processes themselves, and of Prometheus.
	others := []string{"up", "process_resident_memory_bytes", "process_cpu_seconds_total"}
	asked := map[string]bool{}
	check := func(where, expr string) {
		found := false
		for _, name := range regexp.MustCompile(`\b(?:routevigil|process|go)_[a-z_]+|\bup\b`).FindAllString(expr, -1) {
			found, asked[name] = true, true
			base := name
			for _, suffix := range []string{"_bucket", "_count", "_sum"} {
				base = strings.TrimSuffix(base, suffix)
			}
			if !names[name] && !names[base] && !slices.Contains(others, name) {
				t.Errorf("%s asks for %s, which is not exported", where, name)
			}
		}
		if !found {
			t.Errorf("%s asks for no metric: %s", where, expr)
		}
	}
	for _, file := range files(t, "deploy/grafana", ".json") {
		var d dashboard
		if err := json.Unmarshal(read(t, file), &d); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				check(file+": "+p.Title, target.Expr)
			}
		}
	}
	rules := documents[struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}](t, "deploy/prometheus/alerts.yaml")[0]
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			check(r.Alert, r.Expr)
		}
	}
	if len(asked) < 30 {
		t.Errorf("only %d metrics are asked for", len(asked))
	}

	p := compose(t, clusterFile)
	prometheus := documents[struct {
		Files []string `yaml:"rule_files"`
		Jobs  []struct {
			Name   string                       `yaml:"job_name"`
			Static []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}](t, "deploy/prometheus/prometheus.yaml")[0]
	at := p.configurations(p.Services["prometheus"])
	for _, file := range prometheus.Files {
		read(t, filepath.Join(at[filepath.Dir(file)], filepath.Base(file)))
	}
	targets := map[string]bool{}
	for _, j := range prometheus.Jobs {
		for _, s := range j.Static {
			for _, target := range s.Targets {
				host, port, err := net.SplitHostPort(target)
				if err != nil || port != "8480" || len(p.Services[host].Command) == 0 || p.Services[host].Command[0] != j.Name {
					t.Errorf("the job %s asks %s", j.Name, target)
				}
				targets[host] = true
			}
		}
	}
	for name, s := range p.Services {
		if s.ours() && s.Command[0] != "kafka" && !targets[name] {
			t.Errorf("Prometheus does not ask %s", name)
		}
	}
}

// The roles, with the configuration they are deployed with, answer where they are asked. They have a broker that
// pretends, and no feed.
func TestDeployedRolesAnswer(t *testing.T) {
	k, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	log := slog.New(slog.DiscardHandler)
	deployed := func() config.Config {
		c, err := config.Load(filepath.Join(root, manifests, "base/routevigil.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		c.Kafka.Brokers, c.API.Listen, c.Store.Directory = k.ListenAddrs(), "127.0.0.1:0", t.TempDir()
		c.Kafka.Takeover = time.Second             // which is how long the first detector waits for another
		c.Ingest.RISLive.URL = "ws://127.0.0.1:1/" // nobody listens there
		return c
	}
	cluster, err := kafkabus.Connect(deployed().Kafka, log)
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	if err := cluster.Init(t.Context(), func(string, string) {}); err != nil {
		t.Fatal(err)
	}
	eventually := func(what func() error) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			err := what()
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	eventually(func() error { return cluster.Check(t.Context()) })

	type role interface {
		Addr() net.Addr
		Run(context.Context) error
	}
	for _, test := range []struct {
		name    string
		start   func(config.Config) (role, error)
		ready   bool
		metrics []string
	}{
		{"collect", func(c config.Config) (role, error) { return service.NewCollector(t.Context(), c, log) }, false,
			[]string{"routevigil_bus_updates_total", "routevigil_kafka_updates_written_total", "routevigil_rislive_connected", "process_cpu_seconds_total"}},
		{"detect", func(c config.Config) (role, error) { return service.NewDetector(t.Context(), c, "test", log) }, true,
			[]string{"routevigil_detect_in_charge", "routevigil_detect_routes", "routevigil_pipeline_updates_total", "routevigil_kafka_duplicates_total", "process_resident_memory_bytes"}},
		{"record", func(c config.Config) (role, error) { return service.NewRecorder(t.Context(), c, true, "test", log) }, true,
			[]string{"routevigil_alerts_in_charge", "routevigil_store_updates_total", "routevigil_store_errors_total", "routevigil_kafka_frames_malformed_total"}},
		{"notify", func(c config.Config) (role, error) {
			c.Alert.Webhooks = append(c.Alert.Webhooks, alert.Webhook{Name: "nobody", URL: "http://127.0.0.1:1/", Secret: "not secret", Timeout: time.Second})
			return service.NewNotifier(t.Context(), c, "test", log)
		}, true,
			[]string{"routevigil_alerts_in_charge", "routevigil_alert_pending", "routevigil_store_errors_total"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			x, err := test.start(deployed())
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- x.Run(ctx) }()
			defer func() {
				stop()
				if err := <-ended; err != nil {
					t.Error(err)
				}
				if c, ok := x.(io.Closer); ok {
					if err := c.Close(); err != nil {
						t.Error(err)
					}
				}
			}()
			get := func(path string) (int, string) {
				r, err := http.Get("http://" + x.Addr().String() + path)
				if err != nil {
					t.Fatal(err)
				}
				defer r.Body.Close()
				b, err := io.ReadAll(r.Body)
				if err != nil {
					t.Fatal(err)
				}
				return r.StatusCode, string(b)
			}
			if status, body := get("/healthz"); status != http.StatusOK {
				t.Errorf("/healthz answers %d %s", status, body)
			}
			if err := (HealthCmd{URL: "http://" + x.Addr().String() + "/healthz", Timeout: 10 * time.Second}).Run(&Globals{Context: t.Context()}); err != nil {
				t.Error(err)
			}
			eventually(func() error {
				status, body := get("/readyz")
				var answer struct {
					Ready   bool
					Reasons []string
				}
				if err := json.Unmarshal([]byte(body), &answer); err != nil {
					return fmt.Errorf("/readyz answers %q: %w", body, err)
				}
				if answer.Reasons == nil {
					return fmt.Errorf("/readyz has no list of reasons: %s", body)
				}
				if answer.Ready != test.ready || test.ready != (status == http.StatusOK) || !test.ready && len(answer.Reasons) == 0 {
					return fmt.Errorf("/readyz answers %d %s", status, body)
				}
				return nil
			})
			_, metrics := get("/metrics")
			for _, name := range test.metrics {
				if !strings.Contains(metrics, "\n"+name) {
					t.Errorf("/metrics has no %s", name)
				}
			}
		})
	}
}
