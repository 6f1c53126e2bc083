package client

import (
	"context"
	"maps"
	"sync"
)

// State is what a device has to remember: how far it has handled each mailbox.
type State struct {
	Epoch   string            `json:"epoch"`   // of the archive that numbered the messages
	Cursors map[string]uint64 `json:"cursors"` // address → highest sequence handled
}

// Store keeps the state of one device of one user across restarts: Memory, File, or one of your own. A Subscriber loads it once and saves it before it
// acknowledges, at most every 50 ms; it calls one method at a time. A crash between handling and saving makes a
// message come again: a handler for which that matters saves the cursor together with its effect.
type Store interface {
	// Load returns the zero State when nothing was saved yet.
	Load(ctx context.Context) (State, error)
	Save(ctx context.Context, s State) error
}

// Memory is a Store that lasts as long as the process. After a restart the server's own cursor decides, which is
// what was acknowledged. The zero value is empty and ready.
type Memory struct {
	mu    sync.Mutex // protects state
	state State
}

// Load implements Store.
func (m *Memory) Load(context.Context) (State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return State{Epoch: m.state.Epoch, Cursors: maps.Clone(m.state.Cursors)}, nil
}

// Save implements Store.
func (m *Memory) Save(_ context.Context, s State) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = State{Epoch: s.Epoch, Cursors: maps.Clone(s.Cursors)}
	return nil
}
