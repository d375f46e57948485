//go:build !race

package scorecard

const underRace = false
