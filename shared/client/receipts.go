package client

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"time"

	"github.com/weftpush/weft/shared/subject"
)

// receiptStream keeps the receipts; shared/fabric makes it.
const receiptStream = "WEFT_RECEIPT"

// ReceiptFilter says which receipts are read. The zero ReceiptFilter is all that the default tenant still has.
type ReceiptFilter struct {
	Tenant string          // DefaultTenant when empty
	To     subject.Address // of messages to this address only, whose tenant counts then; the zero Address for all
	After  uint64          // go on behind this Position; 0 for the oldest that is kept
	Since  time.Time       // those stored from this moment on; only where After is 0
}

// Fact is a receipt as the fabric published it.
type Fact struct {
	Receipt

	Tenant   string
	Position uint64 // for ReceiptFilter.After: of the stream, so not dense
}

// Receipts reads the facts about messages that the fabric publishes, in order, and goes on as they come, until ctx ends or
// the loop is left: what was quarantined, and why; and of messages that were published WithReceipt, what became of them at
// each device. (The answer to a Request is the receipt `archived`; that of a PubAck, `accepted`, is in no stream.) A receipt
// that comes twice, as after a crash, has the same Receipt.Receipt. They are kept for 24 h. A program that keeps the Position of the last Fact it has dealt with
// goes on behind it after a restart, and misses nothing within that time.
//
// Losing the connection to NATS, or the server its memory, costs time and no fact, and gives none twice: reading goes on
// behind the last one. An error ends the loop: the stream can't be read to begin with (problem.Unavailable, when NATS or
// collect is not there), the filter is no good, or the connection was closed. Only ErrReceiptsGone does not: it comes with
// an otherwise empty Fact before the next one when facts may be gone, because After is older than what is kept, or of a
// stream that was made anew.
func (p *Publisher) Receipts(ctx context.Context, filter ReceiptFilter) iter.Seq2[Fact, error] {
	return func(yield func(Fact, error) bool) {
		r, err := p.receipts(filter)
		if err == nil {
			r.gone = func(after uint64) bool {
				return yield(Fact{Tenant: r.tenant, Position: after}, ErrReceiptsGone)
			}
			r.take = func(position uint64, data []byte) bool {
				fact := Fact{Tenant: r.tenant, Position: position}
				// What can't be read is of a later version, or somebody else's.
				return json.Unmarshal(data, &fact.Receipt) != nil || yield(fact, nil)
			}
			err = r.readAll(ctx)
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, errLeft) {
			yield(Fact{}, err)
		}
	}
}

// receipts is a reader of what a filter lets through.
func (p *Publisher) receipts(f ReceiptFilter) (*reader, error) {
	r := &reader{stream: receiptStream, what: "receipts", tenant: f.Tenant, since: f.Since, after: f.After}
	if r.tenant == "" {
		r.tenant = subject.DefaultTenant
	}
	if f.To != (subject.Address{}) {
		if err := f.To.Check(); err != nil {
			return nil, err
		}
		r.tenant, r.filter = f.To.Tenant, subject.Receipt(f.To.Tokens())
	} else {
		if err := subject.CheckID(r.tenant); err != nil {
			return nil, err
		}
		r.filter = subject.Receipt(subject.Encode(r.tenant)) + ".>"
	}
	return r, p.connect(r)
}
