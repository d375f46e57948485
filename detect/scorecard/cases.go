package scorecard

import (
	"errors"
	"os"
	"path/filepath"
)

// All lists every case there is: the scenarios always, and those that need real data where data is a folder that has them.
func All(data string) ([]Source, error) {
	list, err := ScenarioCases()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(data); errors.Is(err, os.ErrNotExist) {
		return list, nil
	}
	events, err := Events(filepath.Join(data, "incidents"))
	if err != nil {
		return nil, err
	}
	quiet, err := QuietCases(filepath.Join(data, "mrt"))
	if err != nil {
		return nil, err
	}
	list = append(list, events...)
	return append(list, quiet...), nil
}
