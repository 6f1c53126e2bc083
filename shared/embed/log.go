package embed

import (
	"fmt"
	"log/slog"
	"sync/atomic"
)

// serverLog takes what nats-server logs: it passes warnings and errors on, and keeps the error that the server can't
// live with, which no function of the server returns.
type serverLog struct {
	log   *slog.Logger          // nil for none
	fatal atomic.Pointer[fault] // written by the server's goroutines, read by start
}

type fault struct{ text string }

func (f *fault) String() string {
	if f == nil {
		return "no reason given"
	}
	return f.text
}

// Noticef, Debugf and Tracef are dropped: what the server does when all is well is no news.
func (l *serverLog) Noticef(string, ...any) {}

// Debugf is dropped.
func (l *serverLog) Debugf(string, ...any) {}

// Tracef is dropped.
func (l *serverLog) Tracef(string, ...any) {}

// Warnf is passed on.
func (l *serverLog) Warnf(format string, args ...any) {
	if l.log != nil {
		l.log.Warn("nats-server", "says", fmt.Sprintf(format, args...))
	}
}

// Errorf is passed on.
func (l *serverLog) Errorf(format string, args ...any) {
	if l.log != nil {
		l.log.Error("nats-server", "says", fmt.Sprintf(format, args...))
	}
}

// Fatalf is kept. Unlike the server's own logger it does not end the process.
func (l *serverLog) Fatalf(format string, args ...any) {
	l.fatal.CompareAndSwap(nil, &fault{fmt.Sprintf(format, args...)})
	l.Errorf(format, args...)
}
