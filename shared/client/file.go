package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// fileFormat is what a cursor file says it is.
const fileFormat = "weft cursors 1"

// File is a Store in a file, for one process at a time. What Save has returned from survives the process and a power
// failure: it is written beside the file, synced, renamed over it, and the folder is synced. A Save on a disk takes some
// milliseconds; a Subscriber saves at most every 50 ms or 64 messages. Its methods may be called concurrently, and not
// after Close.
type File struct {
	path string
	lock *os.File
}

// fileState is what is in the file.
type fileState struct {
	Format string `json:"format"`
	State
}

// OpenFile opens the store in the file at path, which need not exist; its folder has to. Only the user that runs the
// process can read it. It fails when another process, or another File of this one, has the store: beside the file lies
// one for the lock, with `.lock` behind its name, which stays.
func OpenFile(path string) (*File, error) {
	path, err := filepath.Abs(path) // the program may change its folder
	if err != nil {
		return nil, fmt.Errorf("client: the cursor file: %w", err)
	}
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("client: lock the cursor file %s: %w", path, err)
	}
	return &File{path: path, lock: lock}, nil
}

// Load implements Store. A file that is damaged is an error, since another state would hand messages over a second time,
// or never: the sentence says what can be done.
func (f *File) Load(context.Context) (State, error) {
	text, err := os.ReadFile(f.path)
	if errors.Is(err, os.ErrNotExist) {
		return State{}, nil
	}
	if err != nil {
		return State{}, fmt.Errorf("read the cursors: %w", err)
	}
	state, err := decodeState(text)
	if err != nil {
		return State{}, fmt.Errorf("the cursor file %s is damaged (%w); put back a copy of it, or delete it to go on "+
			"behind what this device has acknowledged to the server", f.path, err)
	}
	return state, nil
}

func decodeState(text []byte) (State, error) {
	var s fileState
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil {
		return State{}, err
	}
	switch rest := bytes.TrimSpace(text[decoder.InputOffset():]); {
	case len(rest) > 0:
		return State{}, fmt.Errorf("%d bytes too many", len(rest))
	case s.Format != fileFormat:
		return State{}, fmt.Errorf("it says %q and not %q", s.Format, fileFormat)
	case len(s.Cursors) > 0 && s.Epoch == "":
		return State{}, errors.New("it has cursors and no epoch")
	}
	return s.State, nil
}

// Save implements Store. After an error the file is whole: as it was or, where only its folder could not be synced, as it
// was to be.
func (f *File) Save(_ context.Context, s State) error {
	text, err := json.Marshal(fileState{Format: fileFormat, State: s})
	if err != nil {
		return fmt.Errorf("encode the cursors: %w", err)
	}
	fresh := f.path + ".new" // nobody else writes it: this process has the lock
	if err := writeSynced(fresh, append(text, '\n')); err != nil {
		return fmt.Errorf("write the cursors: %w", err)
	}
	if err := os.Rename(fresh, f.path); err != nil {
		return fmt.Errorf("put the cursors in place: %w", err)
	}
	if err := syncFolder(filepath.Dir(f.path)); err != nil {
		return fmt.Errorf("sync the folder of the cursors: %w", err)
	}
	return nil
}

// Close lets another process have the store.
func (f *File) Close() error { return f.lock.Close() }

// writeSynced writes a new file that only its owner can read.
func writeSynced(path string, text []byte) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) { // of a process that died
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	return errors.Join(err, file.Sync(), file.Close())
}
