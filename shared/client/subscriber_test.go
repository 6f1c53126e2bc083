package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/problem"
	"github.com/weftpush/weft/shared/protocol"
)

func TestAMessageArrivesAsItWasPublished(t *testing.T) {
	url := serve(t, func(p *peer) {
		if p.hello.T != protocol.THello || p.hello.Device != "d" || p.token != "token" || len(p.hello.Topics) != 1 || p.hello.Topics[0] != "news" {
			t.Errorf("hello %+v with token %q", p.hello, p.token)
		}
		p.welcomeTo(welcome("e", map[string]uint64{"user:alice": 1, "topic:news": 9}))
		p.send(`{"t":"msg","seq":1,"id":"a","type":"greeting","at":1700000000123,"traceparent":"00-1","re":true,"data":{ "b":1,  "a":"ü\u00fc" }}`,
			`{"t":"msg","seq":9,"id":"b","at":1,"ch":"topic:news","content_type":"image/png","data64":"AP8="}`)
		p.gone()
	})
	l := listen(t, url, func(o *Options) { o.Topics = []string{"news"} })
	m := receive(t, l.got)
	if string(m.Data) != `{ "b":1,  "a":"ü\u00fc" }` || m.Address != "user:alice" || m.Type != "greeting" || m.ContentType != "application/json" ||
		m.At.UnixMilli() != 1700000000123 || m.TraceParent != "00-1" || !m.Again || m.ID != "a" {
		t.Errorf("got %+v", m)
	}
	m = receive(t, l.got)
	if string(m.Data) != "\x00\xff" || m.Address != "topic:news" || m.Seq != 9 || m.ContentType != "image/png" || m.Again {
		t.Errorf("got %+v", m)
	}
	l.end()
}

func TestResumesWhereItWas(t *testing.T) {
	url := serve(t,
		func(p *peer) {
			if len(p.hello.Cursors) != 0 || p.hello.Epoch != "" {
				t.Errorf("a new device says %+v", p.hello)
			}
			p.welcome(1)
			p.send(msg(1), msg(2))
			p.acked("", 2)
			_ = p.ws.NetConn().Close() // a dropped connection says nothing
		},
		func(p *peer) {
			if want := map[string]uint64{"user:alice": 2}; !maps.Equal(p.hello.Cursors, want) || p.hello.Epoch != "e" {
				t.Errorf("the second hello says %+v, want %v", p.hello, want)
			}
			p.welcome(3)
			p.send(msg(1), msg(2), msg(3), msg(3), msg(2), msg(4))
			p.acked("", 4)
			p.gone()
		})
	l := listen(t, url, nil)
	l.want(1, 2, 3, 4)
	l.end()
}

func TestAJumpWithoutAGapReconnects(t *testing.T) {
	url := serve(t,
		func(p *peer) {
			p.welcome(1)
			p.send(msg(1), msg(3))
			p.gone()
		},
		func(p *peer) {
			if p.hello.Cursors["user:alice"] > 1 {
				t.Errorf("the second hello says %v", p.hello.Cursors)
			}
			p.welcome(p.hello.Cursors["user:alice"] + 1)
			p.send(msg(1), msg(2), msg(3))
			p.gone()
		})
	l := listen(t, url, nil)
	l.want(1)
	if err := l.offline(); !errors.Is(err, ErrProtocol) {
		t.Errorf("offline because %v", err)
	}
	l.want(2, 3)
	l.end()
}

func TestAGapIsReportedAndAcknowledged(t *testing.T) {
	url := serve(t, func(p *peer) {
		p.welcome(1)
		p.send(`{"t":"gap","from":1,"to":4,"why":"expired"}`, `{"t":"gap","from":2,"to":3,"why":"expired"}`, msg(5))
		p.acked("", 5)
		p.gone()
	})
	l := listen(t, url, nil)
	l.want(5)
	if g := receive(t, l.gaps); g != (Gap{Address: "user:alice", From: 1, To: 4, Why: message.WhyExpired}) {
		t.Errorf("gap %+v", g)
	}
	if len(l.gaps) != 0 {
		t.Error("a gap that was known was reported again")
	}
	l.end()
}

