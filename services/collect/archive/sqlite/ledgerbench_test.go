package sqlite_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/weftpush/weft/services/collect/archive"
	"github.com/weftpush/weft/shared/history"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/subject"
)

// BenchmarkAdvance acknowledges in batches, as collect takes them from the stream: each cursor of another user, who has
// one device.
func BenchmarkAdvance(b *testing.B) {
	const users = 20 * batchSize
	a := open(b, filepath.Join(b.TempDir(), "weft.db"))
	for n := range users / batchSize {
		messages := make([]*message.Message, batchSize)
		for i := range messages {
			to := subject.UserAddress("default", fmt.Sprint("user-", n*batchSize+i))
			messages[i] = &message.Message{To: to, ID: "1", ContentType: message.JSON, At: 1, Payload: []byte("1")}
			request := history.OpenRequest{Tenant: "default", User: to.ID, Device: "phone", Addresses: []string{to.Tokens()}}
			if _, err := a.Open(b.Context(), request); err != nil {
				b.Fatal(err)
			}
		}
		appendBatch(b, a, 0, messages, archive.Heads{})
	}
	cursors, n := make([]history.Cursor, batchSize), 0
	for b.Loop() {
		for i := range cursors {
			user := fmt.Sprint("user-", (n*batchSize+i)%users)
			cursors[i] = history.Cursor{
				Tenant: "default", User: user, Device: "phone", Address: subject.UserAddress("default", user).Tokens(), Seq: uint64(2 + n/(users/batchSize)),
			}
		}
		if err := a.Advance(b.Context(), cursors); err != nil {
			b.Fatal(err)
		}
		n++
	}
	rate(b, n)
}
