package collect

import (
	"net/http"
	"sync"
	"testing"

	"connectrpc.com/connect"

	"github.com/weftpush/weft/shared/problem"
)

// Over HTTP/1.1 as well what was read before a message that fails is archived: that nothing more is read must not count as a
// publisher who has left.
func TestStreamOverHTTP1NamesTheFirstThatFailed(t *testing.T) {
	c := newCounterOf(t)
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	c.client = &http.Client{Transport: transport}
	o := c.owner()
	s := c.stream("good", connect.WithGRPCWeb())
	send(s, "user:alice", "0", "1")
	send(s, "user:bob", "1", "1")
	var err error
	var closing sync.WaitGroup
	closing.Go(func() { _, err = s.receipts() })
	under := map[string]*asked{}
	for range 2 {
		a := o.next(t)
		under[a.ID] = a
	}
	under["1"].refused(problem.Conflict)
	c.eventually("bob's is let go", func() bool { return len(c.service.streamed) <= 1 })
	under["0"].archived()
	closing.Wait()
	failed(t, err, connect.CodeFailedPrecondition, problem.Conflict, 1, 1)
}