func TestAnotherEpochBeginsAnew(t *testing.T) {
	url := serve(t,
		func(p *peer) {
			p.welcome(100)
			p.send(msg(100))
			p.acked("", 100)
		},
		func(p *peer) {
			p.welcomeTo(welcome("restored", map[string]uint64{"user:alice": 3}))
			p.send(`{"t":"gap","from":1,"to":2,"why":"epoch"}`, msg(3))
			p.acked("", 3)
			p.gone()
		})
	l := listen(t, url, nil)
	l.want(100, 3)
	if g := receive(t, l.gaps); g.Why != message.WhyEpoch {
		t.Errorf("gap %+v", g)
	}
	l.end()
}

func TestManyMessagesAreAcknowledgedTogether(t *testing.T) {
	const many = 10 * ackMost
	url := serve(t, func(p *peer) {
		p.welcome(1)
		for seq := range uint64(many) {
			p.send(msg(seq + 1))
		}
		// Every 64 messages at the earliest; one more for each 50 ms that the machine takes for all.
		if n := p.acked("", many); n > many/4 {
			t.Errorf("%d acknowledgements for %d messages", n, many)
		}
		p.gone()
	})
	l := listen(t, url, nil)
	for seq := range uint64(many) {
		l.want(seq + 1)
	}
	l.end()
}

func TestPingsAreAnsweredWhileTheHandlerWorks(t *testing.T) {
	release := make(chan struct{})
	url := serve(t, func(p *peer) {
		p.welcome(1)
		p.send(msg(1))
		for range 3 {
			p.send(`{"t":"ping"}`)
			if o, ok := p.read(); !ok || o.T != protocol.TPong {
				t.Errorf("a ping was answered with %+v", o)
			}
		}
		close(release)
		p.acked("", 1)
		p.gone()
	})
	ctx, cancel := context.WithTimeout(t.Context(), patienceOfTests)
	defer cancel()
	s, err := Dial(ctx, Options{URL: url, Device: "d", Token: func(context.Context) (string, error) { return "token", nil }})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Run(ctx, func(ctx context.Context, _ Message) error {
		defer cancel()
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			t.Error("no pings while the handler works")
			return ctx.Err()
		}
	})
	if err != nil {
		t.Error(err)
	}
}

func TestSilenceForTwoHeartbeatsReconnects(t *testing.T) {
	url := serve(t,
		func(p *peer) {
			w := welcome("e", map[string]uint64{"user:alice": 1})
			w.Heartbeat = 20
			p.welcomeTo(w)
			p.gone()
		},
		func(p *peer) {
			p.welcome(1)
			p.send(msg(1))
			p.gone()
		})
	l := listen(t, url, nil)
	if err := l.offline(); !strings.Contains(fmt.Sprint(err), "timeout") {
		t.Errorf("offline because %v", err)
	}
	l.want(1)
	l.end()
}

func TestFatalCloseCodesEndRun(t *testing.T) {
	for _, code := range []protocol.CloseCode{protocol.CloseProtocol, protocol.CloseForbidden, protocol.CloseReplaced, protocol.CloseTooLarge} {
		t.Run(fmt.Sprint(int(code)), func(t *testing.T) {
			url := serve(t, func(p *peer) {
				p.welcome(1)
				p.send(`{"t":"error","code":"replaced","message":"somebody else came"}`)
				p.close(code)
				p.gone()
			})
			l := listen(t, url, nil)
			err := receive(t, l.ended)
			closed, ok := errors.AsType[*Closed](err)
			if !ok || closed.Code != code || !errors.Is(err, problem.New(problem.Replaced, "")) || !strings.Contains(err.Error(), "somebody else came") {
				t.Errorf("Run returned %v", err)
			}
		})
	}
}

func TestOtherCloseCodesReconnectWithAFreshToken(t *testing.T) {
	for _, code := range []protocol.CloseCode{
		protocol.CloseToken, protocol.CloseSlow, protocol.CloseBackOff, protocol.CloseDraining, protocol.CloseNormal, websocket.CloseGoingAway,
	} {
		t.Run(fmt.Sprint(int(code)), func(t *testing.T) {
			url := serve(t,
				func(p *peer) { p.welcome(1); p.close(code); p.gone() },
				func(p *peer) {
					if p.token != "token 2" {
						t.Errorf("the second connection shows %q", p.token)
					}
					p.welcome(1)
					p.send(msg(1))
					p.gone()
				})
			n := 0
			l := listen(t, url, func(o *Options) {
				o.Token = func(context.Context) (string, error) { n++; return fmt.Sprint("token ", n), nil }
			})
			if closed, ok := errors.AsType[*Closed](l.offline()); !ok || closed.Code != code {
				t.Errorf("closed %+v", closed)
			}
			l.want(1)
			l.end()
		})
	}
}

