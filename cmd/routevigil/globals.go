package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
)

// Globals is what every command is given.
type Globals struct {
	LogLevel slog.Level `default:"info" placeholder:"LEVEL" help:"Least severe messages to log: debug, info, warn or error (default info)."`

	Context context.Context `kong:"-"` // ends on SIGINT or SIGTERM
	Log     *slog.Logger    `kong:"-"`
	Stdin   io.Reader       `kong:"-"`
	Stdout  io.Writer       `kong:"-"`
	Stderr  io.Writer       `kong:"-"` // for errors, one a line, and progress; logs go to Log
}

// A UsageError is the caller's mistake in a flag, an argument or the configuration.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }
func (e *UsageError) Unwrap() error { return e.Err }

func exitStatus(err error) int {
	if _, ok := errors.AsType[*UsageError](err); ok {
		return 2
	}
	return 1
}

// passedOver is the error at the end of work that went on after damage.
func passedOver(damaged int) error {
	if damaged == 1 {
		return errors.New("one damaged record or file was passed over")
	}
	return fmt.Errorf("%d damaged records or files were passed over", damaged)
}

// newLogger writes text for a person at a terminal and JSON for everything else. Durations are
// written with their unit in both; JSON would have them as nanoseconds.
func newLogger(w io.Writer, level slog.Level) *slog.Logger {
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration {
			a.Value = slog.StringValue(a.Value.Duration().String())
		}
		return a
	}}
	if isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

// isTerminal reports whether w is a character device, which for the standard streams means a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
