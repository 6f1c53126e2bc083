package cli

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
)

// signalled is an output that says when something wanted was printed.
type signalled struct {
	wanted string
	seen   chan struct{}

	mu  sync.Mutex // protects all
	all bytes.Buffer
}

func (s *signalled) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := strings.Contains(s.all.String(), s.wanted)
	n, err := s.all.Write(b)
	if !before && strings.Contains(s.all.String(), s.wanted) {
		close(s.seen)
	}
	return n, err
}

func (s *signalled) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.String()
}

func await(t *testing.T, seen <-chan struct{}) {
	t.Helper()
	select {
	case <-seen:
	case <-time.After(patience):
		t.Fatal("it was not printed")
	}
}
