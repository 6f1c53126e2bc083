package mongodb

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"golang.org/x/sync/errgroup"

	"github.com/weftpush/weft/services/collect/archive/internal/mailbox"
	"github.com/weftpush/weft/shared/subject"
)

// Which mailboxes hold something pending can't be asked of messages and cursors without walking all of them. So there is a
// small collection that says where to look:
//
//	_id   the address tokens; tenant, kind and id repeat them
//	head  the highest sequence that was noted
//	open  of a user's mailbox: it may hold something that no device has acknowledged; absent if it does not
//
// It is a hint, written after the fact and never in the way of a message. What Append stored and Since read is noted in
// memory and written about once a second, with open; what was handled since is closed every few seconds. It may be open
// without reason, which costs a look at its cursors: whoever asks decides by the cursors, which are the truth. It is closed
// by mistake only if a process dies in the second before it has written: the next owner of the partition reads the messages
// of that time (archive.Since) and notes them again.

const (
	flushEvery = time.Second
	closeEvery = 5 // flushes
	// keepTimeout ends a flush whose server is silent, so that nobody waits long to make his own.
	keepTimeout = 5 * time.Second
	// recent is how far back Pending looks for what other processes have not written yet: a few flushes.
	recent     = 3 * flushEvery
	recentRows = 5000 // of a partition; older ones are left to who archived them
	// mailboxChunk is the most mailboxes of one request.
	mailboxChunk = 1000
)

// box is a mailbox as it is stored.
type box struct {
	Key  string `bson:"_id"` // address tokens
	Head int64  `bson:"head"`
}

// notes are what this process knows of mailboxes and has not written yet.
type notes struct {
	mu      sync.Mutex                 // protects the rest
	heads   map[subject.Address]uint64 // of what was stored
	handled map[subject.Address]bool   // users' mailboxes whose head or cursors have risen
	failed  error                      // of the last try to upgrade

	writing chan struct{} // holds one while a flush writes; before mu
}

func newNotes() *notes { return &notes{writing: make(chan struct{}, 1)} }

// stored notes that a mailbox has a message.
func (n *notes) stored(to subject.Address, seq uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.heads == nil {
		n.heads = map[subject.Address]uint64{}
	}
	n.heads[to] = max(n.heads[to], seq)
}

// advanced notes that a cursor in a user's mailbox has risen, or that there may be something to close for another reason.
func (n *notes) advanced(to subject.Address) {
	if to.Kind != subject.User {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.handled == nil {
		n.handled = map[subject.Address]bool{}
	}
	n.handled[to] = true
}

func (n *notes) upgrading(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failed = err
}

func (n *notes) upgradeError() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.failed
}

func (n *notes) takeHeads() map[subject.Address]uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	heads := n.heads
	n.heads = nil
	return heads
}

func (n *notes) takeHandled() []subject.Address {
	n.mu.Lock()
	defer n.mu.Unlock()
	handled := slices.Collect(maps.Keys(n.handled))
	n.handled = nil
	return handled
}

// keep writes the notes until ctx ends. What can't be written is noted still, and tried again.
func (a *Archive) keep(ctx context.Context) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		a.keepOnce(ctx, n%closeEvery == 0)
	}
}

func (a *Archive) keepOnce(ctx context.Context, closes bool) {
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	if a.flush(ctx) != nil || !closes {
		return
	}
	handled := a.notes.takeHandled()
	if a.closeHandled(ctx, handled) != nil {
		for _, to := range handled {
			a.notes.advanced(to)
		}
	}
}

// flush writes the heads that were noted. When it returns without an error, every mailbox that had been noted before it
// was called is written, whoever wrote it.
func (a *Archive) flush(ctx context.Context) error {
	select {
	case a.notes.writing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-a.notes.writing }()
	heads := a.notes.takeHeads()
	if err := a.raise(ctx, heads); err != nil {
		for to, seq := range heads {
			a.notes.stored(to, seq)
		}
		return err
	}
	for to := range heads {
		a.notes.advanced(to)
	}
	return nil
}

// catchUp notes what any process has archived in the last few seconds, which it may not have written yet.
func (a *Archive) catchUp(ctx context.Context) error {
	return a.noteSince(ctx, time.Now().UnixMilli()-recent.Milliseconds(), recentRows)
}

