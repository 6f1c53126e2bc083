// Package verdict judges the history of a run: whether every device got what was acknowledged for it, once, in order,
// in time. It knows nothing of how the history was made, and trusts nothing in it but the judge's own clock.
package verdict

import (
	"time"

	"github.com/weftpush/weft/services/weft/chaos/record"
)

// Outcome is the verdict in a word.
type Outcome string

// The outcomes. Invalid beats inconclusive.
const (
	Valid        Outcome = "valid"
	Invalid      Outcome = "invalid"      // a promise was broken
	Inconclusive Outcome = "inconclusive" // none was broken, but the run proves nothing
)

// Exit is the exit code of a command that ends with this outcome.
func (o Outcome) Exit() int {
	switch o {
	case Valid:
		return 0
	case Invalid:
		return 1
	}
	return 2
}

// Word names a way to break the promise.
type Word string

// The words. A device is on the application (everything that was handed to it counts, over its whole life) or on the
// wire (a message that it has not acknowledged may come again in its next session, not in the same one).
const (
	Lost      Word = "lost"      // acknowledged to the writer, never at the device
	Doubled   Word = "doubled"   // at the device twice
	Reordered Word = "reordered" // a lower sequence after a higher one, or a writer's messages numbered against their order
	Diverged  Word = "diverged"  // two devices, or a device and a door, disagree on a sequence
	Jumped    Word = "jumped"    // a sequence was skipped without a gap that covers exactly what is missing
	Misrouted Word = "misrouted" // at a device or under an address that it was not for
	Corrupted Word = "corrupted" // not the bytes that were published
	Invented  Word = "invented"  // nobody published it, or it was refused for good
	Died      Word = "died"      // a process ended by itself, and nobody had told it to
	Late      Word = "late"      // longer than Run.Late on its way while nothing was broken and the device was connected
)

// Words returns all words in the order in which they are shown.
func Words() []Word {
	return []Word{Lost, Doubled, Reordered, Diverged, Jumped, Misrouted, Corrupted, Invented, Died, Late}
}

// Options say what a run must show to be conclusive, and how much is told. Zero values are the defaults.
type Options struct {
	Prompt    time.Duration // an operation outside fault windows is to be acknowledged within this; 5 s
	Margin    time.Duration // how long after its healing a fault still counts as under way for Prompt and latencies; 2 s
	Faultless bool          // no fault was asked for, so none is missed
	Cases     int           // how many cases of a word are told; 5
	Again     string        // the command that judges this history again, for the table
}

func (o Options) complete() Options {
	if o.Prompt == 0 {
		o.Prompt = 5 * time.Second
	}
	if o.Margin == 0 {
		o.Margin = 2 * time.Second
	}
	if o.Cases == 0 {
		o.Cases = 5
	}
	return o
}

// What a run must show: so many of a hundred operations outside fault windows acknowledged promptly, and so many of a
// hundred faults injected while some message was under way. From the issue that asked for the judge.
const (
	promptPercent   = 90
	inFlightPercent = 80
)

// Verdict is what became of a run. Times are µs, as in the history.
type Verdict struct {
	Outcome Outcome  `json:"outcome"`
	Reasons []string `json:"reasons,omitempty"` // why it is inconclusive; told even if it is invalid
	Counts  []Count  `json:"counts"`            // of every word, 0 included
	Cases   []Case   `json:"cases,omitempty"`   // the first of each word

	Seed    uint64 `json:"seed"`
	Form    string `json:"form"`
	Started string `json:"started"`
	Command string `json:"command"`
	Again   string `json:"again,omitempty"`

	Ops      []OpTotal `json:"ops"`
	Prompt   Share     `json:"prompt"`    // of the operations outside fault windows, those that were acknowledged promptly
	InFlight Share     `json:"in_flight"` // of the injected faults, those with messages in flight
	Devices  int       `json:"devices"`
	Apps     int       `json:"apps"` // those of the devices that are on the application
	Sessions int       `json:"sessions"`
	// Over is the sessions by the door that they came through, as far as the history says.
	Over       map[string]int `json:"sessions_over"`
	Deliveries int            `json:"deliveries"` // messages at devices, those that came again included
	Resent     int            `json:"resent"`     // those on the wire that came again in a later session, which is legal
	Gaps       int            `json:"gaps"`
	Faults     []FaultTotal   `json:"faults"`
	Calm       Latency        `json:"calm"`   // end of the operation → at the device, where no fault was under way
	Stormy     Latency        `json:"stormy"` // the others
}

// Count is how often a word was found: for lost, late and the like once for each message and device.
type Count struct {
	Word  Word `json:"word"`
	Count int  `json:"count"`
}

// Case is one thing that was found.
type Case struct {
	Word    Word   `json:"word"`
	Device  string `json:"device,omitempty"` // empty where the mailbox itself is wrong, for all its devices
	Address string `json:"address"`
	Seq     uint64 `json:"seq,omitempty"` // 0 is unknown
	ID      string `json:"id,omitempty"`
	At      int64  `json:"at_us"`
	Text    string `json:"text"`            // what happened, as the end of a sentence
	Fault   string `json:"fault,omitempty"` // what was broken at the time; empty if nothing was
}

// OpTotal is how many operations came to an end in a way at a door.
type OpTotal struct {
	Door   record.Door   `json:"door"`
	Result record.Result `json:"result"`
	Count  int           `json:"count"`
}

// Share is a part of a whole.
type Share struct {
	Part int `json:"part"`
	Of   int `json:"of"`
}

// reaches says whether the part is at least so many percent. Nothing of nothing does not reach anything.
func (s Share) reaches(percent int) bool { return s.Of > 0 && s.Part*100 >= s.Of*percent }

// FaultTotal is what one kind of fault did.
type FaultTotal struct {
	Name     string   `json:"name"`
	Injected int      `json:"injected"`
	InFlight int      `json:"in_flight"` // injected while messages were under way
	Window   int64    `json:"window_us"` // the longest from injection to healing
	Outage   int64    `json:"outage_us"` // the longest that a message was owed to a connected device since such a fault began
	Missed   int      `json:"missed"`    // could not be injected
	Notes    []string `json:"notes,omitempty"`
}

// Latency sums up times. The percentiles are exact to 3 %.
type Latency struct {
	Count int   `json:"count"`
	P50   int64 `json:"p50_us"`
	P99   int64 `json:"p99_us"`
	Most  int64 `json:"most_us"`
}

// Source gives a history from its beginning, each time it is called.
type Source func(each func(record.Record) error) error

// Folder is the history in a run's folder.
func Folder(folder string) Source {
	return func(each func(record.Record) error) error { return record.Read(folder, each) }
}

// Judge reads a history twice and judges it: once for what was published and broken, once for what came of it. What it
// keeps grows with the operations and, by some bits each, with operations × devices; deliveries are not kept. The error
// is the source's, or says that this is no history of a run: then there is no verdict.
func Judge(source Source, options Options) (*Verdict, error) {
	options = options.complete()
	b, err := readBook(source)
	if err != nil {
		return nil, err
	}
	f := newFollower(b, options)
	if err := source(f.follow); err != nil {
		return nil, err
	}
	f.settle()
	return f.conclude(), nil
}
