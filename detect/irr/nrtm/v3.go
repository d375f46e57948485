package nrtm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/routevigil/routevigil/detect/irr/rpsl"
)

// V3 is the client of one registry in version 3, which has neither signatures nor hashes. It is only
// as trustworthy as the network.
type V3 struct {
	Source  string // the registry's name
	Address string // host:port, usually port 43
	Dial    func(ctx context.Context, network, address string) (net.Conn, error)
	// Idle is how long the server may be silent, and must be given. More than a minute is seldom needed.
	Idle time.Duration
}

// GapError says that the server no longer has, or does not have yet, what was asked for. The objects
// must be read from a dump again, with the serial that comes with it.
type GapError struct {
	Source        string
	Wanted        uint64
	First, Latest uint64 // what the server has, as far as it says so
	Message       string // of the server
}

func (e *GapError) Error() string {
	return fmt.Sprintf("NRTM of %s: the server does not have serial %d: %s; load a new dump of the registry", e.Source, e.Wanted, e.Message)
}

// maxUpdate bounds in bytes what one update may bring.
const maxUpdate = 4 << 30

var (
	startLine  = regexp.MustCompile(`(?i)^%START Version: *(\d+) +(\S+) +(\d+)-(\d+)`)
	endLine    = regexp.MustCompile(`(?i)^%END +(\S+)`)
	errorLine  = regexp.MustCompile(`(?i)^%+ *ERROR[: ]*(.*)`)
	emptyLine  = regexp.MustCompile(`(?i)^%+ *(?:WARNING.*)?(?:no updates available|there are no newer updates available)`)
	changeLine = regexp.MustCompile(`^(ADD|DEL) (\d+)$`)
	gapText    = regexp.MustCompile(`(?i)range|within|serial|exist`)
	rangeText  = regexp.MustCompile(`(\d+) *- *(\d+)`)
)

// Update asks for what follows serial and hands it to m. It returns the serial of the last change that
// m has: every change is handed on whole, so what came before an error is good, and the next update may
// go on from there. A GapError says that there is no going on.
func (c V3) Update(ctx context.Context, serial uint64, m Mirror) (uint64, Counts, error) {
	a := newApplier(m, c.Source)
	s := v3session{V3: c, a: a, serial: serial}
	err := s.run(ctx)
	var gap *GapError
	if err != nil && !errors.As(err, &gap) {
		err = fmt.Errorf("NRTM of %s from %s: %w", c.Source, c.Address, err)
	}
	return s.serial, a.counts, err
}

type v3session struct {
	V3
	a      *applier
	serial uint64 // of the last change that was handed on
	latest uint64 // as the server announced
	lines  *bufio.Reader
	line   []byte
	read   int64
}

// patient is a connection that waits no longer than idle for the next bytes.
type patient struct {
	net.Conn
	idle time.Duration
}

func (p patient) Read(b []byte) (int, error) {
	_ = p.SetReadDeadline(time.Now().Add(p.idle)) // where this fails, so does the read
	return p.Conn.Read(b)
}

func (s *v3session) run(ctx context.Context) error {
	conn, err := s.Dial(ctx, "tcp", s.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	s.lines = bufio.NewReaderSize(patient{conn, s.Idle}, 1<<16)
	if err := conn.SetWriteDeadline(time.Now().Add(s.Idle)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(conn, "-g %s:3:%d-LAST\n", s.Source, s.serial+1); err != nil {
		return err
	}
	err = s.changes()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if _, silent := errors.AsType[net.Error](err); silent {
		return err
	}
	return because(Malformed, err)
}

// next reads the next line, without its end.
func (s *v3session) next() (string, error) {
	s.line = s.line[:0]
	for {
		part, err := s.lines.ReadSlice('\n')
		s.read += int64(len(part))
		s.line = append(s.line, part...)
		switch {
		case len(s.line) > rpsl.MaxObject:
			return "", fmt.Errorf("a line longer than %d bytes", rpsl.MaxObject)
		case s.read > maxUpdate:
			return "", fmt.Errorf("more than %d bytes", int64(maxUpdate))
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			return "", io.ErrUnexpectedEOF // nothing ends but by %END
		case err != nil:
			return "", err
		}
		return strings.TrimRight(string(s.line), "\r\n"), nil
	}
}

func (s *v3session) changes() error {
	started := false
	for {
		line, err := s.next()
		if err != nil {
			return err
		}
		switch {
		case line == "":
		case errorLine.MatchString(line):
			return s.refused(errorLine.FindStringSubmatch(line)[1])
		case !started && emptyLine.MatchString(line):
			return nil
		case !started && startLine.MatchString(line):
			if err := s.start(startLine.FindStringSubmatch(line)); err != nil {
				return err
			}
			started = true
		case started && endLine.MatchString(line):
			s.serial = max(s.serial, s.latest)
			return nil
		case line[0] == '%':
		case started && changeLine.MatchString(line):
			if err := s.change(changeLine.FindStringSubmatch(line)); err != nil {
				return err
			}
		default:
			return fmt.Errorf("unexpected line %.80q", line)
		}
	}
}

// refused tells a server that has nothing new from one that cannot go on.
func (s *v3session) refused(message string) error {
	e := &GapError{Source: s.Source, Wanted: s.serial + 1, Message: message}
	if !gapText.MatchString(message) {
		return fmt.Errorf("the server says: %s", message)
	}
	if r := rangeText.FindStringSubmatch(message); r != nil {
		e.First, _ = strconv.ParseUint(r[1], 10, 64)
		e.Latest, _ = strconv.ParseUint(r[2], 10, 64)
	}
	if e.Latest == s.serial && s.serial > 0 {
		return nil
	}
	return e
}

func (s *v3session) start(m []string) error {
	first, err1 := strconv.ParseUint(m[3], 10, 64)
	latest, err2 := strconv.ParseUint(m[4], 10, 64)
	switch {
	case m[1] != "3":
		return fmt.Errorf("the server speaks version %s", m[1])
	case !strings.EqualFold(m[2], s.Source):
		return fmt.Errorf("the server sends %s", m[2])
	case err1 != nil || err2 != nil:
		return fmt.Errorf("the server sends serials %s-%s", m[3], m[4])
	case first > s.serial+1:
		return &GapError{Source: s.Source, Wanted: s.serial + 1, First: first, Latest: latest, Message: fmt.Sprintf("it starts with %d", first)}
	}
	s.latest = latest
	return nil
}

// change reads the object that follows ADD or DEL, and hands it on once it is whole.
func (s *v3session) change(m []string) error {
	serial, err := strconv.ParseUint(m[2], 10, 64)
	if err != nil || serial > s.latest {
		return fmt.Errorf("serial %s is beyond the announced %d", m[2], s.latest)
	}
	var object bytes.Buffer
	for {
		line, err := s.next()
		if err != nil {
			return err
		}
		if line == "" {
			if object.Len() > 0 {
				break
			}
			continue
		}
		if object.Len()+len(line) > rpsl.MaxObject {
			return fmt.Errorf("serial %d: an object longer than %d bytes", serial, rpsl.MaxObject)
		}
		if changeLine.MatchString(line) || endLine.MatchString(line) {
			return fmt.Errorf("serial %d: %q stands where its object should be or go on", serial, line)
		}
		object.WriteString(line)
		object.WriteByte('\n')
	}
	if serial <= s.serial {
		return fmt.Errorf("serial %d follows serial %d", serial, s.serial)
	}
	s.a.text(object.Bytes(), m[1] == "DEL")
	s.serial = serial
	return nil
}
