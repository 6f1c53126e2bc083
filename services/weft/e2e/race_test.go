//go:build race

package e2e

// With go test -race the programs under test are built with the race detector too; a race ends its process.
func init() { buildFlags = append(buildFlags, "-race") } //nolint:gochecknoinits // the only way to know of -race
