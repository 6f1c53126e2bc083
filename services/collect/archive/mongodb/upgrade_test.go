package mongodb_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// before writes a database as the version before the ledger did: an archive of two partitions, in it the messages of a
// mailbox and the cursors of devices.
func (d database) before(to subject.Address, messages int, cursors map[string]int64) {
	d.t.Helper()
	tokens := to.Tokens()
	d.archivedBefore(to, messages, time.Hour)
	for device, seq := range cursors {
		_, err := d.Collection("cursors").InsertOne(d.t.Context(), bson.D{
			{Key: "_id", Value: to.Tenant + "/" + to.ID + "/" + tokens + "/" + device},
			{Key: "tenant", Value: to.Tenant},
			{Key: "user", Value: to.ID},
			{Key: "address", Value: tokens},
			{Key: "device", Value: device},
			{Key: "seq", Value: seq},
			{Key: "at", Value: int64(5)},
		})
		must(d.t, err)
	}
}

// archivedBefore writes messages of some age.
func (d database) archivedBefore(to subject.Address, messages int, age time.Duration) {
	d.t.Helper()
	tokens := to.Tokens()
	hash := (&message.Message{Payload: []byte("1")}).Hash()
	for seq := int64(1); seq <= int64(messages); seq++ {
		_, err := d.Collection("messages").InsertOne(d.t.Context(), bson.D{
			{Key: "_id", Value: fmt.Sprintf("%s/%020d", tokens, seq)},
			{Key: "address", Value: tokens},
			{Key: "seq", Value: seq},
			{Key: "id", Value: fmt.Sprint("old-", seq)},
			{Key: "partition", Value: int64(subject.Partition(to, 2))},
			{Key: "archived", Value: time.Now().Add(-age).UnixMilli()},
			{Key: "at", Value: int64(1)},
			{Key: "expires", Value: int64(0)},
			{Key: "hash", Value: hash[:]},
			{Key: "why", Value: ""},
			{Key: "payload", Value: []byte("1")},
		})
		must(d.t, err)
	}
}

