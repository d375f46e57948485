package service

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/irr/mirror"
	"github.com/routevigil/routevigil/detect/irr/nrtm/nrtmtest"
	"github.com/routevigil/routevigil/detect/refresh"
)

var mirrors = map[string]func(*nrtmtest.Registry) mirror.Configuration{
	"version 4": func(r *nrtmtest.Registry) mirror.Configuration {
		return mirror.Configuration{Source: "TEST", NRTM4: r.Address, Key: r.Key}
	},
	"version 3": func(r *nrtmtest.Registry) mirror.Configuration {
		return mirror.Configuration{Source: "TEST", NRTM3: r.Server, Dumps: []string{r.Dump}, Serial: r.Serial}
	},
}

// registered is the object by which a network registers its prefix.
func registered(n network) nrtmtest.Route {
	return nrtmtest.Route{Prefix: n.prefix.String(), Origin: n.asn}
}

// whenMirrored waits until the registry is in use with some objects, in a state, and what fails says something.
func (c *client) whenMirrored(entries int, state refresh.State, fault string) {
	c.t.Helper()
	eventually(c.t, func() string {
		var sources struct{ Items []refresh.Status }
		c.get("/api/v1/sources", &sources)
		i := slices.IndexFunc(sources.Items, func(s refresh.Status) bool { return s.Name == "irr-test" })
		if i < 0 || sources.Items[i].Entries != entries || sources.Items[i].State != state ||
			!strings.Contains(sources.Items[i].LastError, fault) || (fault == "") != (sources.Items[i].LastError == "") {
			return fmt.Sprintf("sources are %+v, want irr-test, %s, with %d objects and the error %q", sources.Items, state, entries, fault)
		}
		return ""
	})
}

// whenJudged waits until the incident about victim(i) has what the registries say as evidence.
func (c *client) whenJudged(i int, state, rule string) {
	c.t.Helper()
	eventually(c.t, func() string {
		for _, inc := range c.incidents("") {
			if slices.Contains(inc.Victims, victim(i).asn) && inc.Prefixes[0].IRR == state &&
				slices.ContainsFunc(inc.Evidence, func(e incident.Evidence) bool { return e.Rule == rule && e.Source == "irr" }) {
				return ""
			}
		}
		return fmt.Sprintf("incidents are %+v, want one about AS%d with %s", c.incidents(""), victim(i).asn, rule)
	})
}

// What a mirrored registry says, and what it says later, is evidence; while it fails, what it said stays in use, and why
// it fails can be seen.
func TestMirroredRegistry(t *testing.T) {
	for name, configured := range mirrors {
		t.Run(name, func(t *testing.T) {
			r := nrtmtest.New(t)
			r.Add(registered(victim(0)))
			r.Restart()
			f := newFeed(t)
			c := configuration(t, f.url())
			c.Knowledge.IRR.Mirrors = []mirror.Configuration{configured(r)}
			dump := filepath.Join(t.TempDir(), "test.db") // says otherwise, but what is mirrored counts
			if err := os.WriteFile(dump, fmt.Appendf(nil, "route: %s\norigin: AS%d\nsource: TEST\n", victim(0).prefix, attacker(0).asn), 0o600); err != nil {
				t.Fatal(err)
			}
			c.Knowledge.IRR.Files = []string{dump}
			c.Knowledge.Refresh.Mirrors = 200 * time.Millisecond
			var s *running
			r.Trusted(func() { s = start(t, c) })
			s.whenReady(f)
			s.whenMirrored(1, refresh.Fresh, "")
			f.background(t, 5*time.Millisecond)
			tell := func(i int) {
				t.Helper()
				if err := f.tell(hijack(i, 0, sessions)...); err != nil {
					t.Fatal(err)
				}
			}
			tell(0)
			s.whenJudged(0, "contradicted", "irr.contradicted")
			r.Add(registered(victim(1)))
			s.whenMirrored(2, refresh.Fresh, "")
			tell(1)
			s.whenJudged(1, "contradicted", "irr.contradicted")

			reason := "signature"
			if name == "version 3" {
				reason = "gap"
				r.Restart() // its dumps are too young to be read again
			} else {
				r.Fail(nrtmtest.Forged)
			}
			s.whenMirrored(2, refresh.Stale, reason)
			var metrics string
			if s.get("/metrics", &metrics); !strings.Contains(metrics, fmt.Sprintf(`routevigil_irr_mirror_failures_total{reason="%s",source="TEST"}`, reason)) {
				t.Errorf("the metrics do not count the failures for reason %q", reason)
			}
			if _, reasons := s.ready(); !strings.Contains(reasons, "irr-test") {
				t.Errorf("readyz says: %s", reasons)
			}
			r.Fail(nrtmtest.Down)
			if err := s.stop(); err != nil {
				t.Fatal(err)
			}
			r.Trusted(func() { s = start(t, c) })
			s.whenMirrored(2, refresh.Stale, ":")
		})
	}
}

// A program that was killed has what it had mirrored, also while the registry is away.
func TestMirrorAfterKill(t *testing.T) {
	for name, configured := range mirrors {
		t.Run(name, func(t *testing.T) {
			r := nrtmtest.New(t)
			r.Add(registered(victim(0)))
			r.Restart()
			r.Add(registered(victim(1)))
			trusted := filepath.Join(t.TempDir(), "trusted.pem")
			if err := os.WriteFile(trusted, r.Certificate(), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("SSL_CERT_FILE", trusted)
			f := newFeed(t)
			c := configuration(t, f.url())
			c.Knowledge.IRR.Mirrors = []mirror.Configuration{configured(r)}
			p := launch(t, c)
			p.whenMirrored(2, refresh.Fresh, "")
			if err := p.command.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = p.wait() // as it was killed
			r.Fail(nrtmtest.Down)
			p = launch(t, c)
			p.whenMirrored(2, refresh.Fresh, ":")
			p.whenReady(f)
			f.background(t, 5*time.Millisecond)
			if err := f.tell(hijack(1, 0, sessions)...); err != nil {
				t.Fatal(err)
			}
			p.whenJudged(1, "contradicted", "irr.contradicted")
		})
	}
}
