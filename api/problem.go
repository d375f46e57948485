package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// Problem is an error as RFC 9457 describes it.
type Problem struct {
	Title  string  `json:"title" doc:"The HTTP status in words." example:"Bad Request"`
	Status int     `json:"status" doc:"The HTTP status code." example:"400"`
	Detail string  `json:"detail" doc:"What was wrong, and what would be right."`
	Errors []Fault `json:"errors,omitempty" doc:"Each fault of the request."`
}

// Fault is one thing that is wrong with a request.
type Fault struct {
	Location string `json:"location" doc:"Where it is: query.NAME, path.NAME or header.NAME." example:"query.asn"`
	Message  string `json:"message" doc:"What is wrong there, and what would be right."`
	Value    any    `json:"value,omitempty" doc:"What was sent."`
}

func (p *Problem) Error() string  { return p.Detail }
func (p *Problem) GetStatus() int { return p.Status }

// ContentType makes huma send a Problem under RFC 9457's media type.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// huma has one constructor of errors per program, and this package is its only user here.
func init() {
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		return newProblem(status, message, errs...)
	}
	huma.DefaultArrayNullable = false
}

// newProblem turns errors found by huma into a problem. A fault in a parameter is a bad request:
// huma's 422 is meant for bodies, and no route here takes one.
func newProblem(status int, message string, errs ...error) *Problem {
	if status == http.StatusUnprocessableEntity {
		status = http.StatusBadRequest
	}
	p := &Problem{Title: http.StatusText(status), Status: status, Detail: message}
	var told []string
	for _, err := range errs {
		var detailer huma.ErrorDetailer
		if !errors.As(err, &detailer) {
			continue // not about the request: it may hold what a client must not see
		}
		d := detailer.ErrorDetail()
		text := strings.TrimPrefix(d.Message, "invalid value: ")
		p.Errors = append(p.Errors, Fault{Location: d.Location, Message: text, Value: d.Value})
		told = append(told, d.Location+": "+text)
	}
	if told != nil {
		p.Detail = strings.Join(told, "; ")
	}
	return p
}

func problemf(status int, format string, args ...any) *Problem {
	return newProblem(status, fmt.Sprintf(format, args...))
}

// fault makes an error about one place of the request.
func fault(location string, value any, format string, args ...any) error {
	return &huma.ErrorDetail{Location: location, Value: value, Message: fmt.Sprintf(format, args...)}
}

// problemOf turns what a handler returned into what the client is told. What is not the client's
// doing is logged and answered without its text, which may name files.
func (s *Server) problemOf(ctx context.Context, operation string, err error) error {
	var p *Problem
	switch {
	case errors.As(err, &p):
		return p
	case ctx.Err() == context.DeadlineExceeded:
		return problemf(http.StatusServiceUnavailable,
			"The search took longer than %s and was stopped; narrow it with a prefix, a shorter time (from, to) or a smaller limit.",
			s.configuration.QueryTimeout)
	case ctx.Err() != nil:
		return problemf(http.StatusServiceUnavailable, "The request was abandoned.")
	default:
		s.log.Error("cannot answer a request", "operation", operation, "error", err)
		return problemf(http.StatusInternalServerError, "The service could not read its data; its log says why.")
	}
}

// writeProblem answers where huma is not involved.
func writeProblem(w http.ResponseWriter, p *Problem) {
	w.Header().Set("Content-Type", p.ContentType(""))
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p) // an error here means that the client has gone
}
