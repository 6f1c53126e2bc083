package push

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/services/push/demo"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/rpc"
	"github.com/weftpush/weft/shared/subject"
)

// serveDemo adds the demo page, and the way to a token for it. Who gets a token is auth's decision: it answers only
// where it was started with -auth-issue, which is for a laptop.
func (n *Service) serveDemo(mux *http.ServeMux) {
	page := demo.Handler()
	mux.Handle("GET /demo", page)
	mux.Handle("GET /demo/", page)
	mux.HandleFunc("POST /demo/token", n.demoToken)
}

// demoToken passes the page's request on to auth. Another site's page can send it but not read the answer.
func (n *Service) demoToken(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 4<<10))
	if err != nil {
		http.Error(w, "the request is too large", http.StatusRequestEntityTooLarge)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	answer, err := rpc.Send(ctx, n.nc, &nats.Msg{Subject: subject.AuthIssue, Data: body})
	switch p := problem.From(err); {
	case err == nil:
	case p.Code == problem.Unavailable: // nobody listens there unless told to
		http.Error(w, "auth gives no tokens to whoever asks; bring one", http.StatusNotFound)
		return
	default:
		http.Error(w, p.Message, p.Status())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(answer.Data)
}
