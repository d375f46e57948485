// Package whois asks an IRRd server single questions, in the query language that it took over from
// RAToolSet (!g, !6, !i, !r), for where no copy of a registry is at hand. It is a fallback: an answer
// takes a round trip, and nothing proves who gave it.
package whois

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/routevigil/routevigil/detect/irr/rpsl"
)

// MaxAnswer bounds an answer in bytes. The largest sets in use make about 2 MB.
const MaxAnswer = 64 << 20

const maxLine = 4096 // of all but the data

// Client says whom to ask.
type Client struct {
	Address string // host:port, usually port 43
	// Sources are the registries to ask, the best first. They must be given, since the servers' own
	// orders differ.
	Sources []string
	Dial    func(ctx context.Context, network, address string) (net.Conn, error)
	Timeout time.Duration // for each question
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
	if len(c.Sources) == 0 {
		return nil, errors.New("whois: no sources are named")
	}
	for _, s := range c.Sources {
		if !sourceName.MatchString(s) {
			return nil, fmt.Errorf("whois: %q is no name of a source", s)
		}
	}
	dialing, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	conn, err := c.Dial(dialing, "tcp", c.Address)
	if err != nil {
		return nil, fmt.Errorf("whois: %w", err)
	}
	s := &Session{conn: conn, in: bufio.NewReaderSize(conn, maxLine), timeout: c.Timeout, address: c.Address,
		stop: context.AfterFunc(ctx, func() { _ = conn.Close() })}
	// "!!" keeps the connection open; it has no answer.
	if _, _, err := s.ask("!!\n!s" + strings.Join(c.Sources, ",")); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("whois: %w", err)
	}
	return s, nil
}

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

// Members returns the members of an as-set or route-set as they are written; recursively, all ASes or
// prefixes that the server finds within, which it may bound as it likes. found is false where no
// source has the set.
func (s *Session) Members(set string, recursively bool) (members []string, found bool, err error) {
	if !setName.MatchString(set) {
		return nil, false, fmt.Errorf("whois: %q is no name of a set", set)
	}
	query := "!i" + set
	if recursively {
		query += ",1"
	}
	data, found, err := s.ask(query)
	return strings.Fields(string(data)), found, err
}

// Covering hands the route objects for p and for all that contains it to add, which must not keep them.
// Malformed ones are passed over.
func (s *Session) Covering(p netip.Prefix, add func(*rpsl.Object)) error {
	data, _, err := s.ask("!r" + p.Masked().String() + ",L")
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