func TestGarbageReconnects(t *testing.T) {
	for name, garbage := range map[string]func(p *peer){
		"no JSON":         func(p *peer) { p.send("hello") },
		"half an object":  func(p *peer) { p.send(`{"t":"msg","seq":1,"data":`) },
		"no data":         func(p *peer) { p.send(`{"t":"msg","seq":1,"id":"x","at":1}`) },
		"no sequence":     func(p *peer) { p.send(`{"t":"msg","id":"x","at":1,"data":1}`) },
		"foreign mailbox": func(p *peer) { p.send(`{"t":"msg","seq":1,"ch":"user:bob","id":"x","at":1,"data":1}`) },
		"backward gap":    func(p *peer) { p.send(`{"t":"gap","from":1,"to":0,"why":"expired"}`) },
		"binary":          func(p *peer) { _ = p.ws.WriteMessage(websocket.BinaryMessage, []byte(msg(1))) },
	} {
		t.Run(name, func(t *testing.T) {
			url := serve(t,
				func(p *peer) { p.welcome(1); garbage(p); p.gone() },
				func(p *peer) { p.welcome(1); p.send(`{"t":"news"}`, `null`, ``, msg(1)); p.gone() })
			l := listen(t, url, nil)
			if err := l.offline(); !errors.Is(err, ErrProtocol) {
				t.Errorf("offline because %v", err)
			}
			l.want(1) // what a later version may say is passed over
			l.end()
		})
	}
}

func TestDrainMovesWithoutLoss(t *testing.T) {
	url := serve(t,
		func(p *peer) {
			p.welcome(1)
			p.send(msg(1), `{"t":"drain","within":20}`)
			p.acked("", 1)
			p.gone()
		},
		func(p *peer) {
			p.welcome(p.hello.Cursors["user:alice"] + 1)
			p.send(msg(2))
			p.gone()
		})
	l := listen(t, url, nil)
	l.want(1)
	if s := l.pause(); !errors.Is(s.Err, errDrained) || s.Retry != 0 {
		t.Errorf("offline because %v for %s; the node has set the time already", s.Err, s.Retry)
	}
	l.want(2)
	l.end()
}

// slowStore saves when it is let go.
type slowStore struct {
	Memory

	saving, save chan struct{}
	fail         error
}

func (s *slowStore) Save(ctx context.Context, state State) error {
	if s.fail != nil {
		return s.fail
	}
	s.saving <- struct{}{}
	<-s.save
	return s.Memory.Save(ctx, state)
}

func TestCursorsAreSavedBeforeTheyAreAcknowledged(t *testing.T) {
	store := &slowStore{saving: make(chan struct{}), save: make(chan struct{})}
	url := serve(t, func(p *peer) {
		p.welcome(1)
		p.send(msg(1))
		<-store.saving
		for range 3 { // what is said before it is saved would come before the last pong
			p.send(`{"t":"ping"}`)
			if o, ok := p.read(); !ok || o.T != protocol.TPong {
				t.Errorf("before 1 is saved the client says %+v", o)
			}
		}
		store.save <- struct{}{}
		p.acked("", 1)
		p.gone()
	})
	l := listen(t, url, func(o *Options) { o.Cursors = store })
	l.want(1)
	l.end()
	if s, _ := store.Load(t.Context()); s.Epoch != "e" || s.Cursors["user:alice"] != 1 {
		t.Errorf("the store has %+v", s)
	}
}

func TestAFailingStoreEndsRun(t *testing.T) {
	url := serve(t, func(p *peer) {
		p.welcome(1)
		p.send(msg(1))
		if o, ok := p.read(); ok {
			t.Errorf("%+v was sent though it was not saved", o)
		}
	})
	l := listen(t, url, func(o *Options) { o.Cursors = &slowStore{fail: errBusy} })
	if err := receive(t, l.ended); !errors.Is(err, ErrStore) || !errors.Is(err, errBusy) {
		t.Errorf("Run returned %v", err)
	}
}

