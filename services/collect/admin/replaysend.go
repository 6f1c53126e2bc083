package admin

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/node"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// handWithin is how long dispatch, or the owner of a partition, may take for one request.
	handWithin = 2 * time.Second
	// firstRest and longestRest are the pauses before something is tried again; they double.
	firstRest   = 20 * time.Millisecond
	longestRest = 200 * time.Millisecond
	// copiesAtOnce is how many addresses are copied to at the same time; those of one address are copied one by one.
	copiesAtOnce = 16
	// idMost is the most bytes of a message's id, as message.Check has it.
	idMost = 256
)

// do does a step with so many messages looked at: copies first, which change nothing when they are made again, then
// what is sent again. It is counted when all of it is done. messages may be nil where there is none any more.
func (r *run) do(ctx context.Context, looked int, messages []*message.Message, places []place) error {
	count := admin.ReplayCount{Read: looked}
	copies := make(map[subject.Address][]*message.Message)
	sends := make(map[int][]*message.Message)
	for i, m := range messages {
		switch {
		case m == nil || places[i] == leave:
		case places[i] == below:
			copies[m.To] = append(copies[m.To], m)
			count.Copied++
		default:
			p := subject.Partition(m.To, r.Archive.Facts().Partitions)
			sends[p] = append(sends[p], m)
			count.Matched++
		}
	}
	count.Matched += count.Copied
	if err := r.copyAll(ctx, copies); err != nil {
		return err
	}
	for p, list := range sends {
		for len(list) > 0 {
			n := frameOf(list)
			sent, waiting, err := r.send(ctx, p, list[:n])
			if err != nil {
				return err
			}
			count.Sent, count.Waiting, list = count.Sent+sent, count.Waiting+waiting, list[n:]
		}
	}
	r.page.ReplayCount = sum(r.page.ReplayCount, count)
	return nil
}

func sum(a, b admin.ReplayCount) admin.ReplayCount {
	return admin.ReplayCount{
		Read: a.Read + b.Read, Matched: a.Matched + b.Matched, Sent: a.Sent + b.Sent, Copied: a.Copied + b.Copied, Waiting: a.Waiting + b.Waiting,
	}
}

// frameOf is how many messages fit the next frame.
func frameOf(list []*message.Message) int {
	size := 0
	for n, m := range list {
		if size += len(m.Payload); n > 0 && (size > stepBytes || n >= stepMost) {
			return n
		}
	}
	return len(list)
}

// send hands a frame to dispatch and tries again, for a while, what sessions have no room for: they are about to read. The
// error says that dispatch can't be reached; then nothing is known of the frame.
func (r *run) send(ctx context.Context, p int, frame []*message.Message) (sent, waiting int, err error) {
	handed := false
	for wait := firstRest; ; wait = min(2*wait, longestRest) {
		fates, err := r.hand(ctx, p, frame)
		switch {
		case err == nil:
			handed = true
		case handed && time.Since(r.began) > persistFor: // they have no room, and dispatch has gone away meanwhile
			return sent, waiting + len(frame), nil
		case !worthAnother(err) || time.Since(r.began) > persistFor:
			return 0, 0, err
		}
		var full []*message.Message
		for i, fate := range fates {
			switch fate {
			case node.FateSent:
				sent++
			case node.FateFull:
				full = append(full, frame[i])
			default:
				waiting++
			}
		}
		if err == nil {
			if len(full) == 0 {
				return sent, waiting, nil
			}
			if time.Since(r.began) > persistFor {
				return sent, waiting + len(full), nil
			}
			frame = full
		}
		if !rest(ctx, wait) {
			return 0, 0, problem.New(problem.Unavailable, "the page took too long; ask for it again")
		}
	}
}

// hand gives a frame to the owner of a partition's routing and returns what became of each message.
func (r *run) hand(ctx context.Context, p int, frame []*message.Message) ([]node.Fate, error) {
	var data []byte
	for _, m := range frame {
		once := *m
		once.Again = true
		data = message.AppendEntry(data, m.To, message.Entry{From: m.Seq, To: m.Seq, Message: &once})
	}
	ctx, cancel := context.WithTimeout(ctx, handWithin)
	defer cancel()
	reply, err := rpc.Send(ctx, r.NATS, &nats.Msg{Subject: subject.Dispatch(p), Data: data, Header: nats.Header{node.HeaderReplay: {r.q.Run}}})
	if err != nil {
		return nil, err
	}
	var answer node.Replayed
	if err := json.Unmarshal(reply.Data, &answer); err != nil || len(answer.Fates) != len(frame) {
		return nil, problem.New(problem.InternalFault, "dispatch answered %d messages with %.100q", len(frame), reply.Data)
	}
	return answer.Fates, nil
}

// worthAnother says whether an error may be gone at the next try.
func worthAnother(err error) bool {
	p, told := errors.AsType[*problem.Problem](err)
	return told && p.Retry
}

// copyAll archives messages as new ones, those of an address in their order.
func (r *run) copyAll(ctx context.Context, copies map[subject.Address][]*message.Message) error {
	lists := make([][]*message.Message, 0, len(copies))
	for _, list := range copies {
		lists = append(lists, list)
	}
	slices.SortFunc(lists, func(a, b []*message.Message) int { return cmp.Compare(a[0].To.Tokens(), b[0].To.Tokens()) })
	var mu sync.Mutex // protects failed
	var failed error
	eachOf(len(lists), copiesAtOnce, func(i int) {
		for _, m := range lists[i] {
			if err := r.copyOne(ctx, m); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed = err
				return
			}
		}
	})
	return failed
}

// copyOne gives the copy of a message to the owner of its partition, as a request door does. Its id makes it one copy,
// however often it is made.
func (r *run) copyOne(ctx context.Context, m *message.Message) error {
	twin := *m
	twin.ID, twin.Seq, twin.Archived = copyID(m.ID, r.q.Run), 0, 0
	twin.At, twin.Again, twin.Receipt = time.Now().UnixMilli(), true, false
	request := &nats.Msg{
		Subject: subject.Collect(subject.Partition(m.To, r.Archive.Facts().Partitions)),
		Data:    message.AppendEntry(nil, m.To, message.Entry{Message: &twin}),
	}
	for wait := firstRest; ; wait = min(2*wait, longestRest) {
		asking, cancel := context.WithTimeout(ctx, handWithin)
		_, err := rpc.Send(asking, r.NATS, request)
		cancel()
		if err == nil || !worthAnother(err) || time.Since(r.began) > persistFor || !rest(ctx, wait) {
			return err
		}
	}
}

// copyID is the id of a copy: <id>~<run>. A long id is cut to make room, and told apart by a hash.
func copyID(id, run string) string {
	if len(id)+1+len(run) <= idMost {
		return id + "~" + run
	}
	hash := sha256.Sum256([]byte(id))
	mark := "-" + hex.EncodeToString(hash[:8]) + "~" + run
	return strings.ToValidUTF8(id[:idMost-len(mark)], "") + mark
}

// rest waits and says whether ctx still runs.
func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