func TestADatabaseOfBeforeTheLedger(t *testing.T) {
	d := newDatabase(t, startServer(t))
	alice, bob, carol := subject.UserAddress("default", "alice"), subject.UserAddress("default", "bob"), subject.UserAddress("default", "carol")
	news := subject.Address{Tenant: "default", Kind: subject.Topic, ID: "news"}
	d.before(alice, 4, map[string]int64{"phone": 3, "tablet": 1})
	d.before(bob, 2, map[string]int64{"phone": 2})
	d.before(carol, 2, nil)
	d.before(news, 3, nil)
	const more = 60 // than one chunk
	for i := range more {
		d.before(subject.UserAddress("default", fmt.Sprint("user-", i)), 1, map[string]int64{"phone": 1})
	}
	_, err := d.Collection("facts").InsertOne(t.Context(), bson.D{
		{Key: "_id", Value: "facts"}, {Key: "epoch", Value: "of before"}, {Key: "partitions", Value: 2},
	})
	must(t, err)

	const pending = "user:alice/4=old-4 user:carol/1=old-1 user:carol/2=old-2"
	var group sync.WaitGroup
	for range 3 { // processes that upgrade it at once
		a := d.opened()
		group.Go(func() {
			if a.Facts().Epoch != "of before" {
				t.Errorf("the facts are %+v", a.Facts())
			}
			expectPending(t, a, pending) // waits for the upgrade
		})
	}
	group.Wait()
	d.becomes(bob, box{Head: 2})
	d.becomes(carol, box{Head: 2, Open: true})
	d.becomes(news, box{Head: 3})
	listed, err := d.Collection("mailboxes").CountDocuments(t.Context(), bson.D{})
	must(t, err)
	if listed != more+4 {
		t.Errorf("%d mailboxes are listed; want %d", listed, more+4)
	}
	upgraded, err := d.Collection("facts").CountDocuments(t.Context(), bson.D{{Key: "ledger", Value: int64(1)}})
	must(t, err)
	if upgraded != 1 {
		t.Error("the facts don't say that it was upgraded")
	}

	dave := subject.UserAddress("default", "dave") // to whom a process of before has archived something since
	d.archivedBefore(dave, 1, 5*time.Minute)
	upgradedAt := bson.D{{Key: "$set", Value: bson.D{{Key: "upgraded", Value: time.Now().Add(-10 * time.Minute).UnixMilli()}}}}
	_, err = d.Collection("facts").UpdateMany(t.Context(), bson.D{}, upgradedAt)
	must(t, err)

	a := d.opened()
	expectPending(t, a, pending+" user:dave/1=old-1")
	acknowledge(t, a, dave, "phone", 1)
	devices, err := a.Devices(t.Context(), "default", "alice")
	must(t, err)
	if want := (archive.Device{Device: "phone", To: alice, Cursor: 3, At: 5}); len(devices) != 2 || devices[0] != want {
		t.Errorf("the devices are %+v; want %+v first", devices, want)
	}
	acknowledge(t, a, alice, "tablet", 4)
	expectPending(t, a, "user:carol/1=old-1 user:carol/2=old-2")
	m := &message.Message{To: alice, ID: "new", At: 1, Receipt: true, Payload: []byte("1")}
	outcomes, err := a.Append(t.Context(), subject.Partition(alice, 2), []*message.Message{m}, nil)
	must(t, err)
	if outcomes[0].Message.Seq != 5 {
		t.Errorf("a new message is %d", outcomes[0].Message.Seq)
	}
	asked, err := a.Asked(t.Context(), []history.Cursor{{Tenant: "default", User: "alice", Device: "phone", Address: alice.Tokens(), Seq: 5, At: 9}})
	must(t, err)
	if len(asked) != 1 || asked[0].Message.ID != "new" || asked[0].State != message.StateDelivered {
		t.Errorf("asked: %+v", asked)
	}
	found, _, err := a.Find(t.Context(), "default", "old-2", 10)
	must(t, err)
	if len(found) != 4 {
		t.Errorf("found %d messages; want 4", len(found))
	}
	rows, _, err := a.Scan(t.Context(), subject.Partition(bob, 2), 0, time.Now().UnixMilli(), "", 100)
	must(t, err)
	if len(rows) == 0 || rows[0].Size != 0 {
		t.Errorf("scanned %+v", rows)
	}
	if _, err := a.Pending(t.Context(), admin.Filter{User: "alice", Device: "phone"}, admin.Place{}, 0, 10); err != nil {
		t.Error(err)
	}
}

// Who restores a backup removes the facts, so that the archive gets another epoch. The mailboxes may have been saved before
// the messages.
func TestADatabaseThatWasRestored(t *testing.T) {
	d := newDatabase(t, startServer(t))
	alice := subject.UserAddress("default", "alice")
	a := d.open()
	before := a.Facts().Epoch
	acknowledge(t, a, alice, "phone", 0)
	fill(t, a, alice, "a", "b")
	must(t, a.Close())
	for collection, update := range map[string]bson.D{
		"messages":  {{Key: "$set", Value: bson.D{{Key: "archived", Value: time.Now().Add(-time.Hour).UnixMilli()}}}},
		"mailboxes": {{Key: "$set", Value: bson.D{{Key: "head", Value: int64(0)}}}, {Key: "$unset", Value: bson.D{{Key: "open", Value: ""}}}},
	} {
		_, err := d.Collection(collection).UpdateMany(t.Context(), bson.D{}, update)
		must(t, err)
	}
	must(t, d.Collection("facts").Drop(t.Context()))
	a = d.opened()
	if a.Facts().Epoch == before {
		t.Error("it has the epoch that it had")
	}
	expectPending(t, a, "user:alice/1=a user:alice/2=b")
}
