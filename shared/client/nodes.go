package client

import (
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/weftpush/weft/shared/protocol"
)

const (
	// reconnectMost is the longest pause between two connections, unless a server asks for more.
	reconnectMost = 30 * time.Second
	// fineAfter is how long a connection has to last for the next one to be made quickly. A server that welcomes
	// everybody and ends at once is left alone more and more.
	fineAfter = 5 * time.Second
	// backOffLeast is how long a node that said 4429 or 429, and not for how long, is left alone.
	backOffLeast = time.Second
	// retryAfterMost is the longest Retry-After that is believed.
	retryAfterMost = 5 * time.Minute
)

// nodes are the push nodes that a device may connect to, which of them is next, and when. It belongs to one goroutine.
type nodes struct {
	urls  []string
	free  []time.Time // when each may be asked again; zero for now
	at    int         // the one that is asked, or was last
	pause backoff
}

// newNodes reads one or several URLs, separated by commas. The order is theirs or, if it does not count, random: the
// devices of a node that dies spread over all the others.
func newNodes(list string, inOrder bool) (*nodes, error) {
	var urls []string
	for raw := range strings.SplitSeq(list, ",") {
		url, err := endpoint(strings.TrimSpace(raw))
		if err != nil {
			return nil, err
		}
		urls = append(urls, url)
	}
	if !inOrder {
		rand.Shuffle(len(urls), func(i, j int) { urls[i], urls[j] = urls[j], urls[i] }) //nolint:gosec // nobody gains by guessing it
	}
	return &nodes{urls: urls, free: make([]time.Time, len(urls)), pause: backoff{most: reconnectMost, round: len(urls)}}, nil
}

// url is the node to connect to.
func (n *nodes) url() string { return n.urls[n.at] }

// move chooses the node after the one whose connection, which lasted so long, has ended with err, and returns the
// pause before it. The first pause after a connection that was fine is up to 250 ms; it doubles each time that all
// nodes have failed. A node that wants to be left alone is passed over while there is another.
func (n *nodes) move(err error, lasted time.Duration, now time.Time) time.Duration {
	var pause time.Duration
	if lasted >= fineAfter {
		n.pause.reset()
	}
	if !errors.Is(err, errDrained) { // its moment was a random one already
		pause = n.pause.next()
	}
	n.free[n.at] = now.Add(leaveAlone(err))
	n.at = n.nextFree(now.Add(pause))
	if alone := n.free[n.at].Sub(now); alone > pause {
		return alone + pause // those who were refused together must not come back together
	}
	return pause
}

// nextFree is the next node that may be asked at a moment, or the one that may be asked first.
func (n *nodes) nextFree(moment time.Time) int {
	best := -1
	for i := range n.urls {
		next := (n.at + 1 + i) % len(n.urls)
		if !n.free[next].After(moment) {
			return next
		}
		if best < 0 || n.free[next].Before(n.free[best]) {
			best = next
		}
	}
	return best
}

// leaveAlone is how long a node does not want to be asked again, by the way it ended a connection.
func leaveAlone(err error) time.Duration {
	closed, ok := errors.AsType[*Closed](err)
	switch {
	case !ok:
		return 0
	case closed.RetryAfter > 0:
		return min(closed.RetryAfter, retryAfterMost)
	case closed.Code == protocol.CloseBackOff:
		return backOffLeast
	default:
		return 0
	}
}
