package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"routevigil": main})
}

// TestScripts runs the program as its users do: testdata/script/*.txtar holds command lines, what they print
// and their exit status.
func TestScripts(t *testing.T) {
	incidents, err := filepath.Abs("../../../shared/data/incidents")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("INCIDENTS", incidents)
			return nil
		},
		Condition: func(name string) (bool, error) {
			if name != "incidents" {
				return false, fmt.Errorf("unknown condition %q", name)
			}
			_, err := os.Stat(incidents)
			return err == nil, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": status, "scenario": playScenario, "compress": compress, "damage": damage, "objects": objects,
			"publish": publish, "archives": archives, "exportfolder": exportFolder,
		},
	})
}

// status N COMMAND… runs the command and fails unless it exits with status N; its output can be looked at
// with stdout and stderr as after exec.
func status(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	if neg || err != nil {
		ts.Fatalf("usage: status N command [arguments]")
	}
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](ts.Exec(args[1], args[2:]...)); ok {
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}
