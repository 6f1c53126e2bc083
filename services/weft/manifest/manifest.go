// Package manifest is the file by which the commands find a fabric that runs on this machine: `weft dev` and `weft up`
// write it into their data folder when everything is ready, and remove it when they stop. `weft up` writes it anew
// whenever a process ends or was started again.
package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// name is the file's name in the data folder.
const name = "manifest.json"

// Manifest is what runs.
type Manifest struct {
	Name      string    `json:"name"`    // dev or up
	Data      string    `json:"data"`    // the data folder
	NATS      string    `json:"nats"`    // URLs, separated by commas
	Push      []string  `json:"push"`    // http:// URLs; WebSockets are served on the same ports
	Collect   []string  `json:"collect"` // http:// URLs
	Keys      string    `json:"keys"`    // folder of auth's keys
	Processes []Process `json:"processes"`
}

// Process is one process.
type Process struct {
	Name  string   `json:"name"`
	Role  string   `json:"role"`
	PID   int      `json:"pid"` // of the last that ran under this name
	Down  bool     `json:"down,omitempty"`
	Argv  []string `json:"argv"`
	Ports []int    `json:"ports"`
	Probe string   `json:"probe,omitempty"` // what answers when it is ready: an http:// URL with 200, tcp://host:port by accepting
	Data  string   `json:"data"`
}

// Read reads the manifest of a data folder. The error is fs.ErrNotExist when nothing runs there.
func Read(data string) (Manifest, error) {
	var m Manifest
	b, err := os.ReadFile(filepath.Join(data, name))
	if err != nil {
		return m, fmt.Errorf("read the manifest: %w", err)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("read the manifest in %s: %w", data, err)
	}
	return m, nil
}

// Write writes the manifest whole or not at all: a reader never sees half of it.
func Write(data string, m Manifest) error {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("write the manifest: %w", err)
	}
	path := filepath.Join(data, name)
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the manifest: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write the manifest: %w", err)
	}
	return nil
}

// Remove removes the manifest; one that is not there is no error.
func Remove(data string) error {
	if err := os.Remove(filepath.Join(data, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the manifest: %w", err)
	}
	return nil
}
