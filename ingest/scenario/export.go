package scenario

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/mrt"
)

// RIBFile is one collector's table dump. MRT does not name the collector, the file's name does.
type RIBFile struct {
	Collector string
	Path      string
}

// Files are what WriteBaseline wrote, in the formats in which the same comes from the Internet.
type Files struct {
	RIBs  []RIBFile // MRT TABLE_DUMP_V2, one for each collector, in order of their names
	VRPs  string    // JSON as rpki-client writes it
	ASRel string    // CAIDA serial-1
	ASOrg string    // CAIDA as2org
}

// WriteBaseline writes what is known before the first update, as if at t, into dir, which must
// exist. Files of the same names are replaced.
func (s *Scenario) WriteBaseline(dir string, t time.Time) (Files, error) {
	files := Files{
		VRPs: filepath.Join(dir, "vrps.json"), ASRel: filepath.Join(dir, "as-rel.txt"), ASOrg: filepath.Join(dir, "as-org.txt"),
	}
	tables := map[string][]ingest.Update{}
	for _, u := range s.RIB() {
		u.Time = ingest.TimeOf(t)
		tables[u.Peer.Collector] = append(tables[u.Peer.Collector], u)
	}
	var collectors []string
	for c := range tables {
		collectors = append(collectors, c)
	}
	slices.Sort(collectors)
	for _, c := range collectors {
		// A collector's name may have a slash; a file's may not.
		f := RIBFile{c, filepath.Join(dir, "rib."+strings.ReplaceAll(c, "/", "_")+".mrt")}
		err := writeFile(f.Path, func(w io.Writer) error { return mrt.NewWriter(w).RIB(ingest.TimeOf(t), c, tables[c]) })
		if err != nil {
			return files, err
		}
		files.RIBs = append(files.RIBs, f)
	}
	if err := writeFile(files.VRPs, s.WriteVRPs); err != nil {
		return files, err
	}
	if err := writeFile(files.ASRel, s.WriteASRel); err != nil {
		return files, err
	}
	return files, writeFile(files.ASOrg, s.WriteASOrg)
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("baseline: %w", err)
	}
	w := bufio.NewWriter(f)
	if err = write(w); err == nil {
		err = w.Flush()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("baseline %s: %w", path, err)
	}
	return nil
}

// WriteVRPs writes VRPs as rpki-client does.
func (s *Scenario) WriteVRPs(w io.Writer) error {
	type roa struct {
		ASN       uint32 `json:"asn"`
		Prefix    string `json:"prefix"`
		MaxLength int    `json:"maxLength"`
		TA        string `json:"ta"`
	}
	doc := struct {
		ROAs  []roa `json:"roas"`
		ASPAs []int `json:"aspas"`
	}{ROAs: []roa{}, ASPAs: []int{}}
	for _, v := range s.VRPs() {
		doc.ROAs = append(doc.ROAs, roa{v.ASN, v.Prefix.String(), v.MaxLength, "scenario"})
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "\t")
	return e.Encode(doc)
}

// WriteASRel writes Rels in CAIDA's serial-1 form.
func (s *Scenario) WriteASRel(w io.Writer) error {
	for _, r := range s.Rels() {
		kind := -1
		if r.Peer {
			kind = 0
		}
		if _, err := fmt.Fprintf(w, "%d|%d|%d\n", r.A, r.B, kind); err != nil {
			return err
		}
	}
	return nil
}

// WriteASOrg writes Orgs in CAIDA's as2org form. Groups that share an AS are one organisation.
func (s *Scenario) WriteASOrg(w io.Writer) error {
	var orgs [][]uint32
	for _, group := range s.Orgs() {
		merged := slices.Clone(group)
		orgs = slices.DeleteFunc(orgs, func(o []uint32) bool {
			shared := slices.ContainsFunc(o, func(a uint32) bool { return slices.Contains(group, a) })
			if shared {
				merged = append(merged, o...)
			}
			return shared
		})
		slices.Sort(merged)
		orgs = append(orgs, slices.Compact(merged))
	}
	fmt.Fprintln(w, "# format:org_id|changed|org_name|country|source")
	for _, o := range orgs {
		fmt.Fprintf(w, "ORG-%d|20260101|AS%d and siblings||scenario\n", o[0], o[0])
	}
	_, err := fmt.Fprintln(w, "# format:aut|changed|aut_name|org_id|opaque_id|source")
	for _, o := range orgs {
		for _, asn := range o {
			_, err = fmt.Fprintf(w, "%d|20260101|AS%d|ORG-%d||scenario\n", asn, asn, o[0])
		}
	}
	return err
}

// WriteDelegated writes Delegations as one file of delegated-extended statistics.
func (s *Scenario) WriteDelegated(w io.Writer) error {
	var records []string
	for _, d := range s.Delegations() {
		day := ""
		if !d.Since.IsZero() {
			day = d.Since.Format("20060102")
		}
		record := func(kind, start string, value int) {
			records = append(records, fmt.Sprintf("%s||%s|%s|%d|%s|%s|%s\n", d.Registry, kind, start, value, day, d.Status, d.Holder))
		}
		for _, p := range d.Prefixes {
			if p.Addr().Is4() {
				record("ipv4", p.Addr().String(), 1<<(32-p.Bits()))
			} else {
				record("ipv6", p.Addr().String(), p.Bits())
			}
		}
		for _, a := range d.ASNs {
			record("asn", formatASN(a), 1)
		}
	}
	start := s.Start.Format("20060102")
	if _, err := fmt.Fprintf(w, "2|nro|%s|%d|%s|%s|+0000\n", start, len(records), start, start); err != nil {
		return err
	}
	_, err := io.WriteString(w, strings.Join(records, ""))
	return err
}
