package client

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/subject"
)

// outstandingDefault is how many messages PublishMany has under way when it is not told. To a server 1 ms away it carried
// 28,000 messages a second to 1,000 users, where 16 carried 10,000, 256 carried 25,000 and Publish one by one 740; on
// loopback 43,000, 57,000, 31,000 and 34,000 (go test ./shared/client -run '^$' -bench Publish, on 2 busy cores).
const outstandingDefault = 64

// Outgoing is a message for PublishMany.
type Outgoing struct {
	To      subject.Address
	Payload []byte
	Options []Option
}

// Result is what became of one message of PublishMany: what Publish returns, for that message.
type Result struct {
	Ack Ack
	Err error
}

// PublishMany hands messages to the stream door as Publish does, up to outstanding of them at once (0 is 64), and
// returns when it is known of all what became of them: one Result each, in the order of messages. An error of one does
// not keep others from being published.
//
// Messages of one address are published one after the other, since the fabric promises order only in the order of the
// PubAcks; those of different addresses go together. When a message may have to be published again (its error is ErrUnknown
// or worth a retry), those behind it in its address are not sent, and their error is ErrNotSent: publish them all again,
// in order and with the same ids, and nothing is doubled or reordered. One that was refused for good is passed over.
//
// When ctx ends, what is under way ends as in Publish, and what was not sent is ErrNotSent. Without a deadline each message
// has the time of a Publish to itself.
func (p *Publisher) PublishMany(ctx context.Context, outstanding int, messages []Outgoing) []Result {
	results := make([]Result, len(messages))
	queues := byAddress(messages)
	if outstanding <= 0 {
		outstanding = outstandingDefault
	}
	work := make(chan []int)
	var publishing sync.WaitGroup
	for range min(outstanding, len(queues)) {
		publishing.Go(func() {
			for queue := range work {
				p.publishInOrder(ctx, queue, messages, results)
			}
		})
	}
	for _, queue := range queues {
		work <- queue
	}
	close(work)
	publishing.Wait()
	return results
}

// byAddress are the places of the messages of each address, in the order of their first.
func byAddress(messages []Outgoing) [][]int {
	var queues [][]int
	at := make(map[subject.Address]int)
	for i := range messages {
		n, known := at[messages[i].To]
		if !known {
			n = len(queues)
			at[messages[i].To] = n
			queues = append(queues, nil)
		}
		queues[n] = append(queues[n], i)
	}
	return queues
}

// publishInOrder publishes the messages of one address, as long as none has to come before the next.
func (p *Publisher) publishInOrder(ctx context.Context, queue []int, messages []Outgoing, results []Result) {
	var behind error // why nothing is sent any more
	for _, i := range queue {
		m, err := outgoing(subject.In, messages[i].To, messages[i].Payload, messages[i].Options)
		if err != nil {
			results[i].Err = err
			continue
		}
		if behind == nil && ctx.Err() != nil {
			behind = fmt.Errorf("%w: %w", ErrNotSent, ctx.Err())
		}
		if behind != nil {
			results[i] = Result{Ack: Ack{ID: idOf(m)}, Err: behind}
			continue
		}
		results[i].Ack, err = p.publish(ctx, m)
		results[i].Err = err
		if err != nil && (errors.Is(err, ErrUnknown) || problem.From(err).Retry) {
			behind = fmt.Errorf("%w: %w", ErrNotSent, problem.New(problem.Unavailable,
				"an earlier one of %s has to be published again before it (%v)", messages[i].To, err))
		}
	}
}
