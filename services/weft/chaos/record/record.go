// Package record is what the judge of faults saw, as lines of JSON: what was published, what reached each device, which
// faults were injected. A verdict is made from these lines alone, so that a run can be judged again.
package record

// Kind tells records apart.
type Kind string

// The kinds.
const (
	KindRun   Kind = "run"
	KindOp    Kind = "op"
	KindConn  Kind = "conn"
	KindGot   Kind = "got"
	KindGap   Kind = "gap"
	KindFault Kind = "fault"
	KindPhase Kind = "phase"
)

// Record is one line. Exactly the member that Kind names is set. Times in all of them are µs since the run began, by
// the monotonic clock of the judge's one process, so that they can be compared with each other.
type Record struct {
	Kind  Kind   `json:"kind"`
	Run   *Run   `json:"run,omitempty"`
	Op    *Op    `json:"op,omitempty"`
	Conn  *Conn  `json:"conn,omitempty"`
	Got   *Got   `json:"got,omitempty"`
	Gap   *Gap   `json:"gap,omitempty"`
	Fault *Fault `json:"fault,omitempty"`
	Phase *Phase `json:"phase,omitempty"`
}

// Run is the first line: what was run.
type Run struct {
	Seed      uint64   `json:"seed"`
	Form      string   `json:"form"`    // ci or long
	Started   string   `json:"started"` // RFC 3339
	Command   string   `json:"command"` // repeats the run
	Heartbeat int64    `json:"heartbeat_us"`
	Late      int64    `json:"late_us"` // a message later than this after it was acknowledged and all was healed is late
	Devices   []Device `json:"devices"` // all that were connected before the first message was published
}

// Device is one device of a user. What it should get is everything that was acknowledged for its addresses.
type Device struct {
	Name      string   `json:"name"` // user/device: unique in the run
	User      string   `json:"user"`
	App       bool     `json:"app"`       // on the Go subscriber (application truth), or else on raw connections (wire truth)
	Addresses []string `json:"addresses"` // user:u1, topic:news, all
}

// Result is what the writer knows of an operation at its end.
type Result string

// The results.
const (
	OK      Result = "ok"      // acknowledged: accepted (stream door) or archived (request door)
	Failed  Result = "failed"  // refused for good: must never arrive
	Unknown Result = "unknown" // no answer to any try until the writer gave up: may arrive
)

// Door is the way in.
type Door string

// The doors.
const (
	Stream  Door = "stream"
	Request Door = "request"
	HTTP    Door = "http"
	GRPC    Door = "grpc"
)

// Op is one operation of a writer: one message, sent again with the same id until it is answered. A writer has one
// operation under way per address, so its operations on one address are ordered by their counters.
type Op struct {
	Writer  string `json:"writer"`
	To      string `json:"to"`
	Counter uint64 `json:"n"` // 1, 2, 3 … for each writer and address
	ID      string `json:"id"`
	Door    Door   `json:"door"`
	TTL     int64  `json:"ttl_us,omitempty"` // after this, counted from Start, it may be gone undelivered; 0 is never
	Start   int64  `json:"start_us"`
	End     int64  `json:"end_us"`
	Tries   int    `json:"tries"`
	Result  Result `json:"result"`
	Seq     uint64 `json:"seq,omitempty"` // where the door tells
	Code    string `json:"code,omitempty"`
}

// Conn is something that happened to a device's connection.
type Conn struct {
	Device string `json:"device"`
	At     int64  `json:"at_us"`
	What   string `json:"what"`           // open, closed, away (on purpose, for long), back
	Node   string `json:"node,omitempty"` // of an open one
	Over   string `json:"over,omitempty"` // of an open one: the door that it came through
	Why    string `json:"why,omitempty"`  // of a closed one
}

// Got is one message at a device: handed to the application, or seen on the wire.
type Got struct {
	Device  string `json:"device"`
	At      int64  `json:"at_us"`
	Session int    `json:"session"` // of this device: 1, 2, 3 …
	To      string `json:"to"`      // the address under which it came
	Seq     uint64 `json:"seq"`
	ID      string `json:"id"`
	// What the payload says of itself; Sound is false if it can't be read or its checksum is wrong.
	Writer  string `json:"writer"`
	Counter uint64 `json:"n"`
	For     string `json:"for"` // the address that the writer addressed
	Sound   bool   `json:"sound"`
}

// Gap is a declared gap at a device.
type Gap struct {
	Device string `json:"device"`
	At     int64  `json:"at_us"`
	To     string `json:"to"`
	From   uint64 `json:"from"`
	Until  uint64 `json:"until"`
	Why    string `json:"why"`
}

// Died is the name of the fault that nobody injected: a process ended by itself.
const Died = "died"

// Fault is one injected fault.
type Fault struct {
	Name     string `json:"name"`   // kill, stop, redis-flush, archive-down …
	Target   string `json:"target"` // the process or connection
	From     int64  `json:"from_us"`
	Healed   int64  `json:"healed_us"` // when the judge had undone it, and the process was ready again; 0 if not injected
	InFlight int    `json:"in_flight"` // messages sent and not refused that some device was still owed at From; devices that are away on purpose do not count
	Injected bool   `json:"injected"`
	Note     string `json:"note,omitempty"` // why it was not injected, or a figure
}

// Phase is a mark in the run: load (first message), healed (last fault undone), quiet (writers have ended), settled
// (nothing has come for a while, or the time for it was over).
type Phase struct {
	Name string `json:"name"`
	At   int64  `json:"at_us"`
}
