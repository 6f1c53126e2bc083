package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	connectgo "connectrpc.com/connect"

	"github.com/weftpush/weft/services/weft/chaos/record"
	"github.com/weftpush/weft/shared/client"
	"github.com/weftpush/weft/shared/problem"
	detail "github.com/weftpush/weft/shared/proto/refusal"
	weftv1 "github.com/weftpush/weft/shared/proto/weft/v1"
	"github.com/weftpush/weft/shared/proto/weft/v1/weftv1connect"
	"github.com/weftpush/weft/shared/subject"
)

const (
	// tryMost is how long one request may take before it is sent again. The stream door's tries are the client's.
	tryMost = 3 * time.Second
	// tryPause is the longest pause between two tries.
	tryPause = time.Second
	// answerMost is how much of an HTTP answer is read, in bytes.
	answerMost = 64 << 10
)

// post is a message on its way to a door.
type post struct {
	to      subject.Address
	id      string
	ttl     time.Duration // 0 for never
	payload []byte
}

// send drives a message through the operation's door until it is taken, refused for good, or ctx ends, and notes the
// tries and the sequence. The error is client.ErrUnknown when it may have been taken.
func (w *writer) send(ctx context.Context, op *record.Op, p post) error {
	switch op.Door {
	case record.Stream:
		ack, err := w.publisher.Publish(ctx, p.to, p.payload, p.options()...)
		op.Tries = ack.Tries
		if refusal := problem.From(err); err != nil && refusal.Retry {
			return errors.Join(client.ErrUnknown, err) // to be on the safe side: nobody refused it for good
		}
		return err
	case record.Request:
		return insist(ctx, op, func(ctx context.Context) (uint64, error) {
			receipt, err := w.publisher.Request(ctx, p.to, p.payload, p.options()...)
			return receipt.Seq, err
		})
	case record.GRPC:
		return insist(ctx, op, func(ctx context.Context) (uint64, error) {
			return w.call(ctx, p, w.o.Collect[rand.IntN(len(w.o.Collect))]) //nolint:gosec // any of them
		})
	default:
		return insist(ctx, op, func(ctx context.Context) (uint64, error) {
			return w.postHTTP(ctx, p, w.o.Collect[rand.IntN(len(w.o.Collect))]) //nolint:gosec // any of them
		})
	}
}

func (p *post) options() []client.Option {
	options := []client.Option{client.WithID(p.id)}
	if p.ttl > 0 {
		options = append(options, client.WithTTL(p.ttl))
	}
	return options
}

// insist tries until the answer is final or ctx ends. A message of which some try was not answered, or with "try
// again", may have been taken, whatever a later answer says.
func insist(ctx context.Context, op *record.Op, try func(context.Context) (uint64, error)) error {
	var doubt bool
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, tryPause) {
		op.Tries++
		attempt, cancel := context.WithTimeout(ctx, tryMost)
		seq, err := try(attempt)
		cancel()
		if err == nil {
			op.Seq = seq
			return nil
		}
		refusal, refused := errors.AsType[*problem.Problem](err)
		again := !refused || refusal.Retry || refusal.Code == problem.InternalFault
		doubt = doubt || again
		if !again || wait(ctx, time.Duration(rand.Int64N(int64(pause)))) != nil { //nolint:gosec // it only spreads tries
			if doubt {
				return errors.Join(client.ErrUnknown, err)
			}
			return err
		}
	}
}

// postHTTP posts a message once.
func (w *writer) postHTTP(ctx context.Context, p post, url string) (uint64, error) {
	body := fmt.Appendf(nil, `{"to":%q,"id":%q,`, p.to, p.id)
	if p.ttl > 0 {
		body = fmt.Appendf(body, `"ttl":%q,`, p.ttl)
	}
	body = append(append(append(body, `"data":`...), p.payload...), '}') // json.Marshal would change its bytes
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/messages", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Authorization", "Bearer "+w.token)
	response, err := w.http.Do(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }()
	said, err := io.ReadAll(io.LimitReader(response.Body, answerMost))
	if err != nil {
		return 0, err
	}
	if response.StatusCode != http.StatusOK {
		refusal := new(problem.Problem)
		if err := json.Unmarshal(said, refusal); err != nil || refusal.Code == "" {
			return 0, fmt.Errorf("HTTP status %d: %.200s", response.StatusCode, said)
		}
		return 0, refusal
	}
	var receipt client.Receipt
	if err := json.Unmarshal(said, &receipt); err != nil || receipt.Seq == 0 {
		return 0, errors.New("the receipt can't be read: " + strconv.Quote(string(said)))
	}
	return receipt.Seq, nil
}

// call publishes a message once over gRPC.
func (w *writer) call(ctx context.Context, p post, url string) (uint64, error) {
	request := &weftv1.PublishRequest{To: p.to.String(), Id: p.id, Data: p.payload}
	if p.ttl > 0 {
		request.Ttl = p.ttl.String()
	}
	receipt, err := weftv1connect.NewPublishServiceClient(w.http2, url, connectgo.WithGRPC()).Publish(authorized(ctx, w.token), request)
	if why, ok := detail.Detail[*weftv1.Problem](err); ok {
		return 0, &problem.Problem{Code: problem.Code(why.GetCode()), Message: why.GetMessage(), Field: why.GetField(), Retry: why.GetRetry()}
	}
	if err == nil && receipt.GetSeq() == 0 {
		err = fmt.Errorf("the receipt is %v", receipt)
	}
	return receipt.GetSeq(), err
}

// codeOf is a problem's code, or the error in words.
func codeOf(err error) string {
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		return string(p.Code)
	}
	return err.Error()
}
