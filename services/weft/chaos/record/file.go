package record

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// fileName is the history's name in a run's folder.
const fileName = "history.jsonl"

// Log writes records to a file and may be used by many goroutines. The order of lines is that of the calls, not
// exactly that of the times in them.
type Log struct {
	began time.Time
	file  *os.File

	mu  sync.Mutex // protects everything below
	out *bufio.Writer
	enc *json.Encoder
	err error // the first failure to write
}

// Create begins the history of a run in a folder, which must exist.
func Create(folder string) (*Log, error) {
	f, err := os.Create(filepath.Join(folder, fileName))
	if err != nil {
		return nil, fmt.Errorf("create the history: %w", err)
	}
	out := bufio.NewWriterSize(f, 1<<20)
	return &Log{began: time.Now(), file: f, out: out, enc: json.NewEncoder(out)}, nil
}

// Now is the time for records: µs since the run began.
func (l *Log) Now() int64 { return time.Since(l.began).Microseconds() }

// Add writes a record. That a write failed is told by Close.
func (l *Log) Add(r Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = l.enc.Encode(r)
	}
}

// Run writes what is run.
func (l *Log) Run(r Run) { l.Add(Record{Kind: KindRun, Run: &r}) }

// Op writes an operation that has ended.
func (l *Log) Op(r Op) { l.Add(Record{Kind: KindOp, Op: &r}) }

// Conn writes what happened to a device's connection.
func (l *Log) Conn(r Conn) { l.Add(Record{Kind: KindConn, Conn: &r}) }

// Got writes a message at a device.
func (l *Log) Got(r Got) { l.Add(Record{Kind: KindGot, Got: &r}) }

// Gap writes a declared gap at a device.
func (l *Log) Gap(r Gap) { l.Add(Record{Kind: KindGap, Gap: &r}) }

// Fault writes a fault that has been undone, or could not be injected.
func (l *Log) Fault(r Fault) { l.Add(Record{Kind: KindFault, Fault: &r}) }

// Phase marks that a phase has begun now.
func (l *Log) Phase(name string) {
	l.Add(Record{Kind: KindPhase, Phase: &Phase{Name: name, At: l.Now()}})
}

// Close writes what is buffered; its error is the first of all writes: a history with holes must not be judged.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.err, l.out.Flush(), l.file.Close())
}

// Read calls each for every record of a run's folder, in the order of lines.
func Read(folder string, each func(Record) error) error {
	f, err := os.Open(filepath.Join(folder, fileName))
	if err != nil {
		return fmt.Errorf("read the history: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	dec := json.NewDecoder(bufio.NewReaderSize(f, 1<<20))
	for line := 1; ; line++ {
		var r Record
		if err := dec.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read the history: record %d: %w", line, err)
		}
		if err := each(r); err != nil {
			return fmt.Errorf("record %d: %w", line, err)
		}
	}
}
