package mongodb_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// command is what a driver asks its server.
type command struct {
	name, collection string
	body             bson.Raw
	batch            []bson.Raw // documents, updates or deletes that came beside the body
}

// change alters the answer to a command that the server has done.
type change func(answer bson.D) bson.D

// wire is a network between drivers and their server, at which somebody listens, holds commands up and alters answers.
type wire struct {
	t        *testing.T
	listener net.Listener
	target   string
	running  sync.WaitGroup
	mu       sync.Mutex // protects the rest
	meddle   func(command) change
	conns    []net.Conn
}

// tap puts a wire before a server, and returns the URI of its near end.
func tap(t *testing.T, uri string, meddle func(command) change) (*wire, string) {
	t.Helper()
	far, err := url.Parse(uri)
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	w := &wire{t: t, listener: l, target: far.Host, meddle: meddle}
	w.running.Go(w.accept)
	t.Cleanup(func() {
		_ = l.Close()
		w.mu.Lock()
		for _, c := range w.conns {
			_ = c.Close()
		}
		w.mu.Unlock()
		w.running.Wait()
	})
	far.Host = l.Addr().String()
	return w, far.String()
}

// set has another meddle from now on.
func (w *wire) set(meddle func(command) change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.meddle = meddle
}

func (w *wire) accept() {
	for {
		client, err := w.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", w.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		w.mu.Lock()
		w.conns = append(w.conns, client, server)
		w.mu.Unlock()
		changes := new(sync.Map) // by the id of the request
		w.running.Go(func() { w.pass(server, client, func(m []byte) []byte { return w.ask(m, changes) }) })
		w.running.Go(func() { w.pass(client, server, func(m []byte) []byte { return w.answer(m, changes) }) })
	}
}

// pass hands messages on until one end is gone.
func (w *wire) pass(to, from net.Conn, through func([]byte) []byte) {
	defer func() { _, _ = to.Close(), from.Close() }()
	for {
		size := make([]byte, 4)
		if _, err := io.ReadFull(from, size); err != nil {
			return
		}
		message := make([]byte, binary.LittleEndian.Uint32(size))
		copy(message, size)
		if _, err := io.ReadFull(from, message[len(size):]); err != nil {
			return
		}
		if _, err := to.Write(through(message)); err != nil {
			return
		}
	}
}

func (w *wire) ask(message []byte, changes *sync.Map) []byte {
	c, err := parse(message)
	if err != nil {
		return message
	}
	w.mu.Lock()
	meddle := w.meddle
	w.mu.Unlock()
	if meddle == nil {
		return message
	}
	if change := meddle(c); change != nil {
		changes.Store(binary.LittleEndian.Uint32(message[4:]), change)
	}
	return message
}

func (w *wire) answer(message []byte, changes *sync.Map) []byte {
	alter, ok := changes.LoadAndDelete(binary.LittleEndian.Uint32(message[8:]))
	if !ok {
		return message
	}
	var answer bson.D
	err := bson.Unmarshal(message[bodyAt:], &answer)
	var body []byte
	if err == nil {
		body, err = bson.Marshal(alter.(change)(answer))
	}
	if err != nil {
		w.t.Errorf("an answer can't be altered: %v", err)
		return message
	}
	altered := append(message[:bodyAt:bodyAt], body...)
	binary.LittleEndian.PutUint32(altered, uint32(len(altered)))
	return altered
}

const bodyAt = 16 + 4 + 1 // after header, flags and the kind of the first section

var errOther = errors.New("not a command that the tests look at")

// parse reads an OP_MSG.
func parse(message []byte) (c command, err error) {
	const opMsg = 2013
	if len(message) <= bodyAt || binary.LittleEndian.Uint32(message[12:]) != opMsg || message[bodyAt-1] != 0 {
		return c, errOther
	}
	rest := message[bodyAt:]
	size := binary.LittleEndian.Uint32(rest)
	c.body, rest = bson.Raw(rest[:size]), rest[size:]
	elements, err := c.body.Elements()
	if err != nil || len(elements) == 0 {
		return c, errOther
	}
	c.name = elements[0].Key()
	c.collection, _ = elements[0].Value().StringValueOK()
	for len(rest) > 5 && rest[0] == 1 {
		size := binary.LittleEndian.Uint32(rest[1:])
		section := rest[5 : 1+size]
		rest = rest[1+size:]
		for section[0] != 0 { // its name
			section = section[1:]
		}
		for section = section[1:]; len(section) > 0; {
			n := binary.LittleEndian.Uint32(section)
			c.batch, section = append(c.batch, bson.Raw(section[:n])), section[n:]
		}
	}
	return c, nil
}

// once meddles with the first command of a name to a collection, and calls then.
func once(name, collection string, then func() change) func(command) change {
	var first sync.Once
	return func(c command) (alter change) {
		if c.name == name && c.collection == collection {
			first.Do(func() { alter = then() })
		}
		return alter
	}
}

// failing adds an error to an answer.
func failing(key string, value any) change {
	return func(answer bson.D) bson.D { return append(answer, bson.E{Key: key, Value: value}) }
}

// notConfirmed is what a primary says that does not hear from the majority.
func notConfirmed() change {
	return failing("writeConcernError", bson.D{{Key: "code", Value: int32(64)}, {Key: "errmsg", Value: "waiting for replication timed out"}})
}

// taken is what a server says of an upsert that another one came before.
func taken() change {
	return failing("writeErrors", bson.A{bson.D{
		{Key: "index", Value: int32(0)},
		{Key: "code", Value: int32(11000)},
		{Key: "errmsg", Value: "E11000 duplicate key error"},
	}})
}
