package push

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/proto/weft/v1/weftv1connect"
	"github.com/weftpush/weft/shared/protocol"
)

// preflightAge is how long a browser may remember that a page may ask.
const preflightAge = 10 * time.Minute

// handler serves the doors, and the demo if told to. What is served lives until ctx ends: WebSockets do not end with their
// request.
func (n *Service) handler(ctx context.Context) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET "+protocol.Path, n.acceptor(ctx))
	mux.Handle(protocol.PathSSE, n.crossOrigin(http.MethodGet, n.sse(ctx)))
	mux.Handle(protocol.PathAck, n.crossOrigin(http.MethodPost, http.HandlerFunc(n.takeAcks)))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `A push node of Weft. Its doors:
  GET  %s   WebSocket, subprotocol %s
  GET  %s  Server-Sent Events: curl -N -H "Authorization: Bearer <token>" "http://<here>%s?device=<name>&topic=<topic>"
  POST %s  acknowledges what came over them: {"seq":7} or {"ch":"topic:news","seq":3}
  %s, as gRPC, gRPC-Web and Connect: grpcurl -plaintext <here> describe
  GET  /demo    the demo, where it is on
`, protocol.Path, protocol.Name, protocol.PathSSE, protocol.PathSSE, protocol.PathAck, weftv1connect.PushServiceName)
	})
	n.serveGRPC(ctx, mux)
	if n.cfg.Demo {
		n.serveDemo(mux)
	}
	return mux
}

// mayConnect says whether the page that asks may connect. Programs send no Origin; they need a token like everybody,
// which no browser adds by itself, so a missing Origin gives nothing away.
func (n *Service) mayConnect(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" || n.cfg.Origins == "*" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && (strings.EqualFold(u.Host, r.Host) || slices.Contains(strings.Split(n.cfg.Origins, ","), origin))
}

// crossOrigin serves a door of one method to programs, to the node's own pages and to those of -origins, whose browsers
// ask first whether they may send a token.
func (n *Service) crossOrigin(method string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Add("Vary", "Origin")
		if !n.mayConnect(r) {
			refuseHTTP(w, problem.New(problem.Forbidden, "pages of %s may not connect; the operator can let them with -origins", r.Header.Get("Origin")).In("Origin"))
			return
		}
		if origin := r.Header.Get("Origin"); origin != "" {
			h.Set("Access-Control-Allow-Origin", origin)
			h.Set("Access-Control-Expose-Headers", "Retry-After, "+callAnswers)
		}
		switch r.Method {
		case method:
			next.ServeHTTP(w, r)
		case http.MethodOptions:
			h.Set("Access-Control-Allow-Methods", method)
			h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Cache-Control, "+protocol.LastEventID+", "+callHeaders)
			h.Set("Access-Control-Max-Age", fmt.Sprint(int(preflightAge.Seconds())))
			w.WriteHeader(http.StatusNoContent)
		default:
			h.Set("Allow", method+", OPTIONS")
			http.Error(w, "this door takes "+method, http.StatusMethodNotAllowed)
		}
	})
}

// authorization is the token of a request's Authorization header.
func authorization(h http.Header) string {
	if scheme, token, ok := strings.Cut(h.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		return token
	}
	return ""
}

// refuseHTTP answers a request that gets no session with the problem.
func refuseHTTP(w http.ResponseWriter, err error) {
	p := problem.From(err)
	h, status := w.Header(), p.Status()
	switch {
	case p.Code == problem.BadHeader: // of the request itself; elsewhere it is a message's
		status = http.StatusBadRequest
	case status == http.StatusUnauthorized:
		h.Set("WWW-Authenticate", "Bearer")
	}
	if p.Retry {
		h.Set("Retry-After", "1")
	}
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false) // people read it in a terminal
	_ = e.Encode(p)        // fails when the client is gone
}