// noteSince notes what was archived since a time, of each partition the newest up to a limit (0: all).
func (a *Archive) noteSince(ctx context.Context, since, limit int64) error {
	group, some := errgroup.WithContext(ctx)
	group.SetLimit(headsAtOnce)
	for p := range a.facts.Partitions {
		group.Go(func() error {
			filter := bson.D{{Key: "partition", Value: int64(p)}, {Key: "archived", Value: bson.D{{Key: "$gte", Value: since}}}}
			cursor, err := a.messages.Find(some, filter, options.Find().SetSort(bson.D{{Key: "archived", Value: -1}, {Key: "_id", Value: -1}}).
				SetLimit(limit).SetProjection(bson.D{{Key: "address", Value: 1}, {Key: "seq", Value: 1}}))
			if err != nil {
				return err
			}
			return each(some, cursor, func(d *document) (bool, error) {
				to, err := subject.ParseTokens(d.Address)
				if err == nil {
					a.notes.stored(to, mailbox.Sequence(d.Seq))
				}
				return true, err
			})
		})
	}
	return group.Wait()
}

// raise writes heads that may be new, and opens the users' mailboxes among them.
func (a *Archive) raise(ctx context.Context, heads map[subject.Address]uint64) error {
	var updates []mongo.WriteModel
	for to, seq := range heads {
		update := bson.D{
			{Key: "$max", Value: bson.D{{Key: "head", Value: mailbox.Number(seq)}}},
			{Key: "$setOnInsert", Value: bson.D{
				{Key: "tenant", Value: to.Tenant}, {Key: "kind", Value: to.Kind}, {Key: "id", Value: to.ID},
			}},
		}
		if to.Kind == subject.User {
			update = append(update, bson.E{Key: "$set", Value: bson.D{{Key: "open", Value: true}}})
		}
		updates = append(updates, mongo.NewUpdateOneModel().SetUpsert(true).
			SetFilter(bson.D{{Key: "_id", Value: to.Tokens()}}).SetUpdate(update))
	}
	for chunk := range slices.Chunk(updates, mailboxChunk) {
		if err := upsert(ctx, a.mailboxes, chunk); err != nil {
			return err
		}
	}
	return nil
}

// closeHandled closes those of users' mailboxes whose head, as far as it was written, a device has acknowledged.
func (a *Archive) closeHandled(ctx context.Context, addresses []subject.Address) error {
	for chunk := range slices.Chunk(addresses, mailboxChunk) {
		tokens := make(bson.A, len(chunk))
		for i, to := range chunk {
			tokens[i] = to.Tokens()
		}
		boxes, err := a.boxes(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: tokens}}}, {Key: "open", Value: true}}, 0)
		if err != nil {
			return err
		}
		handled, err := a.handled(ctx, boxes)
		if err != nil {
			return err
		}
		if err := a.closeBoxes(ctx, boxes, handled); err != nil {
			return err
		}
	}
	return nil
}

// closeBoxes closes mailboxes that are handled, unless their head has risen since they were read.
func (a *Archive) closeBoxes(ctx context.Context, boxes []*box, handled map[string]int64) error {
	var updates []mongo.WriteModel
	for _, b := range boxes {
		if handled[b.Key] < b.Head {
			continue
		}
		updates = append(updates, mongo.NewUpdateOneModel().
			SetFilter(bson.D{{Key: "_id", Value: b.Key}, {Key: "head", Value: b.Head}}).
			SetUpdate(bson.D{{Key: "$unset", Value: bson.D{{Key: "open", Value: ""}}}}))
	}
	if len(updates) == 0 {
		return nil
	}
	_, err := a.mailboxes.BulkWrite(ctx, updates, options.BulkWrite().SetOrdered(false))
	return err
}

// boxes reads mailboxes in the order of their tokens, at most limit (0: all).
func (a *Archive) boxes(ctx context.Context, filter bson.D, limit int64) (boxes []*box, err error) {
	cursor, err := a.mailboxes.Find(ctx, filter, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(limit).
		SetProjection(bson.D{{Key: "head", Value: 1}}))
	if err != nil {
		return nil, err
	}
	err = each(ctx, cursor, func(b *box) (bool, error) {
		boxes = append(boxes, b)
		return true, nil
	})
	return boxes, err
}

// handled is the highest cursor of the user's own devices in each of some users' mailboxes.
func (a *Archive) handled(ctx context.Context, boxes []*box) (map[string]int64, error) {
	tokens := make([]string, len(boxes))
	for i, b := range boxes {
		tokens[i] = b.Key
	}
	handled := map[string]int64{}
	return handled, a.eachDevice(ctx, tokens, func(s *standing) { handled[s.Address] = max(handled[s.Address], s.Seq) })
}
