package mongodb_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/services/collect/archive/mongodb"
	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/ledger"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// database is one database, as processes open it and as somebody sees it who looks into it.
type database struct {
	*mongo.Database
	t   *testing.T
	uri string
}

// startServer is the server that is named, or FerretDB.
func startServer(t *testing.T) string {
	t.Helper()
	if uri := os.Getenv("WEFT_TEST_MONGODB_URI"); uri != "" {
		return uri
	}
	return startFerretDB(t)
}

func newDatabase(t *testing.T, uri string) database {
	t.Helper()
	client, err := mongo.Connect(options.Client().ApplyURI(uri))
	must(t, err)
	d := database{client.Database("weft_test_" + strings.ToLower(rand.Text())), t, uri}
	t.Cleanup(func() {
		must(t, d.Drop(context.Background()))
		must(t, client.Disconnect(context.Background()))
	})
	return d
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (d database) open() archive.Archive {
	d.t.Helper()
	a, err := mongodb.Open(d.t.Context(), d.uri, d.Name(), archive.Facts{Partitions: 2})
	must(d.t, err)
	return a
}

// opened is closed at the end of the test.
func (d database) opened() archive.Archive {
	d.t.Helper()
	a := d.open()
	d.t.Cleanup(func() { must(d.t, a.Close()) })
	return a
}

// box is a mailbox as it is stored.
type box struct {
	Head int64 `bson:"head"`
	Open bool  `bson:"open"`
}

func (d database) box(to subject.Address) (b box) {
	d.t.Helper()
	err := d.Collection("mailboxes").FindOne(d.t.Context(), bson.D{{Key: "_id", Value: to.Tokens()}}).Decode(&b)
	if err != nil && err != mongo.ErrNoDocuments { //nolint:errorlint // the driver returns it bare
		d.t.Fatal(err)
	}
	return b
}

// becomes waits until a mailbox is stored so.
func (d database) becomes(to subject.Address, want box) {
	d.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; <-tick.C {
		got := d.box(to)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("the mailbox %s is stored as %+v; want %+v", to, got, want)
		}
	}
}

func fill(t *testing.T, a archive.Archive, to subject.Address, ids ...string) {
	t.Helper()
	batch := make([]*message.Message, len(ids))
	for i, id := range ids {
		batch[i] = &message.Message{To: to, ID: id, At: time.Now().UnixMilli(), Payload: []byte("payload")}
	}
	_, err := a.Append(t.Context(), subject.Partition(to, 2), batch, nil)
	must(t, err)
}

func acknowledge(t *testing.T, a archive.Archive, to subject.Address, device string, seq uint64) {
	t.Helper()
	must(t, a.Advance(t.Context(), []history.Cursor{{Tenant: to.Tenant, User: to.ID, Device: device, Address: to.Tokens(), Seq: seq}}))
}

func expectPending(t *testing.T, a archive.Archive, want string) {
	t.Helper()
	rows, err := a.Pending(t.Context(), admin.Filter{}, admin.Place{}, time.Now().UnixMilli(), 100)
	if err != nil {
		t.Error(err)
	}
	var got []string
	for _, r := range rows {
		got = append(got, fmt.Sprintf("%s/%d=%s", r.Message.To, r.Message.Seq, r.Message.ID))
	}
	if strings.Join(got, " ") != want {
		t.Errorf("pending are %q; want %q", strings.Join(got, " "), want)
	}
}

func TestMailboxesAreAHint(t *testing.T) {
	uri := startServer(t)
	alice, bob := subject.UserAddress("default", "alice"), subject.UserAddress("default", "bob")
	news := subject.Address{Tenant: "default", Kind: subject.Topic, ID: "news"}

	t.Run("what another process has just stored is pending", func(t *testing.T) {
		d := newDatabase(t, uri)
		one, two := d.opened(), d.opened()
		expectPending(t, two, "")
		fill(t, one, alice, "a")
		expectPending(t, two, "user:alice/1=a")
		acknowledge(t, one, alice, "phone", 1)
		expectPending(t, two, "")
		fill(t, one, alice, "b")
		expectPending(t, two, "user:alice/2=b")
	})

	t.Run("it is written without being asked for, and closed once it is handled", func(t *testing.T) {
		d := newDatabase(t, uri)
		a := d.opened()
		fill(t, a, alice, "a", "b")
		fill(t, a, bob, "a")
		fill(t, a, news, "a")
		d.becomes(alice, box{Head: 2, Open: true})
		d.becomes(news, box{Head: 1}) // nobody walks topics
		acknowledge(t, a, alice, "phone", 2)
		d.becomes(alice, box{Head: 2})
		d.becomes(bob, box{Head: 1, Open: true})
		fill(t, a, alice, "c")
		d.becomes(alice, box{Head: 3, Open: true})
		expectPending(t, a, "user:alice/3=c user:bob/1=a")
	})

	t.Run("closing the archive writes it", func(t *testing.T) {
		d := newDatabase(t, uri)
		a := d.open()
		fill(t, a, alice, "a")
		must(t, a.Close())
		if got := d.box(alice); got != (box{Head: 1, Open: true}) {
			t.Errorf("the mailbox is stored as %+v", got)
		}
	})

	t.Run("who asks closes what was left open", func(t *testing.T) {
		d := newDatabase(t, uri)
		a := d.open()
		fill(t, a, alice, "a")
		must(t, a.Close())
		dead := d.open() // its notes die with it
		acknowledge(t, dead, alice, "phone", 1)
		expectPending(t, d.opened(), "")
		if got := d.box(alice); got != (box{Head: 1}) {
			t.Errorf("the mailbox is stored as %+v", got)
		}
		must(t, dead.Close())
	})

	t.Run("the next owner finds what died with the last", func(t *testing.T) {
		d := newDatabase(t, uri)
		a := d.open()
		fill(t, a, alice, "a")
		must(t, a.Close())
		_, err := d.Collection("mailboxes").DeleteMany(t.Context(), bson.D{})
		must(t, err)
		minute := time.Now().Add(-time.Minute).UnixMilli()
		_, err = d.Collection("messages").UpdateMany(t.Context(), bson.D{}, bson.D{{Key: "$set", Value: bson.D{{Key: "archived", Value: minute}}}})
		must(t, err)
		a = d.opened()
		expectPending(t, a, "") // too old to be looked for
		must(t, a.Since(t.Context(), subject.Partition(alice, 2), minute, func([]*message.Message) error { return nil }))
		expectPending(t, a, "user:alice/1=a")
	})

	t.Run("pending is in the order of addresses, not of keys", func(t *testing.T) {
		a := newDatabase(t, uri).opened()
		for _, id := range []string{"a-b", "a", "a.b"} {
			fill(t, a, subject.UserAddress("default", id), "1")
		}
		expectPending(t, a, "user:a.b/1=1 user:a/1=1 user:a-b/1=1") // =YS5i, a, a-b
	})

	t.Run("the first of the reports that cover a message counts", func(t *testing.T) {
		a := newDatabase(t, uri).opened()
		fill(t, a, alice, "1", "2", "3", "4")
		for at, r := range []ledger.Routed{{From: 1, To: 4}, {From: 2, To: 3}, {From: 3, To: 3}} {
			r.Address, r.At = alice.Tokens(), int64(at+1)
			must(t, a.Route(t.Context(), []ledger.Routed{r}))
		}
		for seq := range uint64(4) {
			steps, err := a.Steps(t.Context(), alice, seq+1)
			must(t, err)
			if steps.Routed == nil || steps.Routed.At != 1 {
				t.Errorf("%d was routed first as %+v", seq+1, steps.Routed)
			}
		}
	})
}
