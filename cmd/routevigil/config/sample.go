package config

import _ "embed"

// Sample is a commented file to start from. It changes no default.
//
//go:embed sample.yaml
var Sample []byte
