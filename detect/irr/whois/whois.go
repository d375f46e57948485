// Package whois asks an IRRd server single questions, in the query language that it took over from
// RAToolSet (!g, !6, !i, !m, !r), for where no copy of a registry is at hand. It is a fallback: an answer
// takes a round trip, and nothing proves who gave it.
package whois

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/routevigil/routevigil/detect/irr/rpsl"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// MaxAnswer bounds an answer in bytes. The largest sets in use make about 2 MB.
const MaxAnswer = 64 << 20

const maxLine = 4096 // of all but the data

// Client says whom to ask.
type Client struct {
	Address string        // host:port, usually port 43
	Sources []string      // registries to ask, the best first; none for those of the server, in its order
	Timeout time.Duration // for each question; 30 s when 0
}

// Session is an open connection, for one question after another. After an error other than a
// ServerError it can only be closed.
type Session struct {
	conn    net.Conn
	in      *bufio.Reader
	timeout time.Duration
	address string
	stop    func() bool
	broken  error
}

// ServerError is what a server answered instead of doing as it was told. The session goes on.
type ServerError struct {
	Query, Message string
}

func (e *ServerError) Error() string {
	return fmt.Sprintf("the answer to %s is: %s", e.Query, e.Message)
}

var (
	sourceName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	setName    = regexp.MustCompile(`^[A-Za-z0-9:_.-]+$`)
)

// Open connects and chooses the sources. Until the session is closed, the end of ctx ends it too.
func (c Client) Open(ctx context.Context) (*Session, error) {
	for _, s := range c.Sources {
		if !sourceName.MatchString(s) {
			return nil, fmt.Errorf("whois: %q is no name of a source", s)
		}
	}
	timeout := cmp.Or(c.Timeout, defaultTimeout)
	dialing, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(dialing, "tcp", c.Address)
	if err != nil {
		return nil, fmt.Errorf("whois: %w", err)
	}
	return begin(ctx, conn, c, timeout)
}

// begin opens a session on a connection.
func begin(ctx context.Context, conn net.Conn, c Client, timeout time.Duration) (*Session, error) {
	s := &Session{conn: conn, in: bufio.NewReaderSize(conn, maxLine), timeout: timeout, address: c.Address,
		stop: context.AfterFunc(ctx, func() { _ = conn.Close() })}
	first := "!nroutevigil"
	if len(c.Sources) > 0 {
		first = "!s" + strings.Join(c.Sources, ",")
	}
	// "!!" keeps the connection open; it has no answer.
	if _, _, err := s.ask("!!\n" + first); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("whois: %w", err)
	}
	return s, nil
}

const defaultTimeout = 30 * time.Second

// Close ends the session.
func (s *Session) Close() error {
	s.stop()
	if s.broken == nil {
		_ = s.conn.SetDeadline(time.Now().Add(s.timeout))
		_, _ = io.WriteString(s.conn, "!q\n")
	}
	return s.conn.Close()
}

// Prefixes returns the prefixes of the route and route6 objects that name an AS as origin.
func (s *Session) Prefixes(asn uint32) ([]netip.Prefix, error) {
	var ps []netip.Prefix
	for _, query := range []string{"!gAS%d", "!6AS%d"} {
		data, _, err := s.ask(fmt.Sprintf(query, asn))
		if err != nil {
			return nil, err
		}
		for _, w := range bytes.Fields(data) {
			p, err := netip.ParsePrefix(string(w))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.address, err)
			}
			ps = append(ps, p)
		}
	}
	return ps, nil
}

// ASSet returns all ASes within an as-set, given by its name or as SOURCE::NAME, sorted: what the server finds, which
// it may bound as it likes. found is false where no source has the set.
func (s *Session) ASSet(name string) (asns []uint32, found bool, err error) {
	if !setName.MatchString(name) {
		return nil, false, fmt.Errorf("whois: %q is no name of a set", name)
	}
	if _, local, qualified := strings.Cut(name, "::"); qualified {
		name = local // which source is asked first was chosen at the beginning
	}
	data, found, err := s.ask("!i" + name + ",1")
	for _, w := range strings.Fields(string(data)) {
		a, err := bgp.ParseASN(strings.TrimPrefix(strings.ToUpper(w), "AS"))
		if err != nil {
			return nil, false, fmt.Errorf("%s: %w", s.address, err)
		}
		asns = append(asns, a)
	}
	slices.Sort(asns)
	return slices.Compact(asns), found, err
}