func TestWhatWasHandledIsAcknowledgedAtTheEnd(t *testing.T) {
	acked := make(chan struct{})
	url := serve(t, func(p *peer) {
		p.welcome(1)
		p.send(msg(1))
		p.acked("", 1)
		close(acked)
		p.gone()
	})
	ctx, cancel := context.WithCancel(t.Context())
	s, err := Dial(ctx, Options{URL: url, Device: "d", Token: func(context.Context) (string, error) { return "token", nil }})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(ctx, func(context.Context, Message) error { cancel(); return nil }); err != nil {
		t.Error(err)
	}
	receive(t, acked)
}

func TestDialSaysWhyItIsRefused(t *testing.T) {
	status := func(code int) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "because", code) }))
		t.Cleanup(server.Close)
		return server.URL
	}
	wordless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		upgrader := websocket.Upgrader{}
		if ws, err := upgrader.Upgrade(w, r, nil); err == nil {
			_ = ws.Close()
		}
	}))
	t.Cleanup(wordless.Close)
	refusing := serve(t, func(p *peer) {
		p.send(`{"t":"error","code":"token_expired","message":"get a fresh one"}`)
		p.close(protocol.CloseToken)
		p.gone()
	})
	odd := serve(t, func(p *peer) { p.send(`{"t":"welcome"}`); p.gone() })
	for name, c := range map[string]struct {
		url  string
		want string
	}{
		"401":            {status(401), "unauthorized: the server answered 401 to the handshake: because"},
		"403":            {status(403), "(4403)"},
		"404":            {status(404), "(4400)"},
		"429":            {status(429), "(4429)"},
		"503":            {status(503), "(4503)"},
		"no subprotocol": {wordless.URL, "does not speak weft.v1.json"},
		"bad token":      {refusing, "token_expired: get a fresh one"},
		"odd welcome":    {odd, "no user or no heartbeat"},
		"nobody":         {"ws://127.0.0.1:1", "refused"},
		"no URL":         {"", "is not ws://"},
	} {
		s, err := Dial(t.Context(), Options{URL: c.url, Device: "d", Token: func(context.Context) (string, error) { return "secret-token", nil }})
		if err == nil {
			s.Close()
		}
		if !strings.Contains(fmt.Sprint(err), c.want) || strings.Contains(fmt.Sprint(err), "secret-token") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestDialChecksItsOptions(t *testing.T) {
	token := func(context.Context) (string, error) { return "", errBusy }
	for name, c := range map[string]struct {
		options Options
		want    string
	}{
		"no token":      {Options{URL: "ws://x", Device: "d"}, "Options.Token"},
		"no device":     {Options{URL: "ws://x", Token: token}, "Options.Device"},
		"token fails":   {Options{URL: "ws://x", Token: token, Device: "d"}, "get a token: busy"},
		"cursors fail":  {Options{URL: "ws://x", Token: token, Device: "d", Cursors: brokenStore{}}, "the store"},
		"device is odd": {Options{URL: "ws://x", Token: token, Device: strings.Repeat("d", 200)}, "Options.Device"},
	} {
		if _, err := Dial(t.Context(), c.options); !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

type brokenStore struct{ *Memory }

func (brokenStore) Load(context.Context) (State, error) { return State{}, errBusy }

func TestCloseInsteadOfRun(t *testing.T) {
	left := make(chan struct{})
	url := serve(t, func(p *peer) { p.welcome(1); p.gone(); close(left) })
	s, err := Dial(t.Context(), Options{URL: url, Device: "d", Token: func(context.Context) (string, error) { return "token", nil }})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	receive(t, left)
}

func TestAServerThatKeepsBreakingTheProtocolIsLeftAloneMoreAndMore(t *testing.T) {
	url := serve(t, func(p *peer) { p.welcome(1); p.send("garbage"); p.gone() })
	s, err := Dial(t.Context(), Options{URL: url, Device: "d", Token: func(context.Context) (string, error) { return "token", nil }})
	if err != nil {
		t.Fatal(err)
	}
	if lasted, err := s.once(t.Context(), t.Context(), s.first); !errors.Is(err, ErrProtocol) || lasted != 0 {
		t.Errorf("error %v after %s, which counts as fine", err, lasted)
	}
}
