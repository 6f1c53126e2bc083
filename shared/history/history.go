// Package history is how push nodes ask collect about mailboxes: what is in them, and where a device stands.
package history

import (
	"context"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

// Headers of the answer to a read; the epoch also of acknowledgements.
const (
	HeaderHead  = "Weft-Head"
	HeaderEpoch = "Weft-Epoch"
)

// ReadRequest asks for the entries of one mailbox, After < sequence <= UpTo (0: up to the head), at most Bytes of
// payload but always at least one entry where there is one.
type ReadRequest struct {
	Address string `json:"address"` // Address.Tokens
	After   uint64 `json:"after"`
	UpTo    uint64 `json:"up_to,omitempty"`
	Bytes   int    `json:"bytes"`
}

// Page is a part of a mailbox: entries without silent jumps from After+1 on, and the archive's head. Above the head
// nothing is gone, only unknown. A page whose last entry is below both UpTo and Head goes on with the next read.
type Page struct {
	Head    uint64
	Epoch   string
	Entries []message.Entry
}

// OpenRequest asks where a device stands in some mailboxes. Floors is what the asking node knows from Redis: the
// highest cursor of the user's devices, per address; a new device starts there or above.
type OpenRequest struct {
	Tenant    string            `json:"tenant"`
	User      string            `json:"user"`
	Device    string            `json:"device"`
	Addresses []string          `json:"addresses"` // Address.Tokens
	Floors    map[string]uint64 `json:"floors,omitempty"`
}

// OpenAnswer is where the device stands. The start of a device that was new is stored before the answer is sent.
type OpenAnswer struct {
	Epoch     string              `json:"epoch"`
	Positions map[string]Position `json:"positions"` // by Address.Tokens
}

// Position is a device's place in a mailbox.
type Position struct {
	Head   uint64 `json:"head"`
	Cursor uint64 `json:"cursor"` // everything up to here has been handled, or was there before the device
}

// Cursor is one acknowledgement on its way from a push node to the archive. On the stream WEFT_ACK a message holds a
// JSON array of them, and the header Weft-Epoch says which archive's numbers they are.
type Cursor struct {
	Tenant  string `json:"tenant"`
	User    string `json:"user"`
	Device  string `json:"device"`
	Address string `json:"address"` // Address.Tokens
	Seq     uint64 `json:"seq"`
	At      int64  `json:"at,omitempty"` // when the node heard it, ms since 1970
	Node    string `json:"-"`            // which node; collect takes it from the subject
}

// Read asks for a page of a mailbox. The error is a *problem.Problem.
func Read(ctx context.Context, nc *nats.Conn, to subject.Address, after, upTo uint64, bytes int) (*Page, error) {
	request := ReadRequest{Address: to.Tokens(), After: after, UpTo: upTo, Bytes: bytes}
	reply, err := rpc.SendJSON(ctx, nc, subject.HistoryRead, request)
	if err != nil {
		return nil, err
	}
	page := &Page{Epoch: reply.Header.Get(HeaderEpoch)}
	if page.Head, err = strconv.ParseUint(reply.Header.Get(HeaderHead), 10, 64); err != nil {
		return nil, fmt.Errorf("history: head of the answer: %w", err)
	}
	entries, err := message.DecodeEntries(reply.Data)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	for _, e := range entries {
		page.Entries = append(page.Entries, e.Entry)
	}
	return page, nil
}

// Open asks where a device stands. The error is a *problem.Problem.
func Open(ctx context.Context, nc *nats.Conn, request OpenRequest) (*OpenAnswer, error) {
	answer := new(OpenAnswer)
	if err := rpc.Ask(ctx, nc, subject.HistoryOpen, request, answer); err != nil {
		return nil, err
	}
	return answer, nil
}

// HeadsRequest asks for the heads of some mailboxes; the answer is in the same order.
type HeadsRequest struct {
	Addresses []string `json:"addresses"` // Address.Tokens
}

// HeadsAnswer has the archive's head of each address asked for; 0 where nobody ever wrote.
type HeadsAnswer struct {
	Heads []uint64 `json:"heads"`
}

// Heads asks the archive for heads. The error is a *problem.Problem.
func Heads(ctx context.Context, nc *nats.Conn, addresses []subject.Address) ([]uint64, error) {
	request := HeadsRequest{Addresses: make([]string, len(addresses))}
	for i, a := range addresses {
		request.Addresses[i] = a.Tokens()
	}
	var answer HeadsAnswer
	if err := rpc.Ask(ctx, nc, subject.HistoryHeads, request, &answer); err != nil {
		return nil, err
	}
	if len(answer.Heads) != len(addresses) {
		return nil, fmt.Errorf("history: %d heads for %d addresses", len(answer.Heads), len(addresses))
	}
	return answer.Heads, nil
}