// ASSets returns the ASes within each of some as-sets. One that no source has, or that the server refuses, is missing.
func (s *Session) ASSets(names []string) (map[string][]uint32, error) {
	sets := map[string][]uint32{}
	for _, name := range names {
		asns, found, err := s.ASSet(name)
		var refused *ServerError
		if err != nil && !errors.As(err, &refused) {
			return nil, err
		}
		if found {
			sets[name] = asns
		}
	}
	return sets, nil
}

// AutNum hands the aut-num object of an AS to add, which must not keep it. There may be none.
func (s *Session) AutNum(asn uint32, add func(*rpsl.Object)) error {
	return s.objects(fmt.Sprintf("!maut-num,AS%d", asn), add)
}

// Covering hands the route objects for p and for all that contains it to add, which must not keep them.
// Malformed ones are passed over.
func (s *Session) Covering(p netip.Prefix, add func(*rpsl.Object)) error {
	return s.objects("!r"+p.Masked().String()+",L", add)
}

func (s *Session) objects(query string, add func(*rpsl.Object)) error {
	data, _, err := s.ask(query)
	if err != nil {
		return err
	}
	r, err := rpsl.NewReader(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("%s: %w", s.address, err)
	}
	for {
		switch o, err := r.Next(); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("%s: %w", s.address, err)
		default:
			add(o)
		}
	}
}

// ask sends a query and reads its answer: A, a length, that much data and C; or C, no data; D, no
// such key; F or E, an error.
func (s *Session) ask(query string) (data []byte, found bool, err error) {
	if s.broken != nil {
		return nil, false, s.broken
	}
	data, found, err = s.exchange(query)
	var refused *ServerError
	if err != nil && !errors.As(err, &refused) {
		err = fmt.Errorf("%s: %s: %w", s.address, query, err)
		s.broken = err
	}
	return data, found, err
}

func (s *Session) exchange(query string) ([]byte, bool, error) {
	_ = s.conn.SetDeadline(time.Now().Add(s.timeout)) // where this fails, so does the writing
	if _, err := io.WriteString(s.conn, query+"\n"); err != nil {
		return nil, false, err
	}
	line, err := s.line()
	if err != nil {
		return nil, false, err
	}
	switch {
	case line == "C":
		return nil, true, nil
	case line == "D":
		return nil, false, nil
	case strings.HasPrefix(line, "F") || line == "E":
		return nil, false, &ServerError{query, strings.TrimSpace(line)}
	case !strings.HasPrefix(line, "A"):
		return nil, false, fmt.Errorf("unexpected answer %.80q", line)
	}
	n, err := strconv.ParseUint(line[1:], 10, 63)
	if err != nil {
		return nil, false, fmt.Errorf("unexpected answer %.80q", line)
	}
	if n > MaxAnswer {
		return nil, false, fmt.Errorf("an answer of %d bytes, more than %d", n, MaxAnswer)
	}
	var data bytes.Buffer // grows with what comes, not with what is announced
	if _, err := io.CopyN(&data, s.in, int64(n)); err != nil {
		return nil, false, unexpected(err)
	}
	if line, err = s.line(); err != nil {
		return nil, false, err
	}
	if line != "C" {
		return nil, false, fmt.Errorf("%.80q follows the data, not C", line)
	}
	return data.Bytes(), true, nil
}

func (s *Session) line() (string, error) {
	line, err := s.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return "", fmt.Errorf("a line longer than %d bytes", maxLine)
	}
	if err != nil {
		return "", unexpected(err)
	}
	return strings.TrimRight(string(line), "\r\n"), nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
